"""Opens the data set of a `data` block."""

from __future__ import annotations

import os
from pathlib import Path

from bpkd_search.config.data import Data
from bpkd_search.data import KINDS, Dataset, open_split
from bpkd_search.errors import DataError


def open_data(data: Data, split: str) -> Dataset:
    """Open a split of a `data` block's data set. Raises `DataError` if it is missing or damaged."""
    return open_split(data.kind, split, root=data_root(data), **dict(data.options or ()))


def data_root(data: Data) -> Path | None:
    """Return the directory of a `data` block's data set; None if its kind needs none. Raises `DataError` if not set."""
    root = data.root
    if root is None and KINDS[data.kind].needs_root:
        variable = f"BPKD_{data.kind.upper()}"
        if variable not in os.environ:
            raise DataError(
                f"data.root: is not set; give the directory of the {data.kind} data as --set data.root=DIR"
                f" or in the environment variable {variable}"
            )
        root = Path(os.environ[variable])
    return root and root.expanduser()
