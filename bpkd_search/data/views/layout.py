"""Flat arrays in `.npy` files: position of each row, writing rows, and memory-mapping.

Items have one row each, or with `lengths` as many as they need: images of differing sizes are rows of bytes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from bpkd_search.errors import DataError
from bpkd_search.files import with_room

CHUNK_BYTES = 64 * 2**20
REMEDY = "`bpkd-search views SPACE.yaml --verify` finds damaged chunks and builds them again"

Array = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """Arrays by name, each with the shape and dtype of a row; item i of group g is row g * items + i.

    A chunk is up to `chunk` items in all of their groups. With `lengths` there is one group, and item i has
    `lengths[i]` rows after those of the items before it.
    """

    arrays: dict[str, tuple[tuple[int, ...], str]]
    items: int
    groups: int
    chunk: int
    lengths: tuple[int, ...] | None = None

    @staticmethod
    def of(arrays: dict[str, tuple[tuple[int, ...], str]], items: int, groups: int = 1, chunk: int = 16) -> Layout:
        """Return the layout with chunks of at most `chunk` items and about 64 MiB."""
        item = Layout(arrays, 1, groups, 1).bytes
        return Layout(arrays, items, groups, max(1, min(chunk, CHUNK_BYTES // item)))

    @staticmethod
    def of_records(lengths: Sequence[int], chunk: int = 16) -> Layout:
        """Return the layout of records of bytes, the array `records`, with chunks of about 64 MiB at most."""
        chunk = max(1, min(chunk, CHUNK_BYTES // max(lengths)))
        return Layout({"records": ((), "|u1")}, len(lengths), 1, chunk, tuple(lengths))

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        return tuple(accumulate(self.lengths or (), initial=0))

    def row(self, item: int) -> int:
        """Return the first row of an item in its group, or for `items` the number of rows of a group."""
        return item if self.lengths is None else self._starts[item]

    @property
    def rows(self) -> int:
        """Number of rows of an array."""
        return self.row(self.items) * self.groups

    @property
    def bytes(self) -> int:
        """Size of all arrays."""
        return sum(self.row_bytes(name) for name in self.arrays) * self.rows

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.items // self.chunk)

    def span(self, chunk: int) -> tuple[int, int]:
        """Return the first item of a chunk and the item after its last."""
        return chunk * self.chunk, min(self.items, (chunk + 1) * self.chunk)

    def row_bytes(self, name: str) -> int:
        """Return the size of one row of an array in bytes."""
        shape, dtype = self.arrays[name]
        return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def open_arrays(folder: Path, layout: Layout) -> dict[str, Array]:
    """Return the arrays, memory-mapped copy-on-write. Raises `DataError` if a file is missing or damaged."""
    arrays = {}
    for name, (shape, dtype) in layout.arrays.items():
        path = folder / f"{name}.npy"
        try:
            # Copy-on-write, because torch does not accept read-only arrays.
            array = np.load(path, mmap_mode="c")
        except (OSError, ValueError) as e:
            raise DataError(f"{path}: is not a readable array ({e}); {REMEDY}") from e
        if array.shape != (layout.rows, *shape) or array.dtype != np.dtype(dtype):
            raise DataError(f"{path}: holds {array.dtype} {array.shape}; {REMEDY}")
        arrays[name] = array
    return arrays


def write_rows(path: Path, layout: Layout, name: str, start: int, rows: Array) -> None:
    """Write rows [groups, n, ...] of the items from `start` on, and flush them to disk."""
    # Written, not mapped: a full disk then raises an error instead of killing the process, and neighbouring chunks
    # that share a page may be written from two machines.
    size, offset = layout.row_bytes(name), len(_header(layout, name))

    def write() -> None:
        with path.open("r+b") as file:
            for group, part in enumerate(rows):
                file.seek(offset + (group * layout.row(layout.items) + layout.row(start)) * size)
                file.write(part.data)
            file.flush()
            os.fsync(file.fileno())

    with_room(path.parent, write, rows.nbytes)


def _header(layout: Layout, name: str) -> bytes:
    shape, dtype = layout.arrays[name]
    buffer = io.BytesIO()
    rows = (layout.rows, *shape)
    write_array_header_1_0(buffer, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": rows})
    return buffer.getvalue()


def _size(layout: Layout, name: str) -> int:
    return len(_header(layout, name)) + layout.row_bytes(name) * layout.rows


def has_size(path: Path, layout: Layout, name: str) -> bool:
    """Return whether a file exists and has the size of the layout."""
    return path.is_file() and path.stat().st_size == _size(layout, name)


def shape_file(path: Path, layout: Layout, name: str) -> None:
    """Write the header of a file and set its size; existing rows are kept, new ones are holes."""

    def write() -> None:
        path.touch()
        with path.open("r+b") as file:
            file.write(_header(layout, name))
            file.truncate(_size(layout, name))

    with_room(path.parent, write, len(_header(layout, name)))
