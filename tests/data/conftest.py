"""Small data sets of the real layouts, on a local server."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from data_server import IDX, REAL, Server, fingerprint, md5, small_sets
from torchvision import datasets

from deepnets_utils.data import loading
from deepnets_utils.runs.datasets import CANONICAL


@pytest.fixture
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
