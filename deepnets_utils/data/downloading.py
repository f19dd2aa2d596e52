"""How a data set gets to its place: unpacked from archives that lie there, or from where torchvision gets it.

torchvision's own download begins again after an interruption, waits for ever for a server that is silent, and leaves
half a file behind when it is killed; its addresses, checksums and unpacking are used here.
"""

import os
import shutil
import threading
import urllib.request
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from deepnets_utils.data.inventory import FILES, FOLDER, how_to_get
from deepnets_utils.data.loading import check, load, torchvision_class
from deepnets_utils.runs.errors import DataError
from deepnets_utils.runs.files import locked
from deepnets_utils.runs.paths import data_root
from deepnets_utils.runs.progress import Reporter

AGENT = "pytorch/vision"  # as torchvision calls itself
SILENT_SECONDS = 10.0  # a server from which nothing comes for so long has failed
MB = 1e6  # bytes


def download(name: str) -> None:
    """Put the data set into data_root(), each file whole or not at all; no-op if it is there and canonical.

    Archives that lie there are unpacked; what they lack comes from where torchvision gets it. Downloads take turns, and
    one that broke off is gone on with by the next. Raises DataError when no server answers, a transfer breaks off,
    wrong bytes come or the folder cannot be written.
    """
    if check(name) == "ready":
        return
    root = data_root()
    try:
        with locked(root / ".download.lock"):
            if check(name) != "ready":  # else another process got it while this one waited
                _install(name, root)
    except OSError as error:
        raise DataError(f"{name}: cannot be put into {root} ({error!r}). {how_to_get(name)}") from error


def provide(name: str) -> None:
    """Load the data set, got anew where it is missing or damaged; raises DataError as `download` does."""
    try:
        load(name)
    except DataError:
        download(name)


def _install(name: str, root: Path) -> None:
    """Put the files of a data set in their place, each whole."""
    from torchvision.datasets.utils import extract_archive

    kept, folder = root / f".download-{name}", root / FOLDER[name]  # kept: what an interrupted call got
    unpacked = kept / FOLDER[name]
    unpacked.mkdir(parents=True, exist_ok=True)
    places = [folder, *(above for above in folder.parents if above.is_relative_to(root)), kept]
    for archive in [_archive(name, *source, places) for source in _sources(name)]:
        extract_archive(archive, kept if name == "cifar10" else unpacked)  # the tar holds the folder, too
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES[name]:  # what else is in the folder stays
        os.replace(unpacked / file, folder / file)
    shutil.rmtree(kept)


def _sources(name: str) -> list[tuple[str, list[str]]]:
    """Return md5 and addresses of each archive."""
    dataset = torchvision_class(name)
    if name == "cifar10":
        return [(dataset.tgz_md5, [dataset.url])]
    return [(md5, [mirror + archive for mirror in dataset.mirrors]) for archive, md5 in dataset.resources]


def _archive(name: str, md5: str, urls: list[str], places: list[Path]) -> Path:
    """Return a canonical archive that lies in one of the places, else one that is received into the last."""
    from torchvision.datasets.utils import check_integrity

    *_, archive = urls[0].rpartition("/")
    for place in places:
        if check_integrity(place / archive, md5):
            return place / archive
    path = places[-1] / archive
    others = [place / archive for place in places[:-1] if (place / archive).is_file()]
    failures = [f"{other}: not used, its md5 is not {md5}" for other in others]
    for url in urls * (1 + path.exists()):  # once more, anew, where what an earlier call got was wrong
        try:
            _receive(url, path)
            if check_integrity(path, md5):
                return path
            path.unlink()
            failures.append(f"{url}: wrong bytes, their md5 is not {md5}")
        except (OSError, HTTPException) as error:
            failures.append(f"{url}: {error}")
    raise DataError(f"{name}: {'; '.join(failures)}. The next try goes on from what came. {how_to_get(name)}")


def _receive(url: str, path: Path) -> None:
    """Get what a file lacks of what is at `url`; one that is too long is removed."""
    begun = path.stat().st_size if path.exists() else 0
    headers = {"User-Agent": AGENT} | ({"Range": f"bytes={begun}-"} if begun else {})
    try:
        response = _opened(urllib.request.Request(url, headers=headers))
    except HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            path.unlink()
        raise
    with response:
        mode, lacking = "ab" if response.status == HTTPStatus.PARTIAL_CONTENT else "wb", (response.length or 0) / MB
        plan = f"{lacking:.1f} MB to download from {urlsplit(url).netloc}"
        with open(path, mode) as file, Reporter(lacking, path.name, plan, "MB") as reporter:
            while part := response.read1(1 << 16):
                file.write(part)
                reporter.advance(len(part) / MB)
        if response.length:
            raise OSError(f"broke off, {response.length:,} bytes are lacking")


def _opened(request: urllib.request.Request) -> HTTPResponse:
    """Return the answer to a request; OSError where none comes in SILENT_SECONDS, also while a name is looked up."""
    came: list[Any] = []

    def ask() -> None:
        try:
            came.append(urllib.request.urlopen(request, timeout=SILENT_SECONDS))
        except (OSError, HTTPException) as error:
            came.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SILENT_SECONDS)
    answer = came[0] if came else OSError(f"no answer within {SILENT_SECONDS:g} s")
    if isinstance(answer, Exception):
        raise answer
    return answer
