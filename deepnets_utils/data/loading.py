"""The data sets as uint8 tensors: where they lie, whether they are whole, and how they get there."""

import contextlib
import gzip
import hashlib
import importlib.util
import itertools
import os
import re
import shutil
import tarfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from deepnets_utils.runs.datasets import CANONICAL, FOLDER
from deepnets_utils.runs.errors import DataError
from deepnets_utils.runs.files import locked, warn
from deepnets_utils.runs.paths import data_root
from deepnets_utils.runs.progress import Reporter

PROBE_SECONDS = 4.0  # with the imports of torch and torchvision, a missing network is noticed within 10 s
AGENT = "pytorch/vision"  # as torchvision calls itself
STALL_SECONDS = 20.0  # a transfer in which nothing arrives for so long has failed
MB = 1e6  # bytes
PACKED = re.compile(r"\.(tar|gz|tgz|zip)\b.*", re.IGNORECASE)  # endings of archives
LOOKED_AT = 20_000  # files and folders at most, in search of what lies in the wrong place

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
# Sizes in bytes of the archives that torchvision names; each holds one of the files above, or all.
ARCHIVES: dict[str, dict[str, int]] = {
    "mnist": {
        "train-images-idx3-ubyte.gz": 9912422,
        "train-labels-idx1-ubyte.gz": 28881,
        "t10k-images-idx3-ubyte.gz": 1648877,
        "t10k-labels-idx1-ubyte.gz": 4542,
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": 26421880,
        "train-labels-idx1-ubyte.gz": 29515,
        "t10k-images-idx3-ubyte.gz": 4422102,
        "t10k-labels-idx1-ubyte.gz": 5148,
    },
    "cifar10": {"cifar-10-python.tar.gz": 170498071},
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

    Where only its archives lie in data_root() they are unpacked. All callers share the tensors: do not write to them.
    Raises ValueError for a name not in DATA_SETS, DataNotFound or DataDamaged with the file and what gets it.
    """
    root = data_root()
    if not present(name) and all(_copies(archive, _places(name, root)) for archive in ARCHIVES[name]):
        download(name, online=False)
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


def download(name: str, online: bool = True) -> None:
    """Put the data set into data_root(), each file whole or not at all; no-op if all are whole.

    Archives that lie there are unpacked; what they lack comes from where torchvision gets it, if `online`. Downloads
    take turns, and one that broke off is gone on with by the next. Raises DataError when there is no network (within
    10 s), a transfer breaks off or the folder cannot be written, DataDamaged for wrong bytes.
    """
    if check(name) == "ready":
        return
    root = data_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=root):  # a lock waits for ever where no file can be made
            pass
        with locked(root / ".download.lock"):
            if check(name) != "ready":  # else another process got it while this one waited
                _install(name, root, online)
    except OSError as error:
        raise DataError(f"{name}: cannot be put into {root} ({error!r}). {_by_hand(name)}") from error


def _known(name: str) -> None:
    if name not in DATA_SETS:
        raise ValueError(f"no data set is called {name!r}; there are {', '.join(DATA_SETS)}")


def _by_hand(name: str) -> str:
    archives, folder = ", ".join(ARCHIVES[name]), data_root() / FOLDER[name]
    files = f"{', '.join(FILES[name])} (unpacked) or {archives} into {folder}"
    return f"Or copy {files}, or set DEEPNETS_DATA to a folder that holds {FOLDER[name]}{_near_misses(name)}"


def _near_misses(name: str) -> str:
    """Return in words what in the data folder looks like a file of the data set, but has another name or place."""
    root = data_root()
    places = _places(name, root)
    expected = {(_plain(file), file in ARCHIVES[name]): file for file in (*ARCHIVES[name], *FILES[name])}
    others = {root / folder for other, folder in FOLDER.items() if other != name}
    found = []
    levels = (root.glob("/".join("*" * level)) for level in range(1, len(places) + 2))
    for path in itertools.islice(itertools.chain.from_iterable(levels), LOOKED_AT):
        packed = PACKED.search(path.name) is not None
        file = expected.get((_plain(path.name), packed))
        if file is None or path.parent in others or path.parent.name.startswith(".") or not path.is_file():
            continue
        if path.name != file or path.parent not in places[: None if packed else 1]:
            found.append(f"{path} (expected: {places[0] / file})")
    return f". Not used: {'; '.join(found[:3])}{'; and others' if found[3:] else ''}" if found else ""


def _plain(file: str) -> str:
    return re.sub(r"\(\d+\)|[^a-z0-9]", "", PACKED.sub("", file.lower()))


def _places(name: str, root: Path) -> list[Path]:
    """Return the folders where the archives of a data set may lie: that of its files, and those above it."""
    folder = root / FOLDER[name]
    return [folder, *(above for above in folder.parents if above.is_relative_to(root))]


def _copies(archive: str, places: Iterable[Path]) -> list[Path]:
    return [place / archive for place in places if (place / archive).is_file()]


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _fault(name: str, root: Path, hashing: bool, only: Collection[str] = ()) -> tuple[str, str] | None:
    """Return the first missing file and "missing", else the first damaged one and the reason, else None.

    only: look at these files; at all where it is empty.
    """
    _known(name)
    files = {file: facts for file, facts in FILES.get(name, {}).items() if file in (only or FILES[name])}
    for file in files:
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


def _install(name: str, root: Path, online: bool) -> None:
    """Put the files of a data set in their place, all or none."""
    kept, folder = root / f".download-{name}", root / FOLDER[name]  # kept: what an interrupted call got
    kept.mkdir(exist_ok=True)
    try:
        with TemporaryDirectory(dir=kept, ignore_cleanup_errors=True) as new:
            if lacking := _unpack(name, ARCHIVES[name], _places(name, root), Path(new)):
                if not online:
                    return
                _fetch(name, lacking, kept)
                _unpack(name, lacking, [kept], Path(new))
            _raise_fault(name, Path(new), hashing=True)
            folder.mkdir(parents=True, exist_ok=True)
            for file in FILES[name]:  # what else is in the folder stays
                if (folder / file).is_dir():
                    os.replace(folder / file, Path(new) / f"was-{file}")
                os.replace(Path(new) / FOLDER[name] / file, folder / file)
        shutil.rmtree(kept)
    finally:
        with contextlib.suppress(OSError):  # where there is something to go on from, it stays
            kept.rmdir()


def _unpack(name: str, archives: Iterable[str], places: list[Path], new: Path) -> list[str]:
    """Unpack archives that lie in these places into the folder `new`; return those of which no copy is canonical."""
    from torchvision.datasets.utils import extract_archive

    lacking, others = [], {facts for other, files in FILES.items() if other != name for facts in files.values()}
    (new / FOLDER[name]).mkdir(parents=True, exist_ok=True)
    for archive in archives:
        one = {archive.removesuffix(".gz")} & FILES[name].keys()  # of CIFAR-10 none: its archive holds all
        for copy in _copies(archive, places):
            if not one and _md5(copy) != _torchvision_class(name).tgz_md5:  # a foreign tar may write anywhere
                warn(f"{copy} is not used: its md5 is not that of the canonical archive")
                continue
            with contextlib.suppress(EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error):
                extract_archive(copy, new / FOLDER[name] if one else new)
            if (fault := _fault(name, new, hashing=True, only=one)) is None:
                break
            path = new / FOLDER[name] / fault[0]
            if (
                not path.is_file() or (path.stat().st_size, _md5(path)) not in others
            ):  # MNIST and Fashion-MNIST share names
                warn(f"{copy} is not used: {fault[0]} in it is {fault[1]}")
        else:
            lacking.append(archive)
    return lacking


def _fetch(name: str, archives: list[str], kept: Path) -> None:
    """Get archives into the folder `kept`, on from what is there."""
    dataset = _torchvision_class(name)
    if name == "cifar10":
        md5s, mirrors = {dataset.filename: dataset.tgz_md5}, [dataset.url.removesuffix(dataset.filename)]
    else:
        md5s, mirrors = dict(dataset.resources), dataset.mirrors
    if failures := _probe([mirror + archives[0] for mirror in mirrors]):
        raise DataError(f"{name}: no server answers ({failures}). {_by_hand(name)}")
    total = sum(ARCHIVES[name][archive] for archive in archives) / MB
    here = sum(path.stat().st_size for path in kept.iterdir() if path.is_file()) / MB
    plan = f"{total:.1f} MB to download from {urlsplit(mirrors[0]).netloc}" + (f", {here:.1f} are here" if here else "")
    with Reporter(total, name, plan, "MB", here) as reporter:
        for archive in archives:
            failures: dict[str, Exception] = {}
            for mirror in mirrors:
                try:
                    _receive(mirror + archive, kept / archive, ARCHIVES[name][archive], md5s[archive], reporter)
                    break
                except (OSError, HTTPException, DataDamaged) as error:
                    failures[mirror + archive] = error
            else:
                kind = DataDamaged if DataDamaged in map(type, failures.values()) else DataError
                said = "; ".join(f"{url}: {error}" for url, error in failures.items())
                raise kind(f"{name}: {said}. Try again: it goes on from what came. {_by_hand(name)}")


def _receive(url: str, path: Path, size: int, md5: str, reporter: Reporter) -> None:
    """Get what a file lacks of the archive at `url`; one that turns out to be of another archive is got all anew."""
    begun = path.stat().st_size if path.exists() else 0
    if begun < size:
        headers = {"User-Agent": AGENT} | ({"Range": f"bytes={begun}-"} if begun else {})
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=STALL_SECONDS) as response:
            goes_on = response.status == HTTPStatus.PARTIAL_CONTENT
            reporter.advance(0 if goes_on else -begun / MB)
            with open(path, "ab" if goes_on else "wb") as file:
                while part := response.read1(1 << 16):
                    file.write(part)
                    reporter.advance(len(part) / MB)
        if (came := path.stat().st_size) < size:
            raise OSError(f"broke off after {came:,} of {size:,} bytes")
    if _md5(path) == md5:
        return
    reporter.advance(-path.stat().st_size / MB)
    path.unlink()
    if not begun:
        raise DataDamaged(f"wrong bytes, its md5 is not {md5}: not used")
    _receive(url, path, size, md5, reporter)


def _probe(urls: list[str]) -> str:
    """Return "" once one of the urls answers, else what is wrong with each, within PROBE_SECONDS.

    Looking up a name can hang longer than any timeout: threads are left behind, not waited for.
    """
    failures = dict.fromkeys(urls, f"no answer within {PROBE_SECONDS:g} s")
    answered = threading.Event()

    def ask(url: str) -> None:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": AGENT})
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
