"""The event log: one append-only line for each ask, report and end of a trial.

It is the source of truth of an experiment: tables are derived from it, and a search resumes from it. A line is
written before its event takes effect; an incomplete last line, left by a crash, is ignored when read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.paths import EVENTS
from bpkd_search.files import with_room

Event = dict[str, Any]
_BLOCK = 2**16


class EventLog:
    """Appends events to the log of an experiment directory; existing events are kept."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / EVENTS
        self._drop_incomplete_line()
        self._file: BinaryIO = with_room(directory, lambda: self.path.open("ab", buffering=0))

    def append(self, event: Event) -> None:
        """Write one event. Raises `FullDiskError`, or `ExperimentError` for other errors; then nothing is written."""
        line = json.dumps(event, separators=(",", ":"), default=str).encode() + b"\n"
        try:
            with_room(self.path.parent, lambda: self._write(line), len(line))
        except OSError as e:
            raise ExperimentError(
                f"{self.path}: cannot be written ({e.strerror}); free some space and resume the search"
            ) from e

    def _write(self, line: bytes) -> None:
        start = os.fstat(self._file.fileno()).st_size
        try:
            # When a disk becomes full, a first part of the line may still be written.
            while line:
                line = line[self._file.write(line) :]
        except OSError:
            self._file.truncate(start)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _drop_incomplete_line(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            end = position = file.seek(0, os.SEEK_END)
            while position > 0:
                begin = max(0, position - _BLOCK)
                file.seek(begin)
                newline = file.read(position - begin).rfind(b"\n")
                if newline >= 0:
                    position = begin + newline + 1
                    break
                position = begin
            if position != end:
                file.truncate(position)
                os.fsync(file.fileno())


def log_size(directory: Path) -> int:
    """Return the size of the log in bytes, where the events of the future begin."""
    path = directory / EVENTS
    return path.stat().st_size if path.exists() else 0


def read_events(directory: Path, kind: str = "", start: int = 0) -> Iterator[Event]:
    """Yield the complete events of an experiment, in order: of one kind or of all, from the byte `start` of the log.

    Raises `ExperimentError` for a damaged line.
    """
    path, begin = directory / EVENTS, f'{{"event":"{kind}'.encode()
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            if kind and not line.startswith(begin):
                continue
            try:
                yield json.loads(line)
            except ValueError as e:
                raise ExperimentError(f"{path}:{number}: is not an event: {line.strip()[:60]!r}") from e
