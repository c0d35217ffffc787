"""Flat arrays on disk, built in chunks: finished chunks survive a killed build and are checked one by one.

A directory holds one `.npy` file per array and `chunks.json`: the layout, a CRC-32 of every finished chunk, and a
description of the arrays. The values of a chunk are a pure function of its items, so chunks may be made in any order,
by threads or by processes on other machines; only the caller of `build` writes the table.
"""

from __future__ import annotations

import json
import socket
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bpkd_search.data.views.layout import Array, Layout, has_size, open_arrays, shape_file, write_rows
from bpkd_search.errors import DataError, ResourceError
from bpkd_search.files import lock, write_text
from bpkd_search.machine import usable_cpus

TABLE = "chunks.json"

# Locks of the cache of views and teachers.
cache_lock = partial(lock, error=DataError, remedy="set data.views_dir to a directory")

Progress = Callable[[int, int], None]
Work = Callable[[int, int], dict[str, Array]]
Map = Callable[[Callable[[int], tuple[int, int]], Sequence[int]], Iterable[tuple[int, int]]]


@dataclass
class Table:
    """The contents of `chunks.json`: layout, description, and the CRC-32 of every finished chunk."""

    layout: Layout
    about: dict[str, Any] = field(default_factory=dict)
    # Distinguishes this build from one at the same path on another machine.
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    done: dict[int, int] = field(default_factory=dict)

    @staticmethod
    def read(folder: Path) -> Table | None:
        """Return the table of a directory, or None if it is missing or unreadable."""
        try:
            tree = json.loads((folder / TABLE).read_text())
            layout = tree["layout"]
            arrays = {name: (tuple(shape), dtype) for name, (shape, dtype) in layout.pop("arrays").items()}
            done = {int(chunk): int(crc) for chunk, crc in tree["done"].items()}
            return Table(Layout(arrays, **layout), tree["about"], tree["token"], done)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Write the table atomically."""
        write_text(folder / TABLE, json.dumps(asdict(self)))

    @property
    def missing(self) -> list[int]:
        """Chunks that are not finished."""
        return [chunk for chunk in range(self.layout.chunks) if chunk not in self.done]


@dataclass(frozen=True)
class ChunkTask:
    """Makes a chunk and writes its rows; returns the number of the chunk and its CRC-32. Picklable."""

    folder: Path
    token: str
    layout: Layout
    work: Work

    def __call__(self, chunk: int) -> tuple[int, int]:
        """Make and write one chunk. Raises `DataError` if this machine sees another directory at this path."""
        table = Table.read(self.folder)
        if table is None or table.token != self.token:
            raise DataError(
                f"{self.folder}: on {socket.gethostname()} is not the directory that the driver sees; set"
                " data.views_dir to a directory that all nodes share"
            )
        start, stop = self.layout.span(chunk)
        values = self.work(start, stop)
        rows = {name: np.ascontiguousarray(values[name]) for name in self.layout.arrays}
        try:
            for name, part in rows.items():
                write_rows(self.folder / f"{name}.npy", self.layout, name, start, part)
        except OSError as e:
            raise ResourceError(f"{self.folder}: cannot be written: {e.strerror}") from e
        return chunk, checksum(rows)


def build(
    folder: Path,
    layout: Layout,
    work: Work,
    *,
    about: dict[str, Any],
    map: Map = map,
    progress: Progress | None = None,
    waiting: Callable[[], None] | None = None,
) -> None:
    """Make the chunks missing in `folder`; if two processes build at once, the second waits for the first.

    `work(start, stop)` returns the rows [groups, stop - start, ...] of each array; `map(function, chunks)` runs chunks
    in any order. `waiting` is called once before waiting for another process. Raises what `work` raises, and
    `ResourceError` if the disk is full.
    """
    if finished(folder, layout):
        return
    with cache_lock(folder / "lock", notice=waiting):
        table = _begin(folder, layout, about)
        task = ChunkTask(folder, table.token, layout, work)
        for chunk, crc in map(task, table.missing):
            table.done[chunk] = crc
            table.write(folder)
            if progress:
                progress(min(layout.items, len(table.done) * layout.chunk), layout.items)


def finished(folder: Path, layout: Layout) -> bool:
    """Return whether every chunk is finished and every file has its size; the contents are not read."""
    table = Table.read(folder)
    return (
        table is not None
        and table.layout == layout
        and not table.missing
        and all(has_size(folder / f"{name}.npy", layout, name) for name in layout.arrays)
    )


def _begin(folder: Path, layout: Layout, about: dict[str, Any]) -> Table:
    """Return the table to continue from; if a file has a wrong size, every chunk is checked first."""
    table = Table.read(folder)
    if table is None or table.layout != layout:
        table = Table(layout, about)
        for name in layout.arrays:
            (folder / f"{name}.npy").unlink(missing_ok=True)
            shape_file(folder / f"{name}.npy", layout, name)
        table.write(folder)
    elif not all(has_size(folder / f"{name}.npy", layout, name) for name in layout.arrays):
        _mend(folder, table)
    return table


def verify(folder: Path) -> list[int]:
    """Check every finished chunk, mark damaged ones as missing so that the next build makes them, and return them."""
    with cache_lock(folder / "lock"):
        table = Table.read(folder)
        return [] if table is None else _mend(folder, table)


def _mend(folder: Path, table: Table) -> list[int]:
    for name in table.layout.arrays:
        shape_file(folder / f"{name}.npy", table.layout, name)
    bad = bad_chunks(folder, table)
    for chunk in bad:
        del table.done[chunk]
    if bad:
        table.write(folder)
    return bad


def bad_chunks(folder: Path, table: Table) -> list[int]:
    """Return the finished chunks whose checksum does not match."""
    arrays = open_arrays(folder, table.layout)
    return [
        chunk for chunk in sorted(table.done) if checksum(rows_of(arrays, table.layout, chunk)) != table.done[chunk]
    ]


def rows_of(arrays: Mapping[str, Array], layout: Layout, chunk: int) -> dict[str, Array]:
    """Return the rows [groups, n, ...] of a chunk from arrays that hold a whole layout."""
    start, stop = layout.span(chunk)
    grouped = {name: a.reshape(layout.groups, layout.items, *a.shape[1:]) for name, a in arrays.items()}
    return {name: np.ascontiguousarray(array[:, start:stop]) for name, array in grouped.items()}


def checksum(rows: Mapping[str, Array]) -> int:
    """Return the CRC-32 of the rows of a chunk, contiguous and in the order of the layout."""
    crc = 0
    for part in rows.values():
        crc = zlib.crc32(part.data, crc)
    return crc


def read(folder: Path) -> tuple[Table, dict[str, Array]]:
    """Open a finished directory. Raises `DataError` if it is missing, unfinished, or of a wrong size."""
    table = Table.read(folder)
    if table is None or table.missing:
        left = "has no table of chunks" if table is None else f"lacks {len(table.missing)} chunks"
        raise DataError(f"{folder}: {left}; `bpkd-search views SPACE.yaml` builds the rest")
    return table, open_arrays(folder, table.layout)


def thread_map(
    function: Callable[[int], tuple[int, int]], chunks: Sequence[int], threads: int | None = None
) -> Iterator[tuple[int, int]]:
    """Like `map`, in `threads` threads, by default one per CPU; yields results in order of completion."""
    with ThreadPoolExecutor(threads or usable_cpus()) as pool:
        futures = [pool.submit(function, chunk) for chunk in chunks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()
