"""Parquet tables that are always complete: files of a fixed number of rows, each replaced atomically."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bpkd_search.errors import ExperimentError
from bpkd_search.files import remove_partial, with_room, write_bytes

Row = dict[str, Any]


class ChunkedTable:
    """A table whose rows change: row n is in file n // chunk, which keeps files few and rewrites small.

    `put` sets a row in memory; `flush` rewrites the chunks that changed. A reader sees each file either
    before or after a rewrite, never in between. Raises `ExperimentError` if a file cannot be written.
    """

    def __init__(self, directory: Path, schema: pa.Schema, chunk: int) -> None:
        self.directory, self.schema, self.chunk = directory, schema, chunk
        self._chunks: dict[int, dict[int, Row]] = {}
        self._dirty: set[int] = set()
        _open(directory)

    def put(self, index: int, row: Mapping[str, Any]) -> None:
        """Set row `index`; keys that are not in the schema are ignored, missing ones are null."""
        number = index // self.chunk
        self._chunks.setdefault(number, {})[index] = {name: row.get(name) for name in self.schema.names}
        self._dirty.add(number)

    def flush(self) -> None:
        """Write changed rows."""
        for number in sorted(self._dirty):
            rows = [row for _, row in sorted(self._chunks[number].items())]
            write_table(pa.Table.from_pylist(rows, schema=self.schema), part(self.directory, number))
            self._dirty.discard(number)

    @property
    def dirty(self) -> bool:
        """Whether there are unwritten rows."""
        return bool(self._dirty)


class AppendedTable:
    """A table that only grows; memory holds only the rows of the newest file.

    `append` adds a row and writes a file once it has `chunk` rows; `flush` rewrites the newest one. Raises
    `ExperimentError` if a file cannot be written.
    """

    def __init__(self, directory: Path, schema: pa.Schema, chunk: int) -> None:
        self.directory, self.schema, self.chunk = directory, schema, chunk
        self.dirty = False
        self._number, self._rows = 0, 0
        self._waiting: list[Row] = []
        # Rows are converted to Arrow only once, so that rewriting the newest file is cheap.
        self._kept: list[pa.Table] = []
        _open(directory)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; keys that are not in the schema are ignored, missing ones are null."""
        self._waiting.append({name: row.get(name) for name in self.schema.names})
        self._rows += 1
        self.dirty = True
        if self._rows >= self.chunk:
            self.flush()
            self._number, self._rows, self._kept = self._number + 1, 0, []

    def flush(self) -> None:
        """Write added rows."""
        if not self.dirty:
            return
        if self._waiting:
            self._kept.append(pa.Table.from_pylist(self._waiting, schema=self.schema))
            self._waiting = []
        self._kept = [pa.concat_tables(self._kept).unify_dictionaries().combine_chunks()]
        write_table(self._kept[0], part(self.directory, self._number))
        self.dirty = False


def part(directory: Path, number: int) -> Path:
    """Return the path of a chunk of a table."""
    return directory / f"part-{number:06d}.parquet"


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file atomically."""
    try:
        write_bytes(path, as_parquet(table))
    except OSError as e:
        raise ExperimentError(
            f"{path}: cannot be written ({e.strerror or e}); free some space and resume the search"
        ) from e


def as_parquet(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return bytes(buffer.getvalue().to_pybytes())


def _open(directory: Path) -> None:
    """Create the directory of a table, and remove the partial files of a killed writer."""
    try:
        with_room(directory, lambda: directory.mkdir(parents=True, exist_ok=True))
        remove_partial(directory)
    except OSError as e:
        raise ExperimentError(f"{directory}: cannot be created: {e.strerror}") from e
