"""Parquet tables that are always whole: files of a fixed number of rows, each replaced as a whole."""

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
    """A table whose rows change: row n lives in file n // chunk, so files stay few and rewrites small.

    `put` sets a row in memory; `flush` rewrites the chunks that changed. A reader sees each file either
    before or after a rewrite, never half. Raises `ExperimentError` when the disk is full.
    """

    def __init__(self, directory: Path, schema: pa.Schema, chunk: int) -> None:
        self.directory, self.schema, self.chunk = directory, schema, chunk
        self._chunks: dict[int, dict[int, Row]] = {}
        self._dirty: set[int] = set()
        _open(directory)

    def put(self, index: int, row: Mapping[str, Any]) -> None:
        """Set row `index`; keys beyond the schema are left out, absent ones are null."""
        number = index // self.chunk
        self._chunks.setdefault(number, {})[index] = {name: row.get(name) for name in self.schema.names}
        self._dirty.add(number)

    def flush(self) -> None:
        """Write what changed."""
        for number in sorted(self._dirty):
            rows = [row for _, row in sorted(self._chunks[number].items())]
            write_table(pa.Table.from_pylist(rows, schema=self.schema), part(self.directory, number))
            self._dirty.discard(number)

    @property
    def dirty(self) -> bool:
        """Whether rows wait to be written."""
        return bool(self._dirty)


class AppendedTable:
    """A table that only grows: memory holds the rows of the newest file, however many there are.

    `append` adds a row and writes a file once it is full; `flush` rewrites the newest one. Raises
    `ExperimentError` when the disk is full.
    """

    def __init__(self, directory: Path, schema: pa.Schema, chunk: int) -> None:
        self.directory, self.schema, self.chunk = directory, schema, chunk
        self.dirty = False
        self._number, self._rows = 0, 0
        self._waiting: list[Row] = []
        # Rows become Arrow once: a rewrite of the newest file then costs little more than its writing.
        self._kept: list[pa.Table] = []
        _open(directory)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; keys beyond the schema are left out, absent ones are null."""
        self._waiting.append({name: row.get(name) for name in self.schema.names})
        self._rows += 1
        self.dirty = True
        if self._rows >= self.chunk:
            self.flush()
            self._number, self._rows, self._kept = self._number + 1, 0, []

    def flush(self) -> None:
        """Write what was added."""
        if not self.dirty:
            return
        if self._waiting:
            self._kept.append(pa.Table.from_pylist(self._waiting, schema=self.schema))
            self._waiting = []
        self._kept = [pa.concat_tables(self._kept).unify_dictionaries().combine_chunks()]
        write_table(self._kept[0], part(self.directory, self._number))
        self.dirty = False


def part(directory: Path, number: int) -> Path:
    """The file of a table's chunk."""
    return directory / f"part-{number:06d}.parquet"


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file, whole or not at all."""
    try:
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        write_bytes(path, buffer.getvalue().to_pybytes())
    except OSError as e:
        raise ExperimentError(
            f"{path}: cannot be written ({e.strerror or e}); free some space and resume the search"
        ) from e


def _open(directory: Path) -> None:
    """Make a table's folder, and clear it of what a killed writer left half."""
    try:
        with_room(directory, lambda: directory.mkdir(parents=True, exist_ok=True))
        remove_partial(directory)
    except OSError as e:
        raise ExperimentError(f"{directory}: cannot be made: {e.strerror}") from e
