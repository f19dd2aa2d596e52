import errno
import fcntl
import gzip
import hashlib
import io
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets
from tqdm import tqdm

from deepnets_utils.data import downloading, inventory, loading
from deepnets_utils.runs import progress
from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.errors import DataError
from deepnets_utils.runs.paths import data_root
from deepnets_utils.runs.progress import Reporter

REAL = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10}
REAL_ROOT = data_root()
IDX = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
needs = {name: pytest.mark.skipif(not inventory.present(name), reason=f"{name} is not here") for name in REAL}


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def fingerprint(*arrays: np.ndarray) -> str:
    """The definition in words of loading.Images, written a second time."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


class Server(ThreadingHTTPServer):
    """Serve `files`; `mode` is whole, cut (half, then closed), wrong (a changed byte), stall (half, then
    nothing), slow (in pieces), mute (accepts and never answers) or absent (404). ranges: answer what asks for a part.

    asked: what each request for a part asked for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.mode = "whole"
        self.ranges = True
        self.asked: list[str] = []
        self.paths: list[str] = []
        self.stalled, self.go_on = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients hang up in these tests


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server, content = self.server, self.server.files.get(self.path.rsplit("/", 1)[1])
        server.paths.append(self.path)
        if server.mode == "mute":
            server.go_on.wait(20)
        elif server.mode == "absent" or content is None:
            self.send_error(404)
        else:
            if server.mode == "wrong":
                content = content[:-1] + bytes([content[-1] ^ 1])
            asked = self.headers.get("Range", "")
            server.asked += [asked] if asked else []
            if asked and server.ranges:
                begun = int(asked.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begun}-{len(content) - 1}/{len(content)}")
                content = content[begun:]
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            while server.mode == "slow" and content:
                self.wfile.write(content[:1000])
                content = content[1000:]
                time.sleep(0.005)
            half = len(content) // 2
            self.wfile.write(content[:half])
            if server.mode == "stall":
                self.wfile.flush()
                server.stalled.set()
                server.go_on.wait(20)
            if server.mode != "cut":
                self.wfile.write(content[half:])


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No arrays, proxies or openers from elsewhere."""
    for variable in [key for key in os.environ if key.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(urllib.request, "_opener", None)
    loading.load.cache_clear()
    yield
    loading.load.cache_clear()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPNETS_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def small_sets(name: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (3, 32, 32) if name == "cifar10" else (1, 28, 28)
    arrays: list[np.ndarray] = []
    for n in (50, 10):
        arrays += [rng.integers(0, 256, (n, *shape), dtype=np.uint8), rng.integers(0, 10, n)]
    return arrays


@pytest.fixture(params=REAL)
def small(request: pytest.FixtureRequest, server: Server, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a small data set of the same layout in place of the real one, on the server and in the tables."""
    name = request.param
    arrays = small_sets(name)
    monkeypatch.setitem(CANONICAL, name, fingerprint(*arrays))
    if name == "cifar10":
        images = np.concatenate(arrays[::2]).reshape(6, 10, -1)
        labels = np.concatenate(arrays[1::2]).reshape(6, 10).tolist()
        keys = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
        batches = zip(keys, images, labels, strict=True)
        files = {key: pickle.dumps({"data": pixels, "labels": classes}) for key, pixels, classes in batches}
        files["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")})
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for file, content in files.items():
                entry = tarfile.TarInfo(f"cifar-10-batches-py/{file}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        server.files["cifar-10-python.tar.gz"] = archive.getvalue()
        cifar10 = datasets.CIFAR10
        monkeypatch.setattr(cifar10, "url", server.url + "cifar-10-python.tar.gz")
        monkeypatch.setattr(cifar10, "tgz_md5", md5(archive.getvalue()))
        monkeypatch.setattr(cifar10, "train_list", [[key, md5(files[key])] for key in keys[:5]])
        monkeypatch.setattr(cifar10, "test_list", [[key, md5(files[key])] for key in keys[5:]])
        monkeypatch.setattr(cifar10, "meta", {**cifar10.meta, "md5": md5(files["batches.meta"])})
    else:
        headers = [
            struct.pack(">4i", 2051, n, 28, 28) if k == 0 else struct.pack(">2i", 2049, n)
            for n in (50, 10)
            for k in (0, 1)
        ]
        files = {
            file: header + array.astype(np.uint8).tobytes()
            for file, header, array in zip(IDX, headers, arrays, strict=True)
        }
        packed = {f"{file}.gz": gzip.compress(content, mtime=0) for file, content in files.items()}
        server.files |= packed
        monkeypatch.setattr(REAL[name], "mirrors", [server.url])
        monkeypatch.setattr(REAL[name], "resources", [(file, md5(content)) for file, content in packed.items()])
    return name


def first_file(name: str, root: Path) -> Path:
    return root / inventory.FOLDER[name] / inventory.FILES[name][0]


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
