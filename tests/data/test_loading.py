"""Data sets as they lie on the disk: read like torchvision, damaged or misplaced ones named, never used."""

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_server import IDX, REAL, Server, fingerprint
from torchvision import datasets

from deepnets_utils.data import downloading, inventory, loading
from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.errors import DataError
from deepnets_utils.runs.paths import data_root

pytestmark = pytest.mark.usefixtures("fresh")

REAL_ROOT = data_root()
needs = {name: pytest.mark.skipif(not inventory.present(name), reason=f"{name} is not here") for name in REAL}


def test_torchvision_reads_the_same(small: str, root: Path) -> None:
    downloading.download(small)
    images = loading.load(small)
    for train, pixels, labels in (
        (True, images.train_images, images.train_labels),
        (False, images.test_images, images.test_labels),
    ):
        theirs = REAL[small](root, train=train)
        assert len(theirs) == len(pixels)
        for k in (0, 9):
            image, label = theirs[k]
            channels_last = pixels[k].permute(1, 2, 0).squeeze(-1).numpy()
            assert np.array_equal(np.asarray(image), channels_last) and label == labels[k]


PLACES = {"mnist": ("", "MNIST", "MNIST/raw"), "fashion_mnist": ("", "FashionMNIST/raw"), "cifar10": ("",)}


@pytest.mark.parametrize(
    ("small", "place"), [(name, place) for name in PLACES for place in PLACES[name]], indirect=["small"]
)
def test_archives_copied_by_hand_are_unpacked_without_a_network(
    small: str, place: str, server: Server, root: Path
) -> None:
    (root / place).mkdir(parents=True)
    for archive, content in server.files.items():
        (root / place / archive).write_bytes(content)
    downloading.download(small)
    assert loading.check(small) == "ready" and server.paths == []
    assert all((root / place / archive).exists() for archive in server.files), "they are the user's"
    assert not list(root.glob(".download-*"))


