"""Files that are whole or not there, and locks on them."""

import contextlib
import errno
import itertools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO

from filelock import AcquireReturnProxy, FileLock

notes: list[str] = []  # what this process has to say on its pages, see `Study.finish`
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


def warn(text: str) -> None:
    """Warn of a file that is not used, on stderr and, where this process makes the page, on the page."""
    notes.append(text)
    warnings.warn(text, stacklevel=3)


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file through `write(file)`: temporary file in the same folder, fsync, replace.

    A reader sees the old file or the new one, never a part. Raises OSError, with the path, without room or right.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:  # a full disk does not say which
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8, whole or not at all; raises as `write_whole` does."""
    write_whole(path, lambda file: file.write(text.encode()))


def locked(path: Path, timeout: float = -1) -> AcquireReturnProxy:
    """Return a held lock on a file, for `with`; released by this process's death, too.

    timeout: seconds to wait for whoever holds it, -1 for ever. Raises Timeout, and OSError, with the folder and what to
    do, where its file system has no locks: a file in place of a lock would outlive its process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(path, fallback_to_soft=False).acquire(timeout=timeout)
    except OSError as error:  # Timeout is one, too
        if error.errno not in NO_LOCKS:
            raise
        where = "DEEPNETS_OUTPUT (runs, reports) or DEEPNETS_DATA (data sets)"
        text = f"{path.parent} is on a file system without file locks ({error.strerror})"
        raise OSError(f"{text}: set {where} to a folder on one that has them") from error


def move_aside(path: Path) -> str:
    """Rename a damaged file to the first free `NAME.damaged-N` beside it, if it may; return in words where it is."""
    targets = (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(1))
    target = next(target for target in targets if not target.exists())
    try:
        os.replace(path, target)
    except FileNotFoundError:
        pass  # another process has done so a moment ago
    except OSError as error:
        return f"it stays where it is ({error.strerror})"
    return f"moved to {target}"
