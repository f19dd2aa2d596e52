"""How a data set gets to its place: unpacked from archives that lie there, or from where torchvision gets it.

torchvision's own download begins again after an interruption, waits for ever for a server that is silent, and leaves
half a file behind when it is killed; its addresses, checksums and unpacking are used here.
"""

import contextlib
import gzip
import os
import shutil
import tarfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterable
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from urllib.parse import urlsplit

from deepnets_utils.data.inventory import (
    ARCHIVES,
    FILES,
    FOLDER,
    DataDamaged,
    by_hand,
    check,
    copies,
    fault,
    md5_of,
    places,
    raise_fault,
    torchvision_class,
)
from deepnets_utils.runs.errors import DataError
from deepnets_utils.runs.files import locked, warn
from deepnets_utils.runs.paths import data_root
from deepnets_utils.runs.progress import Reporter

PROBE_SECONDS = 4.0  # with the imports of torch and torchvision, a missing network is noticed within 10 s
AGENT = "pytorch/vision"  # as torchvision calls itself
STALL_SECONDS = 20.0  # a transfer in which nothing arrives for so long has failed
MB = 1e6  # bytes


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
        raise DataError(f"{name}: cannot be put into {root} ({error!r}). {by_hand(name)}") from error


def _install(name: str, root: Path, online: bool) -> None:
    """Put the files of a data set in their place, all or none."""
    kept, folder = root / f".download-{name}", root / FOLDER[name]  # kept: what an interrupted call got
    kept.mkdir(exist_ok=True)
    try:
        with TemporaryDirectory(dir=kept, ignore_cleanup_errors=True) as new:
            if lacking := _unpack(name, ARCHIVES[name], places(name, root), Path(new)):
                if not online:
                    return
                _fetch(name, lacking, kept)
                _unpack(name, lacking, [kept], Path(new))
            raise_fault(name, Path(new), hashing=True)
            folder.mkdir(parents=True, exist_ok=True)
            for file in FILES[name]:  # what else is in the folder stays
                if (folder / file).is_dir():
                    os.replace(folder / file, Path(new) / f"was-{file}")
                os.replace(Path(new) / FOLDER[name] / file, folder / file)
        shutil.rmtree(kept)
    finally:
        with contextlib.suppress(OSError):  # where there is something to go on from, it stays
            kept.rmdir()


def _unpack(name: str, archives: Iterable[str], folders: list[Path], new: Path) -> list[str]:
    """Unpack archives that lie in these places into the folder `new`; return those of which no copy is canonical."""
    from torchvision.datasets.utils import extract_archive

    lacking, others = [], {facts for other, files in FILES.items() if other != name for facts in files.values()}
    (new / FOLDER[name]).mkdir(parents=True, exist_ok=True)
    for archive in archives:
        one = {archive.removesuffix(".gz")} & FILES[name].keys()  # of CIFAR-10 none: its archive holds all
        for copy in copies(archive, folders):
            if not one and md5_of(copy) != torchvision_class(name).tgz_md5:  # a foreign tar may write anywhere
                warn(f"{copy} is not used: its md5 is not that of the canonical archive")
                continue
            with contextlib.suppress(EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error):
                extract_archive(copy, new / FOLDER[name] if one else new)
            if (found := fault(name, new, hashing=True, only=one)) is None:
                break
            path = new / FOLDER[name] / found[0]
            if (
                not path.is_file() or (path.stat().st_size, md5_of(path)) not in others
            ):  # MNIST and Fashion-MNIST share names
                warn(f"{copy} is not used: {found[0]} in it is {found[1]}")
        else:
            lacking.append(archive)
    return lacking


def _fetch(name: str, archives: list[str], kept: Path) -> None:
    """Get archives into the folder `kept`, on from what is there."""
    dataset = torchvision_class(name)
    if name == "cifar10":
        md5s, mirrors = {dataset.filename: dataset.tgz_md5}, [dataset.url.removesuffix(dataset.filename)]
    else:
        md5s, mirrors = dict(dataset.resources), dataset.mirrors
    if failures := _probe([mirror + archives[0] for mirror in mirrors]):
        raise DataError(f"{name}: no server answers ({failures}). {by_hand(name)}")
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
                raise kind(f"{name}: {said}. Try again: it goes on from what came. {by_hand(name)}")


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
    if md5_of(path) == md5:
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
