"""Atomic file writes, full disks, and file locks that the system releases even if their holder is killed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TypeVar

from bpkd_search.errors import FullDiskError, ResourceError, UserError
from bpkd_search.machine import refuse_windows

T = TypeVar("T")
RETRY_SECONDS = 2.0
# Trials on other nodes report a full disk every few seconds, and a report may arrive after the room.
SETTLED_SECONDS = 10.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class Pause:
    """What a process does when a disk is full: it waits and prints one line, or, without `say`, it gives up."""

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._say, self._stop, self._told = say, threading.Event(), False
        self._full_at = self._over_at = -SETTLED_SECONDS

    def full(self, message: str, seconds: float = RETRY_SECONDS) -> None:
        """Wait `seconds` for room; zero if another process waits and has reported it.

        Each pause is printed once. Raises `FullDiskError` if nobody waits: then the write is not done.
        """
        # Ctrl-C reaches the main thread alone: others leave the waiting to it.
        if self._say is None or self._stop.is_set() or threading.current_thread() is not threading.main_thread():
            raise FullDiskError(message)
        self._full_at = time.monotonic()
        late = not seconds and self._full_at - self._over_at < SETTLED_SECONDS
        if not self._told and not late:
            self._told = True
            self._say(f"{message}; waiting until there is room")
        self._stop.wait(seconds)

    def over(self, quiet: float = SETTLED_SECONDS) -> None:
        """Print that there is room again, after a pause, unless a full disk was reported in the last `quiet` seconds.

        A write that succeeds shows room for itself only: another, larger one may still be waiting.
        """
        now = time.monotonic()
        if self._told and self._say is not None and now - self._full_at >= quiet:
            self._told, self._over_at = False, now
            self._say("there is room on the disk again")

    def stop(self) -> None:
        """Wait no more, now and from now on."""
        self._stop.set()


_pauses = [Pause()]


@contextmanager
def pausing(say: Callable[[str], None] | None) -> Iterator[None]:
    """Within the block, this process waits while a disk is full, and `say` gets a line; with None it gives up."""
    _pauses.append(Pause(say))
    try:
        yield
        pause().over(quiet=0)
    finally:
        _pauses.pop()


def pause() -> Pause:
    """What this process does when a disk is full."""
    return _pauses[-1]


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full or a quota used up."""
    return isinstance(error, FullDiskError) or (isinstance(error, OSError) and error.errno in _FULL)


def with_room(directory: Path, work: Callable[[], T], needed: int = 0) -> T:
    """What `work` gives; it is repeated as long as it fails for a full disk and this process waits.

    `needed` are the bytes that it writes to `directory`. `work` leaves nothing half when it fails. Raises
    `FullDiskError` with the directory and the sizes.
    """
    waited = False
    while True:
        try:
            result = work()
        except (OSError, FullDiskError) as e:
            if not is_full(e):
                raise
            pause().full(str(e) if isinstance(e, FullDiskError) else full_disk(directory, needed))
            waited = True
        else:
            if waited:
                pause().over(quiet=0)
            return result


def full_disk(directory: Path, needed: int) -> str:
    """The message for a disk that is full."""
    existing = next(path for path in (directory, *directory.parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    sizes = f"{shown_bytes(max(needed, 1024))} needed, {shown_bytes(free)} free"
    return f"{directory}: the disk is full ({sizes})"


def shown_bytes(count: int) -> str:
    """A size in KiB, MiB or GiB, for display."""
    unit, power = next((u for u in (("GiB", 30), ("MiB", 20)) if count >= 2 ** u[1]), ("KiB", 10))
    return f"{count / 2**power:,.{1 if unit == 'GiB' else 0}f} {unit}"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; at the end of the block it replaces `path`.

    A reader sees the old or the new file, never a partial one, and after an error the old one. An existing file keeps
    its permissions; of a symbolic link, the target is replaced. Missing parent directories are created. The temporary
    name is hidden, and `remove_partial` removes leftovers of a killed process. An `OSError` names `path`.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        _make_directory(target.parent)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        mode = stat.S_IMODE((target.stat() if target.exists() else os.fstat(descriptor)).st_mode)
        os.close(descriptor)
        yield partial
        # Some writers make the file readable by its owner only; others on a cluster read it too.
        with partial.open("r+b") as file:
            partial.chmod(mode)
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException as e:
        with suppress(OSError):
            partial.unlink()
        if isinstance(e, OSError) and e.filename in (None, str(partial), partial):
            # A writer's error may name no file, and the temporary name means nothing to a user.
            e.filename, e.filename2 = str(path), None
        raise


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError as e:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory)) from e


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically. Raises `FullDiskError` on a full disk, unless this process waits for room."""

    def write() -> None:
        with replacing(path) as partial:
            partial.write_bytes(content)

    with_room(path.parent, write, len(content))


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
    remedy: str = "choose a directory",
) -> Iterator[FileIO]:
    """Hold a lock file, created if missing, during a block; gives the open file.

    `notice` is called once before waiting for another process. Raises `Held` if another process holds it and
    `block` is false, and `error` if the file cannot be created or locked; `remedy` is how to choose another directory.
    """
    try:
        file = _acquire(path, shared, block, notice)
    except ImportError as e:
        raise error(f"{path}: cannot be locked: {sys.platform} has no POSIX file locks; use Linux or macOS") from e
    except OSError as e:
        advice = f"{remedy} {'on a file system with locks' if e.errno in _NO_LOCKS else 'that can be written to'}"
        raise error(f"{path}: cannot be locked ({e.strerror}); {'free some space' if is_full(e) else advice}") from e
    with file:
        yield file


def _acquire(path: Path, shared: bool, block: bool, notice: Callable[[], None] | None) -> FileIO:
    # Imported here, because Windows lacks it and what needs no lock works there.
    refuse_windows()
    import fcntl

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        # The previous holder of the lock may have removed its directory too.
        _make_directory(path.parent)
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
