"""The data set protocol, and a check that reads every sample of a data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
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


@dataclass(frozen=True)
class Survey:
    """Size (height, width) of each sample, and its pixels of each class."""

    sizes: tuple[tuple[int, int], ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def void(self) -> int:
        """The number of samples without a labelled pixel."""
        return sum(not any(counts) for counts in self.counts)


def survey(dataset: Dataset, *, threads: int = 8) -> Survey:
    """Read every sample once.

    Raises one `DataError` that lists the damaged samples (up to 20, then a count), or if no pixel of any is labelled.
    """
    classes = len(dataset.class_names)

    def look(index: int) -> str | tuple[tuple[int, int], tuple[int, ...]]:
        try:
            label = dataset[index][1]
        except DataError as error:
            return str(error)
        counts = torch.bincount(label.flatten(), minlength=IGNORE_INDEX + 1)[:classes]
        return (label.shape[0], label.shape[1]), tuple(counts.tolist())

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(look, range(len(dataset))))
    if faults := [line for line in found if isinstance(line, str)]:
        raise DataError(f"{len(faults)} of {len(dataset)} samples cannot be used:\n{listed(faults)}")
    whole = [each for each in found if not isinstance(each, str)]
    if whole and not any(any(counts) for _, counts in whole):
        raise DataError(
            f"every pixel of all {len(whole)} masks is ignored, from {dataset.names[0]} to {dataset.names[-1]}: nothing"
            " to train on or to measure; see how the data block maps ids of masks (ignore_id, id_map)"
        )
    return Survey(tuple(size for size, _ in whole), tuple(counts for _, counts in whole))


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
    survey(dataset, threads=threads)


def sample(counts: Sequence[Sequence[int]], size: int) -> list[int]:
    """Return `size` of the samples, in order, whose classes have about the same shares of pixels as in all of them.

    `counts` are the pixels of each class in each sample. One after the other is added, and then each exchanged once, to
    bring the square roots of the shares nearest to those of all: roots, so that rare classes count too. Deterministic.
    """
    pixels = torch.tensor([list(row) for row in counts], dtype=torch.float64)
    wanted = (pixels.sum(0) / pixels.sum().clamp(min=1)).sqrt()
    free = torch.ones(len(pixels), dtype=torch.bool)

    def best(total: Tensor) -> int:
        sums = total + pixels
        distance = ((sums / sums.sum(1, keepdim=True).clamp(min=1)).sqrt() - wanted).square().sum(1)
        return int(distance.masked_fill(~free, torch.inf).argmin())

    chosen: list[int] = []
    for _ in range(min(size, len(pixels))):
        chosen.append(best(pixels[chosen].sum(0)))
        free[chosen[-1]] = False
    for place, old in enumerate(chosen):
        free[old] = True
        others = chosen[:place] + chosen[place + 1 :]
        chosen[place] = best(pixels[others].sum(0))
        free[chosen[place]] = False
    return sorted(chosen)
