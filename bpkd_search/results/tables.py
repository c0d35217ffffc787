"""Parquet tables that are always whole: chunks of rows, each rewritten beside and renamed into place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bpkd_search.errors import ExperimentError

Row = dict[str, Any]


class ChunkedTable:
    """A growing table in a folder: row n lives in file n // chunk, so files stay few and rewrites small.

    `put` sets a row in memory; `flush` rewrites the chunks that changed. A reader sees each file either
    before or after a rewrite, never half. Errors: `ExperimentError` when the disk is full.
    """

    def __init__(self, directory: Path, schema: pa.Schema, chunk: int) -> None:
        self.directory, self.schema, self.chunk = directory, schema, chunk
        self._chunks: dict[int, dict[int, Row]] = {}
        self._dirty: set[int] = set()

    def put(self, index: int, row: Mapping[str, Any]) -> None:
        """Set row `index`; keys beyond the schema are left out, absent ones are null."""
        number = index // self.chunk
        self._chunks.setdefault(number, {})[index] = {name: row.get(name) for name in self.schema.names}
        self._dirty.add(number)

    def flush(self) -> None:
        """Write what changed."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for number in sorted(self._dirty):
            rows = [row for _, row in sorted(self._chunks[number].items())]
            write_table(pa.Table.from_pylist(rows, schema=self.schema), self.directory / f"part-{number:06d}.parquet")
            # A full chunk that lies behind the newest one seldom changes; rows are kept for the case that it does.
        self._dirty.clear()

    @property
    def dirty(self) -> bool:
        """Whether rows wait to be written."""
        return bool(self._dirty)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file under a temporary name and rename it into place."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        pq.write_table(table, partial, compression="zstd")
        partial.replace(path)
    except OSError as e:
        partial.unlink(missing_ok=True)
        raise ExperimentError(
            f"{path}: cannot be written ({e.strerror or e}); free some space and resume the search"
        ) from e
