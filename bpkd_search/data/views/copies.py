"""Copies of finished stores on the local disk of a node, fetched chunk by chunk.

A copy has the same layout as a store, so a directory of copies is also a valid `data.views_dir`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bpkd_search.data.views import chunks
from bpkd_search.data.views.build import bytes_left, require_space
from bpkd_search.data.views.chunks import Table, cache_lock, thread_map
from bpkd_search.data.views.layout import REMEDY, Array
from bpkd_search.data.views.store import MANIFEST, USE, read_manifest
from bpkd_search.errors import DataError, ResourceError
from bpkd_search.files import write_text

OPTION = "data.local_dir"
# One chunk is fetched while another is written.
AT_ONCE = 2

Rows = Callable[[str, int], dict[str, Array]]


@dataclass(frozen=True)
class Contents:
    """Description of a finished store without its rows; small enough to be sent to every node.

    `tables` holds the tables of the directories to be copied, by directory name.
    """

    key: str
    manifest: str
    tables: dict[str, Table]

    @staticmethod
    def of(store: Path, parts: Sequence[str]) -> Contents:
        """Return the contents of the given directories of a store. Raises `DataError` if one is not finished."""
        tables = {part: chunks.read(store / part)[0] for part in parts}
        return Contents(store.name, (store / MANIFEST).read_text(encoding="utf-8"), tables)

    def path(self, root: Path) -> Path:
        """Return the path of the store in a cache directory."""
        return root / "views" / self.key

    def missing(self, root: Path) -> int:
        """Return the number of bytes that a copy under `root` still has to fetch."""
        return sum(bytes_left(self.path(root) / part, table.layout) for part, table in self.tables.items())


def copy_store(contents: Contents, root: Path, rows: Rows) -> int:
    """Copy a store to `root` and return the number of bytes fetched; existing chunks are kept.

    `rows(part, chunk)` returns the rows of a chunk as `read_chunk` does, and may be called by two threads at once. If
    two processes copy at once, the second waits for the first. Raises `DataError` if rows do not match their checksum,
    `ResourceError` if the disk is too small for the copy.
    """
    path, fetched = contents.path(root), 0

    def fetch(part: str, table: Table, start: int, stop: int) -> dict[str, Array]:
        nonlocal fetched
        chunk = start // table.layout.chunk
        got = rows(part, chunk)
        if chunks.checksum(got) != table.done[chunk]:
            raise DataError(f"views/{contents.key}/{part}: chunk {chunk} does not match its checksum; {REMEDY}")
        fetched += sum(array.nbytes for array in got.values())
        return got

    require_space(root, {"a copy of the views": contents.missing(root)}, OPTION)
    with cache_lock(path / USE, shared=True):
        if read_manifest(path) is None:
            write_text(path / MANIFEST, contents.manifest)
        for part, table in contents.tables.items():
            work = partial(fetch, part, table)
            two = partial(thread_map, threads=AT_ONCE)
            chunks.build(path / part, table.layout, work, about=table.about, map=two)
    return fetched


def read_chunk(folder: Path, chunk: int) -> dict[str, Array]:
    """Return the rows [groups, n, ...] of a chunk, by array. Raises what `chunks.read` raises."""
    table, arrays = chunks.read(folder)
    return chunks.rows_of(arrays, table.layout, chunk)


def is_whole(store: Path, parts: Sequence[str]) -> bool:
    """Return whether these directories of a store are finished and of the right size; contents are not read."""
    tables = {part: Table.read(store / part) for part in parts}
    return read_manifest(store) is not None and all(
        table is not None and chunks.finished(store / part, table.layout) for part, table in tables.items()
    )


def local_root(given: str) -> Path:
    """Return the directory of copies on this node, `~` and `$VARIABLES` expanded. Raises `ResourceError` if invalid."""
    path = Path(os.path.expandvars(given)).expanduser()
    if "$" in str(path) or not path.is_absolute():
        raise ResourceError(
            f"{OPTION}: {given} is {path} on {socket.gethostname()}; must be an absolute path there, and its variables"
            " must be set where that node's Ray was started"
        )
    return path