@pytest.mark.parametrize("damage", ["cut", "other", "text"])
def test_an_archive_that_is_not_the_canonical_one_is_named_and_got_from_the_server(
    small: str, server: Server, root: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir()
    for archive, content in server.files.items():
        (root / archive).write_bytes(content)
    content = {"cut": content[: len(content) // 2], "other": gzip.compress(b"other"), "text": b"<html>"}[damage]
    (root / archive).write_bytes(content)
    with pytest.raises(DataError, match=f"Not used: .*{root / archive}"):
        loading.load(small)
    assert server.paths == [], "load never downloads"
    with monkeypatch.context() as patch, pytest.raises(DataError, match=f"{archive}: .*404"):
        patch.setattr(server, "mode", "absent")
        patch.setattr(datasets.utils, "extract_archive", None)  # whoever calls it fails
        downloading.download(small)
    server.paths.clear()
    downloading.download(small)
    assert loading.check(small) == "ready" and {path[1:] for path in server.paths} == {archive}
    assert (root / archive).read_bytes() == content


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("mnist", "MNIST/raw/train-images.idx3-ubyte"),
        ("mnist", "MNIST/raw/raw/t10k-labels-idx1-ubyte"),
        ("mnist", "train-images-idx3-ubyte"),
        ("mnist", "mnist/train-images-idx3-ubyte.gz"),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte (1).gz"),
        ("fashion_mnist", "fashion/t10k-images.idx3-ubyte.gz"),
        ("cifar10", "cifar-10-python/cifar-10-batches-py/data_batch_1"),
        ("cifar10", "cifar-10-python.tar"),
    ],
)
def test_what_lies_in_the_wrong_place_or_has_the_wrong_name_is_named(root: Path, name: str, there: str) -> None:
    own, other = (root / inventory.FOLDER[of] for of in (name, "fashion_mnist" if name == "mnist" else "mnist"))
    for path in (root / there, own / inventory.FILES[name][1], other / "train-images-idx3-ubyte"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    with pytest.raises(DataError) as error:
        loading.load(name)
    assert f"{own / inventory.FILES[name][0]} is missing" in str(error.value)
    assert str(error.value).endswith(f"Not used: {root / there}")


@pytest.mark.parametrize("damage", ["truncated", "a bit", "a folder", "gone"])
@pytest.mark.parametrize("which", [0, -1])
def test_damaged_files_are_not_used(small: str, root: Path, damage: str, which: int) -> None:
    downloading.download(small)
    path = root / inventory.FOLDER[small] / inventory.FILES[small][which]
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "a bit":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "a folder":
        path.mkdir()
    missing = damage in ("gone", "a folder")
    with pytest.raises(DataError) as caught:
        loading.load(small)
    assert str(path if missing else root) in str(caught.value) and "deepnets data" in str(caught.value)
    assert loading.check(small) == ("missing" if missing else "damaged")
    assert inventory.present(small) != missing


@pytest.mark.parametrize("small", ["mnist"], indirect=True)
def test_arrays_that_are_not_canonical_are_not_used(small: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloading.download(small)
    monkeypatch.setitem(CANONICAL, small, "0" * 64)
    with pytest.raises(DataError, match="0" * 64):
        loading.load(small)


def test_loading_writes_nothing(small: str, root: Path) -> None:
    downloading.download(small)
    (root / ".download.lock").unlink()
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
    loading.load(small)
    downloading.download(small)
    assert loading.check(small) == "ready"
    assert {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]} == before
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755)


def test_unknown_names() -> None:
    for function in (loading.load, inventory.present, inventory.embedded, loading.check, downloading.download):
        with pytest.raises(ValueError, match="'minst'; there are mnist, .*cifar10, digits_28, digits_32"):
            function("minst")


@pytest.mark.parametrize(("name", "shape"), [("digits_28", (1, 28, 28)), ("digits_32", (3, 32, 32))])
def test_embedded(name: str, shape: tuple[int, int, int], root: Path) -> None:
    images = loading.load(name)
    assert images.train_images.shape == (1397, *shape) and images.test_images.shape == (400, *shape)
    assert images.train_labels.bincount().tolist() == [139, 143, 137, 144, 138, 141, 142, 139, 135, 139]
    arrays = (images.train_images, images.train_labels, images.test_images, images.test_labels)
    assert images.fingerprint == CANONICAL[name] == fingerprint(*(array.numpy() for array in arrays))
    # The first digit, a 0, is 8 x 8 in 0..16: its second row is 0 0 13 15 10 15 5 0 in scikit-learn.
    edge, factor = (2, 3) if name == "digits_28" else (0, 4)
    row = images.train_images[0, -1, edge + factor, edge : edge + 8 * factor : factor]
    assert row.tolist() == [0, 0, 207, 239, 159, 239, 80, 0]
    assert images.train_images.max() == 255 and images.train_labels[0] == 0
    blocks = images.train_images[..., edge : edge + 8 * factor, edge : edge + 8 * factor]
    enlarged = blocks[..., ::factor, ::factor].repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    assert torch.equal(blocks, enlarged)
    assert blocks.sum(dtype=torch.int64) == images.train_images.sum(dtype=torch.int64)  # the edge is 0
    assert (inventory.present(name), loading.check(name)) == (True, "ready")
    downloading.download(name)
    assert not root.exists()


def test_what_stands_in_for_what() -> None:
    stand_ins = {name: inventory.embedded(name) for name in inventory.DATA_SETS}
    assert stand_ins == {
        "mnist": "digits_28",
        "fashion_mnist": "digits_28",
        "cifar10": "digits_32",
        "digits_28": "digits_28",
        "digits_32": "digits_32",
    }


MNIST_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
FACTS = {  # shape of an image, training and test size, labels, mean of the training pixels per channel
    "mnist": ((1, 28, 28), 60000, MNIST_COUNTS, [0.1307]),
    "fashion_mnist": ((1, 28, 28), 60000, [6000] * 10, [0.2860]),
    "cifar10": ((3, 32, 32), 50000, [5000] * 10, [0.4914, 0.4822, 0.4465]),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs[name]) for name in REAL])
def test_real_data(name: str) -> None:
    shape, size, counts, means = FACTS[name]
    images = loading.load(name)
    assert images.train_images.shape == (size, *shape) and images.test_images.shape == (10000, *shape)
    assert images.train_images.dtype == images.test_images.dtype == torch.uint8
    assert images.train_labels.dtype == images.test_labels.dtype == torch.int64
    assert images.train_labels.bincount().tolist() == counts
    found = images.train_images.sum((0, 2, 3), dtype=torch.int64) / (size * shape[1] * shape[2] * 255)
    assert found.tolist() == pytest.approx(means, abs=5e-5)
    arrays = (images.train_images, images.train_labels, images.test_images, images.test_labels)
    assert images.fingerprint == CANONICAL[name] == fingerprint(*(array.numpy() for array in arrays))
    assert loading.check(name) == "ready"


@needs["mnist"]
def test_a_damaged_real_file_is_not_used(root: Path) -> None:
    folder = root / inventory.FOLDER["mnist"]
    folder.mkdir(parents=True)
    for file in IDX:
        shutil.copyfile(REAL_ROOT / inventory.FOLDER["mnist"] / file, folder / file)
    path = folder / IDX[0]
    with open(path, "r+b") as file:
        file.seek(1_000_000)
        file.write(b"\xff\xff")
    with pytest.raises(DataError, match="mnist: damaged"):
        loading.load("mnist")


def test_importing_is_light() -> None:
    heavy = "{'torchvision', 'sklearn', 'matplotlib'}"
    check = f"import sys, deepnets_utils.data.loading; assert not {heavy} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0
