"""Data sets of image files and mask files: pairing, reading, and the mapping of mask ids to classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bpkd_search.data.base import IGNORE_INDEX, MAX_CLASSES, RGB, digest, listed
from bpkd_search.data.hashes import content_hashes
from bpkd_search.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MASK_SUFFIXES = (".png",)
MASK_MODES = ("1", "L", "P", "I;16", "I")
# Modes deeper than 8 bits: converting them to RGB would silently clip almost everything to white.
DEEP_MODES = ("I;16", "I;16B", "I", "F")
# What Pillow raises for damaged files; SyntaxError is its exception for a broken PNG chunk.
READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Pair:
    """One sample on disk."""

    name: str
    image: Path
    mask: Path


def find_files(folder: Path, suffixes: Sequence[str], *, ending: str = "", layout: str) -> dict[str, Path]:
    """Map name to path for all files below `folder` that end in `ending` and one of `suffixes`.

    A name is the path below `folder` without `ending` and suffix ("aachen/aachen_000000_000019"). Raises `DataError`
    if the directory is missing (the message includes the expected `layout`) or two files share a name.
    """
    if not folder.is_dir():
        raise DataError(f"no such directory: {folder}; expected layout: {layout}")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.stem.endswith(ending):
            continue
        stem = path.stem.removesuffix(ending)
        name = (path.relative_to(folder).parent / stem).as_posix()
        if name in found:
            raise DataError(f"two files for sample '{name}': {found[name]} and {path.name}")
        found[name] = path
    return found


def pair_files(
    images: Mapping[str, Path], masks: Mapping[str, Path], *, where: str, names: Sequence[str] | None = None
) -> list[Pair]:
    """Pair images and masks by name; with `names`, exactly those samples in that order.

    Raises `DataError` that names every incomplete sample, or if no sample is left.
    """
    either = {*images, *masks}
    wanted = sorted(either) if names is None else list(names)
    if not wanted:
        raise DataError(f"empty split: {where} holds no samples")
    faults = [f"{name}: no mask for its image" for name in wanted if name in images and name not in masks]
    faults += [f"{name}: no image for its mask" for name in wanted if name in masks and name not in images]
    faults += [f"{name}: neither image nor mask" for name in wanted if name not in either]
    if faults:
        raise DataError(f"{where}: {len(faults)} samples are incomplete:\n{listed(faults)}")
    return [Pair(name, images[name], masks[name]) for name in wanted]


def id_table(
    classes: int, *, ignore_id: int = IGNORE_INDEX, id_map: Mapping[int, int] | None = None
) -> NDArray[np.int16]:
    """Return, for each mask id 0..65535, its class id, 255 for ignored, or -1 for an invalid id.

    Without `id_map`, mask ids 0..classes-1 are class ids. Raises `DataError` if a map is invalid.
    """
    if not 1 <= classes <= MAX_CLASSES:
        raise DataError(f"got {classes} class names, must be 1 to {MAX_CLASSES}")
    mapping = dict(enumerate(range(classes))) if id_map is None else dict(id_map)
    for source, target in mapping.items():
        if not 0 <= source <= 65535:
            raise DataError(f"id_map: mask id {source} is not in 0..65535")
        if not (0 <= target < classes or target == IGNORE_INDEX):
            raise DataError(
                f"id_map: mask id {source} is mapped to {target}, must be a class 0..{classes - 1} "
                f"or {IGNORE_INDEX} (ignore)"
            )
    if not 0 <= ignore_id <= 65535:
        raise DataError(f"ignore_id: got {ignore_id}, must be in 0..65535")
    if mapping.get(ignore_id, IGNORE_INDEX) != IGNORE_INDEX:
        raise DataError(
            f"ignore_id {ignore_id} is also the mask id of class {mapping[ignore_id]}; "
            "choose another ignore_id or an id_map without it"
        )
    mapping[ignore_id] = IGNORE_INDEX
    table = np.full(65536, -1, dtype=np.int16)
    for source, target in mapping.items():
        table[source] = target
    return table


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as uint8 [H, W, 3] (RGB). Raises `DataError` if it cannot be read."""
    try:
        with Image.open(path) as image:
            if image.mode in DEEP_MODES:
                raise DataError(f"{path}: image mode is {image.mode}, must have 8 bits per channel")
            return np.array(image.convert("RGB"))
    except READ_ERRORS as error:
        raise DataError(f"{path}: cannot read image: {error}") from error


def read_mask(path: Path) -> NDArray[np.int64]:
    """Read a mask of ids as int64 [H, W]. Raises `DataError` if it is damaged or colour-coded."""
    try:
        with Image.open(path) as image:
            if image.mode not in MASK_MODES:
                raise DataError(
                    f"{path}: mask has mode {image.mode} (colour-coded?), expected one id per pixel: "
                    "8-bit grey (L), palette (P) or 16-bit grey (I;16)"
                )
            return np.array(image).astype(np.int64)
    except READ_ERRORS as error:
        raise DataError(f"{path}: cannot read mask: {error}") from error


def map_ids(ids: NDArray[np.int64], table: NDArray[np.int16], path: Path) -> NDArray[np.uint8]:
    """Map mask ids to class ids with the table of `id_table`. Raises `DataError` if an id is invalid."""
    classes = table[ids]
    if classes.min() < 0:
        wrong = np.unique(ids[classes < 0]).tolist()
        valid = np.flatnonzero(table >= 0).tolist()
        raise DataError(f"{path}: mask holds ids {_ranges(wrong)}, valid are {_ranges(valid)}")
    return classes.astype(np.uint8)


def _ranges(ids: list[int]) -> str:
    """Format sorted ids as ranges: 0-10, 255."""
    runs: list[list[int]] = []
    for value in ids:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


class FolderDataset:
    """Image and mask files below one root, mapped to class ids; see `Dataset`.

    `__getitem__` raises `DataError` if a file is damaged, sizes differ or a mask holds unknown ids.
    """

    ignore_index = IGNORE_INDEX

    def __init__(
        self, pairs: list[Pair], class_names: Sequence[str], palette: Sequence[RGB], table: NDArray[np.int16]
    ) -> None:
        """Store the paired files; `table` maps mask ids to class ids, see `id_table`."""
        self.pairs = pairs
        self.names = [pair.name for pair in pairs]
        self.class_names = tuple(class_names)
        self.palette = tuple(palette)
        self._table = table
        self._identity: str | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return image uint8 [3, H, W] (RGB) and label uint8 [H, W]."""
        pair = self.pairs[index]
        image, ids = read_image(pair.image), read_mask(pair.mask)
        if image.shape[:2] != ids.shape:
            raise DataError(
                f"{pair.mask}: mask is {ids.shape[1]}x{ids.shape[0]} (width x height), "
                f"its image {image.shape[1]}x{image.shape[0]}: they must be equal"
            )
        label = map_ids(ids, self._table, pair.mask)
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(label)

    def identity(self, cache: Path | None = None) -> str:
        """Hash the names of the samples, the id mapping and the bytes of the files; see `Dataset`."""
        if self._identity is None:
            files = [path for pair in self.pairs for path in (pair.image, pair.mask)]
            try:
                content = content_hashes(files, cache)
            except OSError as error:
                raise DataError(f"cannot read a file of the data set: {error}") from error
            ids = {str(i): int(c) for i, c in enumerate(self._table) if c >= 0}
            self._identity = digest([len(self.class_names), ids, self.names, content])
        return self._identity
