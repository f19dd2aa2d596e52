"""The files of the data sets: which there are, where they lie, and how they get there. Imports no torch."""

import itertools
from difflib import get_close_matches
from pathlib import Path

from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.paths import data_root

LOOKED_AT = 5_000  # files and folders at most, in search of what lies in the wrong place

# Where torchvision looks for the files of a data set, below the data folder.
FOLDER = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw", "cifar10": "cifar-10-batches-py"}
IDX = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
FILES = {"mnist": IDX, "fashion_mnist": IDX, "cifar10": BATCHES}
PACKED = tuple(f"{file}.gz" for file in IDX)
ARCHIVES = {"mnist": PACKED, "fashion_mnist": PACKED, "cifar10": ("cifar-10-python.tar.gz",)}
DATA_SETS = tuple(CANONICAL)


def missing(name: str, root: Path) -> list[Path]:
    """Return the files of the data set that are not below `root`; an embedded one has none."""
    _known(name)
    paths = [root / FOLDER[name] / file for file in FILES.get(name, ())]
    return [path for path in paths if not path.is_file()]


def present(name: str) -> bool:
    """Return whether every file of the data set is there; what is in them `loading.load` looks at."""
    return not missing(name, data_root())


def embedded(name: str) -> str:
    """Return the embedded data set (scikit-learn's digits) that stands in for `name` (itself if embedded)."""
    _known(name)
    return {"mnist": "digits_28", "fashion_mnist": "digits_28", "cifar10": "digits_32"}.get(name, name)


def how_to_get(name: str) -> str:
    """Return in words how a user gets the data set, and which files below the data folder are not taken for it."""
    root = data_root()
    files = f"{', '.join(FILES[name])} (unpacked) or {', '.join(ARCHIVES[name])} into {root / FOLDER[name]}"
    text = f"`deepnets data` downloads it. Or copy {files}, or set DEEPNETS_DATA to a folder that holds {FOLDER[name]}"
    right = {root / FOLDER[name] / file for file in FILES[name] + ARCHIVES[name]}
    others = {root / folder for other, folder in FOLDER.items() if other != name}
    near = [
        str(path)
        for path in itertools.islice(root.rglob("*"), LOOKED_AT)
        if path not in right and path.parent not in others and f".download-{name}" not in path.parts
        if get_close_matches(path.name, FILES[name] + ARCHIVES[name], cutoff=0.8) and path.is_file()
    ]
    return f"{text}. Not used: {', '.join(near[:3])}" if near else text


def _known(name: str) -> None:
    if name not in DATA_SETS:
        raise ValueError(f"no data set is called {name!r}; there are {', '.join(DATA_SETS)}")
