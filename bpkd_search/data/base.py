"""The data set protocol, and a check that reads every sample of a data set."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from bpkd_search.errors import DataError

IGNORE_INDEX = 255
MAX_CLASSES = 255
SHOWN_FAULTS = 20

RGB = tuple[int, int, int]


class Dataset(Protocol):
    """Images with class labels, read on demand.

    `names` holds one name per sample (the path of its file without root directory and suffix), `palette` one
    RGB colour per class. Labels hold class ids 0..C-1 or `ignore_index`, which is always 255.
    """

    class_names: tuple[str, ...]
    palette: tuple[RGB, ...]
    ignore_index: int
    names: list[str]

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return image uint8 [3, H, W] (RGB) and label uint8 [H, W]. Raises `DataError` if the sample is damaged."""
        ...

    def identity(self, cache: Path | None = None) -> str:
        """Return a short hash of the samples, the same wherever the root directory is.

        Hashes of files may be kept in the directory `cache`.
        """
        ...


def digest(value: Any) -> str:
    """Return 16 hex digits that identify a JSON value, the same on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def listed(faults: list[str]) -> str:
    """Join faults, one per line: up to 20 of them, then a count of the rest."""
    rest = len(faults) - SHOWN_FAULTS
    tail = [f"... and {rest} more"] if rest > 0 else []
    return "\n".join(f"  {line}" for line in [*faults[:SHOWN_FAULTS], *tail])


def find_faults(dataset: Dataset, *, threads: int = 8) -> list[str]:
    """Read every sample once, in parallel threads, and return one line for each damaged sample."""

    def fault(index: int) -> str | None:
        try:
            dataset[index]
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(threads) as pool:
        return [line for line in pool.map(fault, range(len(dataset))) if line is not None]


def check(dataset: Dataset, *, threads: int = 8) -> None:
    """Read every sample once. Raises one `DataError` that lists the damaged samples (up to 20, then a count)."""
    faults = find_faults(dataset, threads=threads)
    if faults:
        raise DataError(f"{len(faults)} of {len(dataset)} samples cannot be used:\n{listed(faults)}")
