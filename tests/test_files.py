"""Whole-file writes under errors, kills and readers, and locks between processes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bpkd_search.errors import DataError, ExperimentError, ResourceError
from bpkd_search.files import Held, lock, remove_partial, replacing, write_bytes, write_text

ROOT = Path(__file__).parents[1]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_is_written_is_read_and_missing_directories_are_made(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a/b/bytes", b"\x00\r\n")
    write_text(tmp_path / "a/b/text", "α\r\nβ\n")
    assert (tmp_path / "a/b/bytes").read_bytes() == b"\x00\r\n"
    assert (tmp_path / "a/b/text").read_bytes() == "α\r\nβ\n".encode()
    assert names(tmp_path / "a/b") == ["bytes", "text"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    write_text(tmp_path / "x.json", "old")
    with pytest.raises(error), replacing(tmp_path / "x.json") as partial:
        partial.write_text("half")
        assert partial.parent == tmp_path and partial.name.startswith(".")
        assert list(tmp_path.glob("*.json")) == [tmp_path / "x.json"]
        raise error
    assert (tmp_path / "x.json").read_text() == "old"
    assert names(tmp_path) == ["x.json"]


def test_permissions_are_those_of_the_umask_whatever_the_writer_sets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "x") as partial:
            # As libraries do that write a file of their own and rename it.
            other = tmp_path / "private"
            other.write_text("x")
            other.chmod(0o600)
            other.replace(partial)
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_an_existing_file_keeps_its_permissions_and_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real" / "x", tmp_path / "link"
    write_text(real, "old")
    real.chmod(0o600)
    link.symlink_to(Path("real") / "x")
    for path in (real, link):
        write_text(path, f"new by {path.name}")
        assert real.read_text() == link.read_text() == f"new by {path.name}"
        assert real.stat().st_mode & 0o777 == 0o600
    assert link.readlink() == Path("real") / "x" and names(tmp_path / "real") == ["x"]
    assert names(tmp_path) == ["link", "real"]


def test_a_link_to_a_file_that_does_not_exist_yet_creates_that_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "made" / "x")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "made" / "x").read_text() == "new"


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, replacing(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError) as wrong, replacing(tmp_path / "file" / "x"):
        pass
    assert wrong.value.filename == str(tmp_path / "file")


def test_content_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), sync(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda a, b: (calls.append("replace"), rename(a, b))[1])
    write_text(tmp_path / "x", "x")
    assert calls == ["fsync", "replace"]


def test_a_reader_never_sees_half_a_file_and_threads_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "x"
    texts = [letter * 200_000 for letter in "abc"]
    write_text(path, texts[0])
    writers = [threading.Thread(target=lambda t=t: [write_text(path, t) for _ in range(10)]) for t in texts]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_text() in texts
    assert names(tmp_path) == ["x"]


def test_a_killed_writer_leaves_the_old_file_and_a_partial_one_that_can_be_removed(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    code = (
        "import sys, os, signal; from pathlib import Path; from bpkd_search.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], cwd=ROOT).returncode == -signal.SIGKILL
    assert (tmp_path / "x").read_text() == "old"
    assert len(names(tmp_path)) == 2
    remove_partial(tmp_path)
    assert names(tmp_path) == ["x"]


def test_locks_exclude_and_share(tmp_path: Path) -> None:
    path = tmp_path / "made" / "lock"
    with lock(path, shared=True), lock(path, shared=True, block=False), pytest.raises(Held), lock(path, block=False):
        pass
    with lock(path), pytest.raises(Held), lock(path, shared=True, block=False):
        pass
    with lock(path, block=False):
        pass


def test_a_lock_gives_its_open_file(tmp_path: Path) -> None:
    with lock(tmp_path / "lock") as file:
        file.write(b"me")
        assert (tmp_path / "lock").read_text() == "me"
    assert file.closed


def test_a_removed_lock_file_guards_nothing(tmp_path: Path) -> None:
    with lock(tmp_path / "x"):
        (tmp_path / "x").unlink()
        with lock(tmp_path / "x", block=False) as file:
            assert not file.closed and (tmp_path / "x").exists()


def test_who_waits_is_told_once_and_gets_the_lock_even_if_its_directory_is_removed(tmp_path: Path) -> None:
    path, notices, got = tmp_path / "store" / "lock", [], []

    def wait() -> None:
        with lock(path, notice=lambda: notices.append(1)):
            got.append(path.exists())

    waiter = threading.Thread(target=wait)
    with lock(path):
        waiter.start()
        wait_for(lambda: bool(notices))
        path.unlink()
        path.parent.rmdir()
    waiter.join(timeout=60)
    assert (notices, got) == ([1], [True])


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from bpkd_search.files import lock\n"
        "with lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(Held), lock(tmp_path / "lock", block=False):
            pass
        holder.kill()
        with lock(tmp_path / "lock"):
            pass


def test_a_file_system_without_locks_is_an_error_of_the_callers_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    path, message = tmp_path / "lock", r"lock: cannot be locked \(No locks available\); "
    with pytest.raises(ResourceError, match=message + "choose a directory on a file system with locks$"), lock(path):
        pass
    with pytest.raises(DataError, match=message + "set x on a"), lock(path, error=DataError, remedy="set x"):
        pass


def test_a_path_that_cannot_be_opened_is_an_error_that_does_not_advise_on_locks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = r"file/lock: cannot be locked \(Not a directory\); choose a directory that can be written to$"
    with pytest.raises(ResourceError, match=message), lock(tmp_path / "file" / "lock"):
        pass


def test_an_error_inside_the_block_is_not_taken_for_one_of_the_lock(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk"), lock(tmp_path / "lock"):
        raise OSError("disk")


def test_a_system_without_file_locks_is_named_when_a_lock_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    message = r"lock: cannot be locked: \w+ has no POSIX file locks; use Linux or macOS$"
    with pytest.raises(ExperimentError, match=message), lock(tmp_path / "lock", error=ExperimentError):
        pass
