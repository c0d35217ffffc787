"""Which files of a folder a store has as they are here; sends those that it has not.

A file is one object. A log, which only grows, is sent in segments: of a full one that is done for good, and only its
complete lines, which no restart takes back.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bpkd_search.experiment.paths import EVENTS
from bpkd_search.stores.store import Store

SEGMENT = 2**20
_LOG = EVENTS.removesuffix(".jsonl")


class Uploads:
    """The files of a folder by name, and what was sent of each."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        self._sent: dict[str, tuple[int, ...]] = {}
        self._full: dict[str, int] = {}

    def send(self, names: Iterable[str]) -> None:
        """Send what has changed of these files; those that do not exist are passed over. Raises `StoreError`."""
        for name in names:
            mark = self._mark(name)
            if mark is None or mark == self._sent.get(name):
                continue
            try:
                content = self._read(name)
            except FileNotFoundError:
                continue
            if is_log(name):
                self._send_log(name, content)
            else:
                self.store.put(name, content)
            self._sent[name] = mark

    def behind(self, names: Iterable[str]) -> list[str]:
        """Those of the files that the store does not have as they are here."""
        return [name for name in names if self._mark(name) not in (None, self._sent.get(name))]

    def _mark(self, name: str) -> tuple[int, ...] | None:
        try:
            status = (self.folder / name).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self, name: str) -> bytes:
        if not is_log(name):
            return (self.folder / name).read_bytes()
        with (self.folder / name).open("rb") as file:
            file.seek(self._full.get(name, 0) * SEGMENT)
            return file.read()

    def _send_log(self, name: str, lines: bytes) -> None:
        lines, number = lines[: lines.rfind(b"\n") + 1], self._full.get(name, 0)
        for begin in range(0, len(lines), SEGMENT):
            segment = lines[begin : begin + SEGMENT]
            self.store.put(_segment(name, number), segment)
            if len(segment) == SEGMENT:
                self._full[name] = number = number + 1


def is_log(name: str) -> bool:
    """Whether a file is an event log."""
    return name.rpartition("/")[2] == EVENTS


def log_of(name: str) -> str | None:
    """The event log that an object is a segment of; None for another object."""
    folder, _, _ = name.rpartition("/")
    return f"{folder}.jsonl" if folder.rpartition("/")[2] == _LOG else None


def _segment(name: str, number: int) -> str:
    return f"{name.removesuffix('.jsonl')}/{number:06d}.jsonl"
