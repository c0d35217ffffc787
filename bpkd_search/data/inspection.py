"""Reads every sample of a split once, in parallel, and records what is in it, also if it is damaged."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bpkd_search.data.base import IGNORE_INDEX, Dataset
from bpkd_search.data.duplicates import content_hash, look_hash
from bpkd_search.data.masks import READ_ERRORS, MaskDataset, Table, Values, orientation, sizes_differ, to_classes
from bpkd_search.errors import DataError

# How images that are not RGB are read, by Pillow's mode.
FORMS = {
    "1": "are black and white: read as three equal channels",
    "L": "are grey: read as three equal channels",
    "P": "have a palette: its colours are read",
    "LA": "are grey with an alpha channel: alpha is ignored",
    "RGBA": "have an alpha channel: it is ignored",
    "PA": "have a palette and an alpha channel: alpha is ignored",
    "CMYK": "are CMYK: converted to RGB without a colour profile",
}


@dataclass(frozen=True)
class Sample:
    """What is in one sample.

    `faults` are messages with the place. `size` is (height, width) of the mask, None if it cannot be read; `counts` are
    its pixels of each class and, last, of ignored ones; `outside` are its values that are no class, with their pixels.
    `mode` is how the image is stored, `turned` the `orientation` of its file, `content` and `look` are hashes of it,
    None if it cannot be read.
    """

    name: str
    faults: tuple[str, ...] = ()
    mismatch: str | None = None
    size: tuple[int, int] | None = None
    counts: tuple[int, ...] = ()
    outside: tuple[tuple[int, int], ...] = ()
    mode: str | None = None
    content: bytes | None = None
    look: bytes | None = None
    turned: int = 1


@dataclass(frozen=True)
class Split:
    """The samples of a split, what its masks may hold, and lines for those that lack their image or mask."""

    name: str
    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    incomplete: tuple[str, ...] = ()
    colours: bool = False

    def counts(self) -> NDArray[np.int64]:
        """Return the pixels of each class and, last, of ignored ones, over all samples."""
        rows = [sample.counts for sample in self.samples if sample.counts]
        total: NDArray[np.int64] = np.array(rows, np.int64).reshape(len(rows), len(self.class_names) + 1).sum(0)
        return total


def inspect_split(name: str, dataset: Dataset, *, workers: int, progress: Callable[[], None] = lambda: None) -> Split:
    """Read every sample of a split in `workers` threads; `progress` is called after each."""
    with ThreadPoolExecutor(workers) as pool:
        try:
            samples = []
            for sample in pool.map(lambda index: inspect_sample(dataset, index), range(len(dataset))):
                samples.append(sample)
                progress()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    colours = isinstance(dataset, MaskDataset) and dataset.colours
    return Split(name, dataset.class_names, tuple(samples), tuple(getattr(dataset, "incomplete", ())), colours)


def inspect_sample(dataset: Dataset, index: int) -> Sample:
    """Read one sample. Damage is recorded, not raised."""
    name, faults = dataset.names[index], []
    pixels: NDArray[np.uint8] | None = None
    values: Values | None = None
    table: Table = np.array([*range(len(dataset.class_names)), *[-1] * IGNORE_INDEX], np.int16)[: IGNORE_INDEX + 1]
    mode, turned = None, 1
    if isinstance(dataset, MaskDataset):
        table = dataset.table
        try:
            pixels = dataset.image(index)
            mode, turned = _mode(dataset, index), orientation(dataset.image_file(index))
        except DataError as error:
            faults.append(str(error))
        try:
            values = dataset.mask(index)
        except DataError as error:
            faults.append(str(error))
    else:
        table[IGNORE_INDEX] = IGNORE_INDEX
        try:
            image, label = dataset[index]
            pixels, values = image.permute(1, 2, 0).numpy(), label.numpy().astype(np.int64)
        except DataError as error:
            faults.append(str(error))
    mismatch = None
    if values is not None and (values.ndim != 2 or (pixels is not None and pixels.shape[:2] != values.shape)):
        place = dataset.places(index)[1] if isinstance(dataset, MaskDataset) else name
        mismatch = f"{place}: {sizes_differ(values.shape, values.shape if pixels is None else pixels.shape, turned)}"
    counts, outside = ((), ()) if values is None else _count(values, table, len(dataset.class_names))
    return Sample(
        name,
        tuple(faults),
        mismatch,
        None if values is None or values.ndim != 2 else (values.shape[0], values.shape[1]),
        counts,
        outside,
        mode,
        None if pixels is None else content_hash(pixels),
        None if pixels is None else look_hash(pixels),
        turned,
    )


def _mode(dataset: MaskDataset, index: int) -> str | None:
    """Return how a sample's image is stored."""
    try:
        with Image.open(dataset.image_file(index)) as image:
            return str(image.mode)
    except READ_ERRORS:
        return None


def _count(values: Values, table: Table, classes: int) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Return the pixels of each class and of ignored ones, and the values outside with theirs."""
    found = to_classes(values, table)
    counts = np.bincount(found.ravel() + 1, minlength=IGNORE_INDEX + 2)
    outside: tuple[tuple[int, int], ...] = ()
    if counts[0]:
        numbers, pixels = np.unique(values[found < 0], return_counts=True)
        outside = tuple(zip(numbers.tolist(), pixels.tolist(), strict=True))
    return (*counts[1 : classes + 1].tolist(), int(counts[IGNORE_INDEX + 1])), outside
