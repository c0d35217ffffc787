"""Opens the data set of a `data` block."""

from __future__ import annotations

import os
from pathlib import Path

from bpkd_search.config.data import Data
from bpkd_search.data import KINDS, Dataset, open_split
from bpkd_search.data.splits import open_incomplete
from bpkd_search.errors import DataError


def open_data(data: Data, split: str, *, incomplete: bool = False) -> Dataset:
    """Open a split of a `data` block's data set; with `incomplete`, samples may lack their image or mask.

    Raises `DataError` if it is missing or damaged.
    """
    opener = open_incomplete if incomplete else open_split
    return opener(data.kind, split, root=data_root(data), **dict(data.options or ()))


def split_names(data: Data) -> list[str]:
    """Return the splits that a `data` block's data set may have: train, val, the held-out split, and test."""
    known = KINDS[data.kind].splits
    names = ["train", "val", *([data.test_split] if data.test_split else [])]
    return names if "test" in names or (known is not None and "test" not in known) else [*names, "test"]


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
