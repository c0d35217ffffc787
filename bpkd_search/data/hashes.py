"""Hashes of the contents of files, computed in parallel and kept for files that have not changed since.

The hashes are kept in `hashes/` of the cache directory, one file per data set, with size and modification time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from bpkd_search.data.base import digest
from bpkd_search.files import replacing
from bpkd_search.machine import usable_cpus

# Files per task of a thread: a task for each file would cost more than hashing a small one.
_BATCH = 64
# A file this new may change once more without another modification time, which has the resolution of a clock tick.
_SETTLED_NS = 2 * 10**9

Entry = tuple[int, int, str]


def content_hashes(paths: Sequence[Path], cache: Path | None = None) -> list[str]:
    """Return the SHA-256 of each file's bytes, in hexadecimal digits.

    With the directory `cache`, a file whose path, size and modification time are known is not read again. Raises
    `OSError` if a file cannot be read.
    """
    names = [os.path.abspath(path) for path in paths]
    store = _store(names, cache) if cache is not None and names else None
    known = _read(store)

    def entries(start: int) -> list[Entry]:
        return [_entry(name, known.get(name)) for name in names[start : start + _BATCH]]

    # More threads than CPUs, since on network disks they mostly wait.
    with ThreadPoolExecutor(min(32, 4 * usable_cpus())) as pool:
        found = list(chain.from_iterable(pool.map(entries, range(0, len(names), _BATCH))))
    newest = time.time_ns() - _SETTLED_NS
    kept = {name: list(entry) for name, entry in zip(names, found, strict=True) if entry[1] < newest}
    if store is not None and any(known.get(name) != entry for name, entry in kept.items()):
        # Without room or permission the files are hashed again next time.
        with suppress(OSError), replacing(store) as partial:
            partial.write_text(json.dumps({**known, **kept}), encoding="utf-8")
    return [content for _, _, content in found]


def _store(names: Sequence[str], cache: Path) -> Path:
    return cache / "hashes" / f"{digest(os.path.commonpath([os.path.dirname(name) for name in names]))}.json"


def _read(store: Path | None) -> dict[str, Any]:
    """Return the known entries by path; none if the file is missing or damaged."""
    try:
        known = json.loads(store.read_text(encoding="utf-8")) if store is not None else None
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _entry(name: str, known: Any) -> Entry:
    """Return size, modification time in ns, and SHA-256 of a file."""
    status = os.stat(name)
    match known:
        case [status.st_size, status.st_mtime_ns, str(content)]:
            return status.st_size, status.st_mtime_ns, content
    with open(name, "rb") as file:
        return status.st_size, status.st_mtime_ns, hashlib.sha256(file.read()).hexdigest()
