"""Downloads: whole or not at all, from where they broke off, whatever the server does."""

import errno
import fcntl
import multiprocessing
import os
import re
import signal
import socket
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from data_server import Server, first_file, small_sets
from torchvision import datasets
from tqdm import tqdm

from deepnets_utils.data import downloading, inventory, loading
from deepnets_utils.runs import progress
from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.errors import DataError
from deepnets_utils.runs.progress import Reporter

pytestmark = pytest.mark.usefixtures("fresh")


def nothing_there(name: str, root: Path) -> bool:
    """Return whether nothing that could be taken for the data set is in the data folder."""
    left = {path.relative_to(root).parts[0] for path in root.rglob("*") if path.is_file()}
    return left <= {".download.lock", f".download-{name}"} and not inventory.present(name)


def kept(name: str, root: Path) -> dict[str, int]:
    """The archives, or parts of them, that the next call goes on from, with their sizes in bytes."""
    return {path.name: path.stat().st_size for path in (root / f".download-{name}").glob("*.gz")}


def test_download_then_load(small: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (loading.check(small), inventory.present(small)) == ("missing", False)
    downloading.download(small)
    assert (loading.check(small), inventory.present(small)) == ("ready", True)
    out, err = capsys.readouterr()  # no progress bar where nobody watches
    said = [rf"{name}: \d.\d MB to download from .*\n{name}: .* MB stored .*\n" for name in inventory.ARCHIVES[small]]
    assert out == "" and re.fullmatch("".join(said), err)
    images = loading.load(small)
    arrays = (images.train_images, images.train_labels, images.test_images, images.test_labels)
    for ours, theirs in zip(arrays, small_sets(small), strict=True):
        assert ours.numpy().dtype == theirs.dtype and np.array_equal(ours.numpy(), theirs)
    assert images.fingerprint == CANONICAL[small] and images.name == small
    assert loading.load(small) is images
    there = {path.name for path in root.rglob("*") if path.is_file()}
    assert there == {*inventory.FILES[small], ".download.lock"}  # no archive, nothing temporary


def test_nothing_to_do_when_whole(small: str, server: Server, root: Path) -> None:
    downloading.download(small)
    server.paths.clear()
    downloading.download(small)
    assert server.paths == []


def test_wrong_bytes_are_not_kept(small: str, server: Server, root: Path) -> None:
    server.mode = "wrong"
    archive = next(iter(server.files))
    with pytest.raises(DataError, match=archive.replace(".", r"\.")):
        downloading.download(small)
    assert nothing_there(small, root) and not kept(small, root)
    with pytest.raises(DataError, match="is missing"):
        loading.load(small)
    server.mode = "whole"
    downloading.download(small)
    assert loading.load(small).fingerprint == CANONICAL[small]


@pytest.mark.parametrize("ranges", [True, False])
def test_the_next_call_goes_on_where_one_broke_off(small: str, server: Server, root: Path, ranges: bool) -> None:
    first, content = next(iter(server.files.items()))
    server.mode = "cut"
    half = len(content) // 2
    with pytest.raises(DataError, match=f"{first}: broke off, {len(content) - half:,} bytes are lacking"):
        downloading.download(small)
    assert nothing_there(small, root) and kept(small, root) == {first: half}
    server.mode, server.ranges = "whole", ranges
    server.paths.clear()
    downloading.download(small)
    assert loading.check(small) == "ready" and not list(root.glob(".download-*"))
    assert server.asked == [f"bytes={half}-"] and len(server.paths) == len(server.files)


@pytest.mark.parametrize("small", ["mnist"], indirect=True)
def test_archives_that_came_whole_are_not_got_again(small: str, server: Server, root: Path) -> None:
    last, whole = list(server.files)[-1], dict(server.files)
    del server.files[last]
    with pytest.raises(DataError, match=f"{last}: .*404"):
        downloading.download(small)
    server.files = whole
    server.paths.clear()
    downloading.download(small)
    assert loading.check(small) == "ready" and server.paths == [f"/{last}"]


def test_a_part_of_another_file_is_got_anew(small: str, server: Server, root: Path) -> None:
    first, whole = next(iter(server.files)), dict(server.files)
    (root / f".download-{small}").mkdir(parents=True)
    (root / f".download-{small}" / first).write_bytes(b"<html>log in first</html>")
    downloading.download(small)
    assert server.files == whole and server.asked == ["bytes=25-"] and loading.check(small) == "ready"


def test_an_interrupt_keeps_the_part(small: str, server: Server, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = next(iter(server.files))
    server.mode = "slow"

    def interrupt(reporter: Reporter, amount: float = 1) -> None:
        reporter.done += amount
        if reporter.done > 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Reporter, "advance", interrupt)
        downloading.download(small)
    part = kept(small, root)[first]
    assert 0 < part < len(server.files[first]) and nothing_there(small, root)
    downloading.download(small)
    assert server.asked == [f"bytes={part}-"] and loading.check(small) == "ready"


@pytest.mark.parametrize("small", ["cifar10"], indirect=True)
def test_a_log_says_how_much_is_there_and_how_long_it_takes(
    small: str, server: Server, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.mode = "slow"
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.1)
    downloading.download(small)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 3
    assert all(
        re.fullmatch(r"cifar-10-python\.tar\.gz: 0\.\d of 0\.2 MB, about \d+ s left", line) for line in lines[1:-1]
    )


@pytest.mark.parametrize("mode", ["mute", "stall", "absent"])
def test_a_server_that_does_not_serve(
    small: str, server: Server, root: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "SILENT_SECONDS", 0.3)
    server.mode = mode
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        downloading.download(small)
    assert time.monotonic() - start < 10
    assert small in str(caught.value) and str(root) in str(caught.value)
    assert nothing_there(small, root)


def test_no_server_is_noticed_at_once(small: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/"
    for dataset in (datasets.MNIST, datasets.FashionMNIST):
        monkeypatch.setattr(dataset, "mirrors", [nobody, nobody + "second/"])
    monkeypatch.setattr(datasets.CIFAR10, "url", nobody + "cifar-10-python.tar.gz")
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        downloading.download(small)
    assert time.monotonic() - start < 10
    for part in (nobody, "refused", *inventory.FILES[small], str(root / inventory.FOLDER[small]), "DEEPNETS_DATA"):
        assert part in str(caught.value)


@pytest.mark.parametrize("small", ["mnist"], indirect=True)
def test_a_name_server_that_hangs(small: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(downloading, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://mirror.invalid/"])
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(20) and [])
    start = time.monotonic()
    with pytest.raises(DataError, match=r"mirror\.invalid.*no answer within 0\.3 s"):
        downloading.download(small)
    assert time.monotonic() - start < 10 and not (root / "MNIST").exists()
    release.set()


@pytest.mark.parametrize("small", ["mnist"], indirect=True)
def test_a_part_that_is_longer_than_the_archive_is_got_anew(small: str, server: Server, root: Path) -> None:
    kept = root / f".download-{small}"
    kept.mkdir(parents=True)
    (kept / "train-images-idx3-ubyte.gz").write_bytes(bytes(10_000_000))
    downloading.download(small)
    assert loading.check(small) == "ready"


@pytest.mark.parametrize("small", ["mnist"], indirect=True)
def test_a_damaged_set_is_got_anew_before_anything_is_trained(small: str, server: Server, root: Path) -> None:
    downloading.download(small)
    file = root / "MNIST/raw/train-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    downloading.provide(small)
    assert loading.check(small) == "ready"


@pytest.mark.parametrize("small", ["mnist"], indirect=True)
def test_one_mirror_of_two_is_enough(small: str, server: Server, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/"
    monkeypatch.setattr(datasets.MNIST, "mirrors", [nobody, server.url])
    downloading.download(small)
    assert loading.check(small) == "ready"


@pytest.mark.parametrize("small", ["mnist", "cifar10"], indirect=True)
def test_a_proxy_is_honoured(small: str, server: Server, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://mirror.invalid/"])
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://mirror.invalid/cifar-10-python.tar.gz")
    downloading.download(small)
    assert loading.check(small) == "ready"
    assert all(path.startswith("http://mirror.invalid/") for path in server.paths)


def downloader(name: str) -> BaseProcess:
    """Return a started process that downloads, with the patched tables and with a tqdm lock of its own.

    A fork shares tqdm's lock with its parent, and who is killed while holding it would keep it for ever.
    """

    def main() -> None:
        tqdm.set_lock(threading.RLock())
        downloading.download(name)

    process = multiprocessing.get_context("fork").Process(target=main)
    process.start()
    return process


def test_kill_9_leaves_nothing_usable(small: str, server: Server, root: Path) -> None:
    server.mode = "stall"
    child = downloader(small)
    deadline = time.monotonic() + 20
    while not list(root.rglob("*.gz")):  # the transfer has begun, and ends never
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert len(list(root.glob(".download-*"))) == 1
    assert (loading.check(small), inventory.present(small)) == ("missing", False)
    with pytest.raises(DataError):
        loading.load(small)
    server.mode = "whole"
    downloading.download(small)
    assert loading.check(small) == "ready"
    assert list(root.glob(".download-*")) == []


@pytest.mark.parametrize("small", ["mnist"], indirect=True)
def test_downloads_take_turns(small: str, server: Server, root: Path) -> None:
    server.mode = "stall"
    first = downloader(small)
    assert server.stalled.wait(20)
    second = downloader(small)
    time.sleep(0.2)  # time enough for the second to do harm, if it does not wait
    server.mode = "whole"
    server.go_on.set()
    first.join(20)
    second.join(20)
    assert (first.exitcode, second.exitcode) == (0, 0)
    assert loading.check(small) == "ready"
    assert len([path for path in server.paths if "t10k-labels" in path]) == 1


def test_a_damaged_set_is_replaced_only_by_a_whole_one(small: str, server: Server, root: Path) -> None:
    downloading.download(small)
    path = first_file(small, root)
    path.write_bytes(path.read_bytes()[:-7])
    (path.parent / "notes.txt").write_text("somebody's own")
    server.mode = "wrong"
    with pytest.raises(DataError):
        downloading.download(small)
    assert loading.check(small) == "damaged"
    server.mode = "whole"
    downloading.download(small)
    assert loading.check(small) == "ready"
    assert loading.load(small).fingerprint == CANONICAL[small]
    assert (path.parent / "notes.txt").read_text() == "somebody's own"


@pytest.mark.parametrize("small", ["mnist"], indirect=True)
def test_a_folder_that_cannot_be_written(small: str, root: Path, server: Server) -> None:
    root.write_text("a file where the folder should be")
    with pytest.raises(DataError, match=str(root)):
        downloading.download(small)
    assert server.paths == []


@pytest.mark.parametrize("small", ["mnist"], indirect=True)
def test_a_folder_without_file_locks(small: str, root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(DataError, match=f"{root} is on a file system without file locks .*DEEPNETS_DATA"):
        downloading.download(small)
    assert server.paths == []


@pytest.mark.parametrize("small", ["mnist"], indirect=True)
def test_a_full_disk(small: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(datasets.utils, "extract_archive", full)
    with pytest.raises(DataError, match=f"{root}.*No space left"):
        downloading.download(small)
    assert nothing_there(small, root)
