"""Lists, checks and deletes the stores in a cache of views."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpkd_search.data.views import chunks
from bpkd_search.data.views.chunks import Table, cache_lock
from bpkd_search.data.views.store import MANIFEST, USE, read_manifest
from bpkd_search.errors import DataError
from bpkd_search.files import Held

DAY = 86_400.0


@dataclass(frozen=True)
class Entry:
    """A store: its path, contents, bytes on disk, seconds since its last use, and whether it is finished."""

    path: Path
    about: dict[str, Any]
    logits: tuple[str, ...]
    bytes: int
    unused: float
    finished: bool

    @property
    def key(self) -> str:
        """Name of the directory."""
        return self.path.name

    def line(self) -> str:
        """Return a one-line summary of the store."""
        about = self.about
        size = f"{about.get('height', '?')}x{about.get('width', '?')}"
        logits = "; ".join(self.logits) or "none"
        return (
            f"{self.key}  {self.bytes / 2**20:,.0f} MiB  {about.get('kind', '?')} {about.get('images', '?')} images"
            f" x {about.get('views', '?')} views, {size}  logits: {logits}  used {_ago(self.unused)} ago"
            + ("" if self.finished else "  unfinished")
        )


def list_stores(root: Path) -> list[Entry]:
    """Return the stores in a cache directory, the most recently used first."""
    return sorted((_entry(path.parent) for path in (root / "views").glob(f"*/{MANIFEST}")), key=lambda e: e.unused)


def select_stores(root: Path, key: str | None, days: float | None) -> list[Entry]:
    """Return the store of a key, or those unused for a number of days. Raises what `find` raises."""
    if key is not None:
        return [find(root, key)]
    return [] if days is None else [entry for entry in list_stores(root) if entry.unused >= days * DAY]


def find(root: Path, key: str) -> Entry:
    """Return the store of a key. Raises `DataError` with the existing keys if it is missing."""
    stores = {entry.key: entry for entry in list_stores(root)}
    if key not in stores:
        raise DataError(f"{root / 'views'}: has no store {key!r}; existing: {', '.join(stores) or 'none'}")
    return stores[key]


def verify_store(path: Path, say: Callable[[str], None]) -> int:
    """Check every finished chunk of a store; damaged chunks are marked as missing, so that the next build makes them.

    Returns the number of damaged chunks.
    """
    damaged = 0
    if not path.is_dir():
        return 0
    with cache_lock(path / USE, shared=True):
        for folder in _parts(path):
            where = folder.relative_to(path.parent)
            if Table.read(folder) is None:
                damaged += 1
                say(f"{where}: its table of chunks cannot be read")
            elif bad := chunks.verify(folder):
                damaged += len(bad)
                say(f"{where}: damaged chunks: {', '.join(map(str, bad))}")
    return damaged


def remove(entry: Entry) -> None:
    """Delete a store. Raises `DataError` if a process is reading or building it."""
    try:
        with cache_lock(entry.path / USE, block=False):
            shutil.rmtree(entry.path)
    except Held:
        raise DataError(f"{entry.path}: is in use by another process; nothing was removed") from None


def _parts(path: Path) -> list[Path]:
    return sorted(table.parent for table in path.glob(f"*/{chunks.TABLE}"))


def _entry(path: Path) -> Entry:
    about = read_manifest(path) or {}
    tables = {folder.name: Table.read(folder) for folder in _parts(path)}
    logits = tuple(
        f"{table.about.get('teacher', '?')} ({table.about['codec']})"
        for name, table in tables.items()
        if name.startswith("logits-") and table is not None
    )
    # Blocks, not lengths: parts that are not built yet are holes in the file.
    size = sum(file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file())
    used = (path / USE if (path / USE).exists() else path / MANIFEST).stat().st_mtime
    finished = "val" in tables and all(table is not None and not table.missing for table in tables.values())
    return Entry(path, about, logits, size, max(0.0, time.time() - used), finished)


def _ago(seconds: float) -> str:
    for unit, length in (("days", DAY), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
