"""The files of the data sets: which there are, where they lie, and whether they are the canonical ones."""

import hashlib
import itertools
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.errors import DataError
from deepnets_utils.runs.paths import data_root

PACKED = re.compile(r"\.(tar|gz|tgz|zip)\b.*", re.IGNORECASE)  # endings of archives
LOOKED_AT = 20_000  # files and folders at most, in search of what lies in the wrong place

# Where torchvision looks for the files of a data set, below the data folder.
FOLDER = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw", "cifar10": "cifar-10-batches-py"}
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


def present(name: str) -> bool:
    """Return whether every file of the data set is there with the right size (no hashing; embedded: True)."""
    return fault(name, data_root(), hashing=False) is None


def embedded(name: str) -> str:
    """Return the embedded data set (scikit-learn's digits) that stands in for `name` (itself if embedded)."""
    _known(name)
    return {"mnist": "digits_28", "fashion_mnist": "digits_28", "cifar10": "digits_32"}.get(name, name)


def check(name: str) -> str:
    """Return "ready", "missing" or "damaged: <file>", with every file hashed (embedded: "ready")."""
    file, reason = fault(name, data_root(), hashing=True) or ("", "ready")
    return reason if reason in ("ready", "missing") else f"damaged: {file}"


def fault(name: str, root: Path, hashing: bool, only: Collection[str] = ()) -> tuple[str, str] | None:
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
            if hashing and md5_of(path) != md5:
                return file, f"damaged: its md5 is not {md5}"
        except OSError as error:
            return file, f"unreadable: {error.strerror}"
    return None


def raise_fault(name: str, root: Path, hashing: bool) -> None:
    if found := fault(name, root, hashing):
        (file, reason), kind = found, DataNotFound if found[1] == "missing" else DataDamaged
        path = root / FOLDER[name] / file
        raise kind(f"{name}: {path} is {reason}. `deepnets data` downloads the data set. {by_hand(name)}")


def places(name: str, root: Path) -> list[Path]:
    """Return the folders where the archives of a data set may lie: that of its files, and those above it."""
    folder = root / FOLDER[name]
    return [folder, *(above for above in folder.parents if above.is_relative_to(root))]


def copies(archive: str, folders: Iterable[Path]) -> list[Path]:
    return [folder / archive for folder in folders if (folder / archive).is_file()]


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def torchvision_class(name: str) -> Any:
    from torchvision import datasets  # late: it takes seconds, and most callers need no real data

    return getattr(datasets, {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}[name])


def by_hand(name: str) -> str:
    archives, folder = ", ".join(ARCHIVES[name]), data_root() / FOLDER[name]
    files = f"{', '.join(FILES[name])} (unpacked) or {archives} into {folder}"
    return f"Or copy {files}, or set DEEPNETS_DATA to a folder that holds {FOLDER[name]}{_near_misses(name)}"


def _near_misses(name: str) -> str:
    """Return in words what in the data folder looks like a file of the data set, but has another name or place."""
    root = data_root()
    there = places(name, root)
    expected = {(_plain(file), file in ARCHIVES[name]): file for file in (*ARCHIVES[name], *FILES[name])}
    others = {root / folder for other, folder in FOLDER.items() if other != name}
    found = []
    levels = (root.glob("/".join("*" * level)) for level in range(1, len(there) + 2))
    for path in itertools.islice(itertools.chain.from_iterable(levels), LOOKED_AT):
        packed = PACKED.search(path.name) is not None
        file = expected.get((_plain(path.name), packed))
        if file is None or path.parent in others or path.parent.name.startswith(".") or not path.is_file():
            continue
        if path.name != file or path.parent not in there[: None if packed else 1]:
            found.append(f"{path} (expected: {there[0] / file})")
    return f". Not used: {'; '.join(found[:3])}{'; and others' if found[3:] else ''}" if found else ""


def _plain(file: str) -> str:
    return re.sub(r"\(\d+\)|[^a-z0-9]", "", PACKED.sub("", file.lower()))


def _known(name: str) -> None:
    if name not in DATA_SETS:
        raise ValueError(f"no data set is called {name!r}; there are {', '.join(DATA_SETS)}")
