"""The data sets as uint8 tensors."""

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepnets_utils.data.downloading import download
from deepnets_utils.data.inventory import (
    ARCHIVES,
    FILES,
    DataDamaged,
    copies,
    places,
    present,
    raise_fault,
    torchvision_class,
)
from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.paths import data_root


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
    if not present(name) and all(copies(archive, places(name, root)) for archive in ARCHIVES[name]):
        download(name, online=False)
    raise_fault(name, root, hashing=False)
    try:
        # The fingerprint covers every pixel and label, so files are hashed only to name the damaged one.
        return _verified(name, _read(name, root) if name in FILES else _enlarged_digits(name))
    except Exception:
        raise_fault(name, root, hashing=True)
        raise


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


def _read(name: str, root: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dataset = torchvision_class(name)
    if name != "cifar10":
        train, test = dataset(root, train=True), dataset(root, train=False)
        return train.data[:, None], train.targets, test.data[:, None], test.targets
    # Asked for a part, torchvision hashes all six files: one part that has all of them halves the time.
    parts = {"train_list": dataset.train_list + dataset.test_list, "test_list": []}
    whole = type(name, (dataset,), parts)(root)
    pixels, labels = torch.from_numpy(whole.data.transpose(0, 3, 1, 2)), torch.tensor(whole.targets)
    n = len(labels) * len(dataset.train_list) // len(whole.train_list)
    return pixels[:n], labels[:n], pixels[n:], labels[n:]
