"""The store of finished runs: one small file a record on this machine, and the published ones in git."""

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from deepnets_utils.runs import paths
from deepnets_utils.runs.datasets import CANONICAL
from deepnets_utils.runs.files import locked, move_aside, warn, write_whole
from deepnets_utils.runs.run import Result, Run, canonical, joint_digest

NO_RECORD = (ValueError, KeyError, TypeError, AttributeError)  # what reading anything else raises
PART_SECONDS, STACK_SECONDS = 3600.0, 30 * 86_400.0
CHECKSUM = b'{"checksum":"%b",'  # of the rest, at the beginning of a record's line


class Store:
    """Finished records under `folder`/records, claims and checkpoints beside them.

    folder: this machine's store, by default runs/ of the project. published: folder of `*.jsonl` files with
    published records, which are read and never written here. A record is used only when it is whole and its
    data are the canonical ones.
    """

    def __init__(self, folder: Path | None = None, published: Path | None = paths.RECORDS) -> None:
        self.folder = folder or paths.output_root() / "runs"
        self.published_folder = published

    def get(self, run: Run) -> Result | None:
        """Return the stored Result of a run, this machine's before the published one, or None.

        A damaged file is moved aside with a warning, so that the run is done again.
        """
        path = self._record(run)
        with contextlib.suppress(FileNotFoundError):
            try:
                result = _read(path.read_bytes())
                if result.run != run:
                    raise ValueError("it is the record of another run")
                return result
            except NO_RECORD as error:
                warn(f"record {path.name} is not used: {error}; {move_aside(path)}")
        return self._published.get(run.digest)

    def put(self, result: Result) -> None:
        """Write a record, whole, and remove the run's checkpoint.

        Raises OSError when there is no room, ValueError for other data than the canonical ones, ValueError or
        TypeError for what JSON cannot hold.
        """
        _usable(result)
        write_whole(self._record(result.run), lambda file: file.write(record_line(result)))
        self.checkpoint(result.run).unlink(missing_ok=True)

    def claim(self, run: Run) -> FileLock | None:
        """Return a held lock on a run (see `locked`), or None when another process holds it."""
        try:
            return locked(self.folder / "claims" / f"{run.digest}.lock", timeout=0).lock
        except Timeout:
            return None

    def release(self, claim: FileLock) -> None:
        """Let go of the claim on a run whose record is stored, for whoever looks again to find, and remove its file."""
        with contextlib.suppress(PermissionError):  # Windows removes no open file
            Path(claim.lock_file).unlink(missing_ok=True)
        claim.release()

    def remove_parts(self) -> None:
        """Remove what nobody has touched for long: files that a killed process left half written, stacks' checkpoints.

        Nobody goes on with a stack once some of its runs are stored elsewhere.
        """
        for pattern, seconds in (("*/.*.partial", PART_SECONDS), ("checkpoints/stack-*.pt", STACK_SECONDS)):
            for part in self.folder.glob(pattern):
                with contextlib.suppress(FileNotFoundError):  # another process may have done so
                    if time.time() - part.stat().st_mtime > seconds:
                        part.unlink()

    def checkpoint(self, run: Run) -> Path:
        """Return where the run's checkpoint lies while it is unfinished."""
        return self.folder / "checkpoints" / f"{run.digest}.pt"

    def stack_checkpoint(self, runs: Iterable[Run]) -> Path:
        """Return where the checkpoint of runs that train as one network lies while they are unfinished."""
        return self.folder / "checkpoints" / f"{joint_digest(runs)}.pt"

    def weights(self, run: Run) -> Path:
        """Return where the weights of a run lie that is a teacher; never published, trained again when lost."""
        return self.folder / "weights" / f"{run.digest}.pt"

    def has_weights(self, run: Run) -> bool:
        """Return whether the weights of a teacher are there; damaged ones (see `save_state`) are moved aside."""
        path = self.weights(run)
        if not path.exists():
            return False
        content = path.read_bytes()
        if whole := hashlib.sha256(content[32:]).digest() == content[:32]:
            return whole
        warn(f"weights {path.name} are not used: the checksum does not match the content; {move_aside(path)}")
        return False

    def results(self) -> Iterator[Result]:
        """Yield every usable Result, this machine's and the published ones; damaged files are passed over."""
        seen = set()
        for path in sorted((self.folder / "records").glob("*.json")):
            try:
                result = _read(path.read_bytes())
            except (OSError, *NO_RECORD):
                continue
            seen.add(result.run.digest)
            yield result
        yield from (result for digest, result in self._published.items() if digest not in seen)

    def _record(self, run: Run) -> Path:
        return self.folder / "records" / f"{run.digest}.json"

    @functools.cached_property
    def _published(self) -> dict[str, Result]:
        if self.published_folder is None:
            return {}
        files = sorted(self.published_folder.glob("*.jsonl"))
        return {result.run.digest: result for file in files for result in read_records(file)}


def read_records(file: Path) -> Iterator[Result]:
    """Yield the usable Results of a `.jsonl` file of records; a line that is not one is reported and left out."""
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            yield _read(line)
        except NO_RECORD as error:
            warn(f"{file.name}, line {number} is not used: {error}")


def write_records(file: Path, results: Iterable[Result]) -> None:
    """Write Results into a `.jsonl` file, one line each, ordered by digest, whole."""
    lines = sorted(results, key=lambda result: result.run.digest)
    write_whole(file, lambda stream: stream.writelines(record_line(result) for result in lines))


def record_line(result: Result) -> bytes:
    return sealed(canonical(result.to_json()).encode())


def sealed(body: bytes) -> bytes:
    """Return the line of a record: the text of a JSON object with its checksum in front."""
    return CHECKSUM % hashlib.sha256(body).hexdigest()[:16].encode() + body[1:] + b"\n"


def _read(line: bytes) -> Result:
    body = b"{" + line[len(CHECKSUM % (b"0" * 16)) :].rstrip()
    if sealed(body).rstrip() != line.rstrip():
        raise ValueError("the checksum does not match the content")
    return _usable(Result.from_json(json.loads(body)))


def _usable(result: Result) -> Result:
    expected = CANONICAL.get(result.run.dataset)
    if result.provenance.get("data_fingerprint") != expected:
        raise ValueError(f"it was made from other data than the canonical {result.run.dataset}")
    return result
