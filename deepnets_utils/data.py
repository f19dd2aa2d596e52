"""The data sets as uint8 tensors: where they lie, whether they are whole, and how they get there."""

import contextlib
import hashlib
import importlib.util
import io
import os
import shutil
import socket
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnets_utils.datasets import CANONICAL, FOLDER, DataError
from deepnets_utils.files import locked
from deepnets_utils.paths import data_root

PROBE_SECONDS = 4.0  # with the imports of torch and torchvision, a missing network is noticed within 10 s
STALL_SECONDS = 20.0  # a transfer in which nothing arrives for so long has failed

# Sizes in bytes and md5 as their authors published them.
FILES: dict[str, dict[str, tuple[int, str]]] = {
    "mnist": {
        "train-images-idx3-ubyte": (47040016, "6bbc9ace898e44ae57da46a324031adb"),
        "train-labels-idx1-ubyte": (60008, "a25bea736e30d166cdddb491f175f624"),
        "t10k-images-idx3-ubyte": (7840016, "2646ac647ad5339dbf082846283269ea"),
        "t10k-labels-idx1-ubyte": (10008, "27ae3e4e09519cfbb04c329615203637"),
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": (47040016, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        "train-labels-idx1-ubyte": (60008, "9018921c3c673c538a1fc5bad174d6f9"),
        "t10k-images-idx3-ubyte": (7840016, "8181f5470baa50b63fa0f6fddb340f0a"),
        "t10k-labels-idx1-ubyte": (10008, "15d484375f8d13e6eb1aabb0c3f46965"),
    },
    "cifar10": {
        "data_batch_1": (31035704, "c99cafc152244af753f735de768cd75f"),
        "data_batch_2": (31035320, "d4bba439e000b95fd0a9bffe97cbabec"),
        "data_batch_3": (31035999, "54ebc095f3ab1f0389bbae665268c751"),
        "data_batch_4": (31035696, "634d18415352ddfa80567beed471001a"),
        "data_batch_5": (31035623, "482c414d41f54cd18b22e5b47cb7c3cb"),
        "test_batch": (31035526, "40351d587109b95175f43aff81a1287e"),
        "batches.meta": (158, "5ff9c542aee3614f3951f8cda6e48888"),
    },
}
DATA_SETS = tuple(CANONICAL)


class DataNotFound(DataError):
    """A file of the data set is not there."""


class DataDamaged(DataError):
    """A file of the data set, or what a server sent for it, is not the canonical one."""


@dataclass(frozen=True, eq=False)
class Images:
    """One data set as its authors published it: not shuffled, scaled or split further.

    Images are uint8 [N, channels, height, width] in 0..255 (one channel for grey), labels int64 [N] in 0..9.
    `fingerprint` is the sha256 (hex) of dtype, shape and bytes of the four arrays, in the order below.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    fingerprint: str


@cache
def load(name: str) -> Images:
    """Return the data set `name`, read once per process and equal to the canonical one; never download.

    All callers share the tensors: do not write to them. Raises ValueError for a name not in DATA_SETS,
    DataNotFound or DataDamaged with the file and the command that gets it.
    """
    root = data_root()
    _raise_fault(name, root, hashing=False)
    try:
        # The fingerprint covers every pixel and label, so files are hashed only to name the damaged one.
        return _verified(name, _read(name, root) if name in FILES else _enlarged_digits(name))
    except Exception:
        _raise_fault(name, root, hashing=True)
        raise


def present(name: str) -> bool:
    """Return whether every file of the data set is there with the right size (no hashing; embedded: True)."""
    return _fault(name, data_root(), hashing=False) is None


def embedded(name: str) -> str:
    """Return the embedded data set (scikit-learn's digits) that stands in for `name` (itself if embedded)."""
    _known(name)
    return {"mnist": "digits_28", "fashion_mnist": "digits_28", "cifar10": "digits_32"}.get(name, name)


def check(name: str) -> str:
    """Return "ready", "missing" or "damaged: <file>", with every file hashed (embedded: "ready")."""
    file, reason = _fault(name, data_root(), hashing=True) or ("", "ready")
    return reason if reason in ("ready", "missing") else f"damaged: {file}"


def download(name: str) -> None:
    """Get the data set through torchvision into data_root(), each file whole or not at all; no-op if all are whole.

    Downloads take turns; what a killed one left is removed by the next. Raises DataError when there is no
    network (within 10 s), a transfer stalls or the folder cannot be written, DataDamaged for wrong bytes.
    """
    if check(name) == "ready":
        return
    root = data_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=root):  # a lock waits for ever where no file can be made
            pass
        with locked(root / ".download.lock"):
            for leftover in root.glob(".download-*"):  # its process is dead, or it would hold the lock
                shutil.rmtree(leftover, ignore_errors=True)
            if check(name) == "ready":  # another process got it while this one waited
                return
            with TemporaryDirectory(prefix=".download-", dir=root, ignore_cleanup_errors=True) as new:
                _fetch(name, Path(new))
                target = root / FOLDER[name]
                target.mkdir(parents=True, exist_ok=True)
                for file in FILES[name]:  # what else is in the folder stays
                    if (target / file).is_dir():
                        os.replace(target / file, Path(new) / f"was-{file}")
                    os.replace(Path(new) / FOLDER[name] / file, target / file)
    except (OSError, HTTPException) as error:
        raise DataError(f"{name}: cannot be downloaded into {root} ({error!r}). {_by_hand(name)}") from error


def _known(name: str) -> None:
    if name not in DATA_SETS:
        raise ValueError(f"no data set is called {name!r}; there are {', '.join(DATA_SETS)}")


