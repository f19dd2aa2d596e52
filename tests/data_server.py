"""A server of data sets that can misbehave."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from torchvision import datasets

from deepnets_utils.data import inventory

REAL = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10}
IDX = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


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


def small_sets(name: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (3, 32, 32) if name == "cifar10" else (1, 28, 28)
    arrays: list[np.ndarray] = []
    for n in (50, 10):
        arrays += [rng.integers(0, 256, (n, *shape), dtype=np.uint8), rng.integers(0, 10, n)]
    return arrays


def first_file(name: str, root: Path) -> Path:
    return root / inventory.FOLDER[name] / inventory.FILES[name][0]
