"""Atomic file writes, and file locks that the system releases even if their holder is killed."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

from bpkd_search.errors import ResourceError, UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; at the end of the block it replaces `path`.

    A reader sees the old or the new file, never a partial one, and after an error the old one. Missing parent
    directories are created. The temporary name is hidden, and `remove_partial` removes leftovers of a killed process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        mode = os.fstat(descriptor).st_mode
        os.close(descriptor)
        yield partial
        # Some writers make the file readable by its owner only; others on a cluster read it too.
        partial.chmod(mode)
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; line endings are not converted."""
    write_bytes(path, text.encode())


def remove_partial(directory: Path) -> None:
    """Remove the partial files of killed processes; only for a directory that no other process writes to."""
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
    """Hold a lock file, created if missing, during a block; gives the open file.

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
    # Imported here, because Windows lacks it and code without locks works there.
    import fcntl

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        # The previous holder of the lock may have removed its directory too.
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
            # A removed file protects nothing: other processes lock a new one.
            if _is_at(file, path):
                stack.pop_all()
                return file


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