def _by_hand(name: str) -> str:
    files = f"{', '.join(FILES[name])} (unpacked) into {data_root() / FOLDER[name]}"
    return f"Or copy {files}, or set DEEPNETS_DATA to a folder that holds {FOLDER[name]}"


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _fault(name: str, root: Path, hashing: bool) -> tuple[str, str] | None:
    """Return the first missing file and "missing", else the first damaged one and the reason, else None."""
    _known(name)
    for file in (files := FILES.get(name, {})):
        if not os.path.isfile(root / FOLDER[name] / file):
            return file, "missing"
    for file, (size, md5) in files.items():
        path = root / FOLDER[name] / file
        try:
            if (length := path.stat().st_size) != size:
                return file, f"damaged: {length:,} bytes instead of {size:,}"
            if hashing and _md5(path) != md5:
                return file, f"damaged: its md5 is not {md5}"
        except OSError as error:
            return file, f"unreadable: {error.strerror}"
    return None


def _raise_fault(name: str, root: Path, hashing: bool) -> None:
    if fault := _fault(name, root, hashing):
        (file, reason), kind = fault, DataNotFound if fault[1] == "missing" else DataDamaged
        path = root / FOLDER[name] / file
        raise kind(f"{name}: {path} is {reason}. `deepnets data` downloads the data set. {_by_hand(name)}")


def _verified(name: str, arrays: tuple[Tensor, Tensor, Tensor, Tensor]) -> Images:
    digest = hashlib.sha256()
    for array in (tensor.numpy() for tensor in arrays):
        digest.update(f"{array.dtype.name} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1))
    fingerprint, canonical = digest.hexdigest(), CANONICAL[name]
    if fingerprint != canonical:
        raise DataDamaged(f"{name}: the arrays' fingerprint is {fingerprint}, not {canonical}: not used")
    return Images(name, *arrays, fingerprint)


def _enlarged_digits(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # To import scikit-learn takes two seconds, in each worker anew: its file is read without.
    [folder] = importlib.util.find_spec("sklearn").submodule_search_locations
    digits = np.loadtxt(Path(folder, "datasets/data/digits.csv.gz"), dtype=np.int64, delimiter=",")
    small, labels = digits[:, :-1].reshape(-1, 8, 8), torch.from_numpy(digits[:, -1].copy())  # 1,797, of 0..16
    grey = ((small * 255 + 8) // 16).astype(np.uint8)[:, None]
    channels, factor, edge = {"digits_28": (1, 3, 2), "digits_32": (3, 4, 0)}[name]
    images = np.kron(grey, np.ones((channels, factor, factor), np.uint8))
    images = np.pad(images, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
    pixels = torch.from_numpy(images)
    return pixels[:1397], labels[:1397], pixels[1397:], labels[1397:]


def _torchvision_class(name: str) -> Any:
    from torchvision import datasets  # late: it takes seconds, and most callers need no real data

    return getattr(datasets, {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}[name])


def _read(name: str, root: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dataset = _torchvision_class(name)
    if name != "cifar10":
        train, test = dataset(root, train=True), dataset(root, train=False)
        return train.data[:, None], train.targets, test.data[:, None], test.targets
    # Asked for a part, torchvision hashes all six files: one part that has all of them halves the time.
    parts = {"train_list": dataset.train_list + dataset.test_list, "test_list": []}
    whole = type(name, (dataset,), parts)(root)
    pixels, labels = torch.from_numpy(whole.data.transpose(0, 3, 1, 2)), torch.tensor(whole.targets)
    n = len(labels) * len(dataset.train_list) // len(whole.train_list)
    return pixels[:n], labels[:n], pixels[n:], labels[n:]


def _fetch(name: str, folder: Path) -> None:
    """Let torchvision download into `folder`; what stays there is the whole data set, without archives."""
    dataset = _torchvision_class(name)
    if name == "cifar10":
        urls, archives = [dataset.url], {dataset.filename: dataset.tgz_md5}
    else:
        urls = [mirror + dataset.resources[0][0] for mirror in dataset.mirrors]
        archives = {f"{FOLDER[name]}/{file}": md5 for file, md5 in dataset.resources}
    if failures := _probe(urls):
        raise DataError(f"{name}: no server answers ({failures}). {_by_hand(name)}")
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        # Progress bars are for somebody who watches.
        with contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO()):
            dataset(folder, download=True)
    except RuntimeError as error:  # torchvision's word for wrong bytes, and for mirrors that all failed
        for file, md5 in archives.items():
            if os.path.isfile(folder / file) and _md5(folder / file) != md5:
                what = f"{Path(file).name} came incomplete or with wrong bytes from {', '.join(urls)}"
                raise DataDamaged(f"{name}: {what} and is not used. Try again. {_by_hand(name)}") from error
        raise DataError(f"{name}: the download failed ({error}). {_by_hand(name)}") from error
    finally:
        socket.setdefaulttimeout(timeout)
    for file in archives:
        (folder / file).unlink()
    _raise_fault(name, folder, hashing=True)


def _probe(urls: list[str]) -> str:
    """Return "" once one of the urls answers, else what is wrong with each, within PROBE_SECONDS.

    Looking up a name can hang longer than any timeout: threads are left behind, not waited for.
    """
    failures = dict.fromkeys(urls, f"no answer within {PROBE_SECONDS:g} s")
    answered = threading.Event()

    def ask(url: str) -> None:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "pytorch/vision"})
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
            answered.set()
        except Exception as error:
            failures[url] = str(error)

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    end = time.monotonic() + PROBE_SECONDS
    while time.monotonic() < end and any(thread.is_alive() for thread in threads) and not answered.wait(0.05):
        pass
    return "" if answered.is_set() else "; ".join(f"{url}: {failures[url]}" for url in urls)
