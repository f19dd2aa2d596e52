"""The data sets as uint8 tensors."""

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnets_utils.data.inventory import FILES, how_to_get, missing
from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.errors import DataError
from deepnets_utils.runs.paths import data_root

Arrays = tuple[Tensor, Tensor, Tensor, Tensor]  # as Images has them


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

    All callers share the tensors: do not write to them. Raises ValueError for a name not in DATA_SETS, DataError, with
    what gets the data set, where a file is missing or damaged.
    """
    return _read(name)


def check(name: str) -> str:
    """Return "ready", "missing" or "damaged" of what lies in the data folder now, every pixel and label looked at."""
    if missing(name, data_root()):
        return "missing"
    try:
        _read(name)
    except DataError:
        return "damaged"
    return "ready"


def torchvision_class(name: str) -> Any:
    from torchvision import datasets  # late: it takes seconds, and most callers need no real data

    return getattr(datasets, {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}[name])


def _read(name: str) -> Images:
    root = data_root()
    anew = f"`deepnets data` puts it into {root} anew"
    if absent := missing(name, root):
        raise DataError(f"{name}: {absent[0]} is missing. {how_to_get(name)}")
    try:
        arrays = _published(name, root) if name in FILES else _enlarged_digits(name)
    except Exception as error:  # torchvision trusts the files
        raise DataError(f"{name}: cannot be read ({error}). {anew}") from error
    digest = hashlib.sha256()
    for array in (tensor.numpy() for tensor in arrays):
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    if (fingerprint := digest.hexdigest()) != CANONICAL[name]:
        raise DataError(f"{name}: damaged, its fingerprint is {fingerprint}, not {CANONICAL[name]}. {anew}")
    return Images(name, *arrays, fingerprint)


def _enlarged_digits(name: str) -> Arrays:
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


def _published(name: str, root: Path) -> Arrays:
    arrays: list[Tensor] = []
    for train in (True, False):
        part = torchvision_class(name)(root, train=train)
        pixels, labels = torch.as_tensor(part.data), torch.as_tensor(part.targets)
        arrays += [pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2), labels]
    return tuple(arrays)
