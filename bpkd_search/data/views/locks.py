"""File locks: one builder at a time, and no removal under a reader. The system lets go however a process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bpkd_search.errors import DataError


class Held(Exception):
    """Another process holds the lock."""


def acquire(path: Path, *, shared: bool = False, block: bool = True, notice: Callable[[], None] | None = None) -> int:
    """Lock a file, made where it is missing, and give its descriptor; closing that lets go.

    `notice` is called once before waiting. Errors: `Held` where waiting is not wanted, `DataError` where the
    file system has no locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if not block:
                    raise Held(path) from None
                if notice is not None:
                    notice()
                fcntl.flock(descriptor, kind)
            # Whoever held it may have removed the file meanwhile; then the lock guards nothing.
            if os.path.exists(path) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except OSError as e:
            os.close(descriptor)
            raise DataError(
                f"{path}: cannot be locked ({e.strerror}); set data.views_dir to a file system with locks"
            ) from e
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextmanager
def hold(
    path: Path, *, shared: bool = False, block: bool = True, notice: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold a lock for the length of a block; see `acquire`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = acquire(path, shared=shared, block=block, notice=notice)
    try:
        yield
    finally:
        os.close(descriptor)
