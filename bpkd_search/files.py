"""Files that are written whole, and locks that the system releases however their holder ends."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

from bpkd_search.errors import ResourceError, UserError
from bpkd_search.machine import refuse_windows


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; at the end of the block it takes the place of `path`.

    A reader sees the file either before or after, never half, and after an error as it was before. Missing parent
    directories are made. The temporary name is hidden, and `remove_partial` removes what a killed process left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        mode = os.fstat(descriptor).st_mode
        os.close(descriptor)
        yield partial
        # Some writers replace the file by one that only its owner can read; others on a cluster read it too.
        partial.chmod(mode)
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all; line ends stay as they are."""
    write_bytes(path, text.encode())


def remove_partial(directory: Path) -> None:
    """Remove the partial files of killed processes; only for a directory that nobody else writes to now."""
    for partial in directory.glob(".*.partial"):
        partial.unlink(missing_ok=True)


class Held(Exception):
    """Another process holds the lock."""


@contextmanager
def lock(
    path: Path,
    *,
    shared: bool = False,
    block: bool = True,
    notice: Callable[[], None] | None = None,
    error: type[UserError] = ResourceError,
    remedy: str = "choose a directory on a file system with locks",
) -> Iterator[FileIO]:
    """Hold a lock file, made where it is missing, for the length of a block; gives the open file.

    `notice` is called once before waiting for another process. Raises `Held` if another process holds it and
    `block` is false, and `error`, which ends with `remedy`, if the file cannot be locked.
    """
    try:
        file = _acquire(path, shared, block, notice)
    except ImportError as e:
        raise error(f"{path}: cannot be locked: {sys.platform} has no POSIX file locks; use Linux or macOS") from e
    except OSError as e:
        raise error(f"{path}: cannot be locked ({e.strerror}); {remedy}") from e
    with file:
        yield file


def _acquire(path: Path, shared: bool, block: bool, notice: Callable[[], None] | None) -> FileIO:
    # Imported here, because Windows lacks it and what needs no lock works there.
    refuse_windows()
    import fcntl

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        # Whoever held the lock may have removed its directory too.
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            file = stack.enter_context(path.open("a+b", buffering=0))
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if not block:
                    raise Held(path) from None
                if notice is not None:
                    notice()
                    notice = None
                fcntl.flock(file, kind)
            # A file that its holder has removed guards nothing: others lock a new one.
            if _is_at(file, path):
                stack.pop_all()
                return file


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
