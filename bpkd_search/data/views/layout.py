"""Flat arrays in `.npy` files: where a row is, and how rows are written and mapped."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from bpkd_search.errors import DataError
from bpkd_search.files import with_room

CHUNK_BYTES = 64 * 2**20
REMEDY = "`bpkd-search views SPACE.yaml --verify` finds what is damaged and builds it again"

Array = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """Arrays by name, each with a row's shape and dtype; item i of group g is row g * items + i.

    A chunk is up to `chunk` items in all of their groups.
    """

    arrays: dict[str, tuple[tuple[int, ...], str]]
    items: int
    groups: int
    chunk: int

    @staticmethod
    def of(arrays: dict[str, tuple[tuple[int, ...], str]], items: int, groups: int = 1, chunk: int = 16) -> Layout:
        """The layout with chunks of at most `chunk` items and about 64 MiB."""
        item = Layout(arrays, 1, groups, 1).bytes
        return Layout(arrays, items, groups, max(1, min(chunk, CHUNK_BYTES // item)))

    @property
    def bytes(self) -> int:
        """Size of all arrays."""
        return sum(self.row_bytes(name) for name in self.arrays) * self.items * self.groups

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.items // self.chunk)

    def span(self, chunk: int) -> tuple[int, int]:
        """First item of a chunk and the one after its last."""
        return chunk * self.chunk, min(self.items, (chunk + 1) * self.chunk)

    def row_bytes(self, name: str) -> int:
        """Size of a row of one array."""
        shape, dtype = self.arrays[name]
        return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def open_arrays(folder: Path, layout: Layout) -> dict[str, Array]:
    """The arrays, memory-mapped; writing to them changes no file. Raises `DataError` naming the file."""
    arrays = {}
    for name, (shape, dtype) in layout.arrays.items():
        path = folder / f"{name}.npy"
        try:
            # Copy on write: torch takes no array that is read-only.
            array = np.load(path, mmap_mode="c")
        except (OSError, ValueError) as e:
            raise DataError(f"{path}: is no readable array ({e}); {REMEDY}") from e
        if array.shape != (layout.items * layout.groups, *shape) or array.dtype != np.dtype(dtype):
            raise DataError(f"{path}: holds {array.dtype} {array.shape}; {REMEDY}")
        arrays[name] = array
    return arrays


def write_rows(path: Path, layout: Layout, name: str, start: int, rows: Array) -> None:
    """Write rows [groups, n, ...] of the items from `start` on, and see them onto the disk."""
    # Written, not mapped: a full disk is then an error and not the end of the process, and neighbouring chunks
    # that share a page may be written from two machines.
    size, offset = layout.row_bytes(name), len(_header(layout, name))

    def write() -> None:
        with path.open("r+b") as file:
            for group, part in enumerate(rows):
                file.seek(offset + (group * layout.items + start) * size)
                file.write(part.data)
            file.flush()
            os.fsync(file.fileno())

    with_room(path.parent, write, rows.nbytes)


def _header(layout: Layout, name: str) -> bytes:
    shape, dtype = layout.arrays[name]
    buffer = io.BytesIO()
    rows = (layout.items * layout.groups, *shape)
    write_array_header_1_0(buffer, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": rows})
    return buffer.getvalue()


def _size(layout: Layout, name: str) -> int:
    return len(_header(layout, name)) + layout.row_bytes(name) * layout.items * layout.groups


def has_size(path: Path, layout: Layout, name: str) -> bool:
    """Whether a file is there and as long as the layout says."""
    return path.is_file() and path.stat().st_size == _size(layout, name)


def shape_file(path: Path, layout: Layout, name: str) -> None:
    """Give a file its header and its size; rows that it holds stay, new ones are holes."""

    def write() -> None:
        path.touch()
        with path.open("r+b") as file:
            file.write(_header(layout, name))
            file.truncate(_size(layout, name))

    with_room(path.parent, write, len(_header(layout, name)))
