"""Chunks on an object store: what one machine has made, another one fetches instead of making it."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from bpkd_search.data.views.chunks import Work
from bpkd_search.data.views.layout import Array, Layout
from bpkd_search.errors import StoreError

if TYPE_CHECKING:
    from bpkd_search.stores.store import Store

# Stores that have not answered this process, which does without them from then on.
_away: set[str] = set()


@dataclass(frozen=True)
class KeptWork:
    """Makes chunks by `work`, unless they are in the folder `name` of the store at `url`; leaves there what it made.

    A store that does not answer, and a chunk in it that is damaged, are as none. Picklable.
    """

    work: Work
    layout: Layout
    url: str
    name: str

    def __call__(self, start: int, stop: int) -> dict[str, Array]:
        """Return the rows [groups, n, ...] of items `start` to `stop`."""
        name = f"{self.name}/{start // self.layout.chunk:06d}.npz"
        rows = self._fetch(name, start, stop)
        if rows is None:
            rows = self.work(start, stop)
            self._leave(name, rows)
        return rows

    def _fetch(self, name: str, start: int, stop: int) -> dict[str, Array] | None:
        try:
            content = None if self.url in _away else _store(self.url).get(name)
            if content is None:
                return None
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                rows = {name: file[name] for name in self.layout.arrays}
        except StoreError:
            _away.add(self.url)
            return None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        count = self.layout.row(stop) - self.layout.row(start)
        fits = (
            array.shape == (self.layout.groups, count, *shape) and array.dtype == np.dtype(dtype)
            for array, (shape, dtype) in zip(rows.values(), self.layout.arrays.values(), strict=True)
        )
        return rows if all(fits) else None

    def _leave(self, name: str, rows: dict[str, Array]) -> None:
        if self.url in _away:
            return
        buffer = io.BytesIO()
        np.savez(buffer, **{name: np.asarray(rows[name]) for name in self.layout.arrays})  # type: ignore[arg-type]
        try:
            _store(self.url).put(name, buffer.getvalue())
        except StoreError:
            _away.add(self.url)


def kept_work(work: Work, layout: Layout, url: str | None, name: str) -> Work:
    """Return `work`, by way of the store at `url` if there is one."""
    return work if url is None else KeptWork(work, layout, url, name)


@lru_cache(1)
def _store(url: str) -> Store:
    # pyarrow is only needed by those who have a store.
    from bpkd_search.stores.store import Store

    return Store(url)
