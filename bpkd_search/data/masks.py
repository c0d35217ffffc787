"""Reads images and masks, and maps what a mask holds, ids or colours, to class ids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from bpkd_search.data.base import IGNORE_INDEX, MAX_CLASSES, RGB
from bpkd_search.errors import DataError

MASK_MODES = ("1", "L", "P", "I;16", "I")
# Modes deeper than 8 bits: converting them to RGB would silently clip almost everything to white.
DEEP_MODES = ("I;16", "I;16B", "I", "F")
# What Pillow raises for damaged files; SyntaxError is its exception for a broken PNG chunk.
READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
COLOURS = 1 << 24
# The tag of EXIF data that says how a camera was held.
_ORIENTATION = 0x0112

Table = NDArray[np.int16]
Values = NDArray[np.int64]
File = Path | BytesIO


def id_table(classes: int, *, ignore_id: int = IGNORE_INDEX, id_map: Mapping[int, int] | None = None) -> Table:
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


def colour_table(palette: Sequence[RGB], ignore_colours: Sequence[RGB]) -> Table:
    """Return, for each colour as `read_mask` gives it, its place in `palette`, 255 for ignored, or -1 for another."""
    table = np.full(COLOURS, -1, dtype=np.int16)
    for colour in ignore_colours:
        table[_number(colour)] = IGNORE_INDEX
    for place, colour in enumerate(palette):
        table[_number(colour)] = place
    return table


def read_image(file: File, place: str | None = None) -> NDArray[np.uint8]:
    """Read an image file as uint8 [H, W, 3] (RGB). Raises `DataError`, which names `place`, if it cannot be read."""
    place = place or str(file)
    try:
        with Image.open(file) as image:
            if image.mode in DEEP_MODES:
                raise DataError(f"{place}: image mode is {image.mode}, must have 8 bits per channel")
            # Colours of 16 bits have a mode of 8: Pillow drops the lower byte, most of what a 12-bit camera gives.
            if any(";16" in str(part) for part in image.tile):
                raise DataError(f"{place}: image has 16 bits per channel, must have 8")
            return np.array(image.convert("RGB"))
    except READ_ERRORS as error:
        raise DataError(f"{place}: cannot read image: {_cause(error)}") from error


def orientation(file: File) -> int:
    """Return how viewers turn a JPEG file as its EXIF data say: 1 for not at all, 5 to 8 if the sides are exchanged.

    Other formats are 1. Images are read as they are stored, whatever this is.
    """
    try:
        with Image.open(file) as image:
            # What Pillow turns itself, as TIFF, and what would have to be decoded for it, as PNG, is left out.
            return int(image.getexif().get(_ORIENTATION, 1)) if image.format in ("JPEG", "MPO") else 1
    except (*READ_ERRORS, TypeError):
        return 1


def read_mask(file: File, place: str | None = None, *, colours: bool = False) -> Values:
    """Read a mask as int64 [H, W]: its ids, or with `colours` its colours as 0xRRGGBB.

    Raises `DataError` if it is damaged, or colour-coded where ids are expected.
    """
    place = place or str(file)
    if isinstance(file, Path) and file.suffix == ".mat":
        return _read_matlab(file)
    try:
        with Image.open(file) as image:
            if colours:
                red, green, blue = np.moveaxis(np.array(image.convert("RGB")).astype(np.int64), -1, 0)
                numbers: Values = red << 16 | green << 8 | blue
                return numbers
            if image.mode not in MASK_MODES:
                raise DataError(
                    f"{place}: mask has mode {image.mode} (colour-coded?), expected one id per pixel: "
                    "8-bit grey (L), palette (P) or 16-bit grey (I;16); data.kind folder reads colours with"
                    " data.folder.encoding: colours"
                )
            return np.array(image).astype(np.int64)
    except READ_ERRORS as error:
        raise DataError(f"{place}: cannot read mask: {_cause(error)}") from error


def _read_matlab(path: Path) -> Values:
    """Read the label map `S` of a MATLAB file."""
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(str(path), variable_names=["S"])["S"]).astype(np.int64)
    except KeyError as error:
        raise DataError(f"{path}: cannot read mask: holds no label map S") from error
    except Exception as error:  # a damaged file may raise anything
        raise DataError(f"{path}: cannot read mask: {_cause(error)}") from error


def to_classes(values: Values, table: Table) -> Table:
    """Map the values of a mask to class ids, 255 for ignored and -1 for what the table does not have, int16 [H, W]."""
    if values.size and (values.min() < 0 or values.max() >= len(table)):
        inside = (values >= 0) & (values < len(table))
        return np.where(inside, table[np.where(inside, values, 0)], np.int16(-1))
    return table[values]


def shown(values: Sequence[int], *, colours: bool = False) -> str:
    """Format sorted values of masks: ids as ranges (0-10, 255), colours as #rrggbb, up to ten of them."""
    if colours:
        rest = f" and {len(values) - 10} more" if len(values) > 10 else ""
        return ", ".join(f"#{value:06x}" for value in values[:10]) + rest
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


class MaskDataset(ABC):
    """Images with masks whose values a table maps to class ids; see `Dataset`.

    `__getitem__` raises `DataError` if a file is damaged, sizes differ or a mask holds unknown values.
    """

    ignore_index = IGNORE_INDEX

    def __init__(
        self,
        names: Sequence[str],
        class_names: Sequence[str],
        palette: Sequence[RGB],
        table: Table,
        *,
        colours: bool = False,
    ) -> None:
        """Store what is known of the samples; `table` is that of `id_table`, or with `colours` of `colour_table`."""
        self.names = list(names)
        self.class_names = tuple(class_names)
        self.palette = tuple(palette)
        self.table, self.colours = table, colours

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.names)

    @abstractmethod
    def places(self, index: int) -> tuple[str, str]:
        """Return how image and mask of a sample are called in messages."""

    @abstractmethod
    def image_file(self, index: int) -> File:
        """Return the file of a sample's image."""

    @abstractmethod
    def mask(self, index: int) -> Values:
        """Return the values of a sample's mask, int64 [H, W]. Raises `DataError` if it is damaged."""

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return a sample's image, uint8 [H, W, 3] (RGB). Raises `DataError` if it is damaged."""
        return read_image(self.image_file(index), self.places(index)[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return image uint8 [3, H, W] (RGB) and label uint8 [H, W]."""
        image, values, place = self.image(index), self.mask(index), self.places(index)[1]
        if image.shape[:2] != values.shape:
            raise DataError(f"{place}: {sizes_differ(values.shape, image.shape, orientation(self.image_file(index)))}")
        label = to_classes(values, self.table)
        if label.min() < 0:
            wrong = np.unique(values[label < 0]).tolist()
            valid = np.flatnonzero(self.table >= 0).tolist()
            raise DataError(f"{place}: mask holds {self.kind} {self.shown(wrong)}, valid are {self.shown(valid)}")
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(label.astype(np.uint8))

    @property
    def kind(self) -> str:
        """What the values of masks are, in a word."""
        return "colours" if self.colours else "ids"

    def shown(self, values: Sequence[int]) -> str:
        """Format values of masks, sorted."""
        return shown(values, colours=self.colours)


def sizes_differ(mask: Sequence[int], image: Sequence[int], turned: int = 1) -> str:
    """Return a message for a mask and an image of these shapes; `turned` is the image's `orientation`."""
    if len(mask) != 2:
        return f"mask has the shape {tuple(mask)}, must have one value per pixel"
    text = f"mask is {mask[1]}x{mask[0]} (width x height), its image {image[1]}x{image[0]}: they must be equal"
    if turned >= 5 and tuple(mask) == (image[1], image[0]):
        text += f"; the image's EXIF orientation, {turned}, is not applied: save the image turned as the mask is"
    return text


def _number(colour: RGB) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def _cause(error: Exception) -> str:
    # Pillow names an object in memory by its address, which says nothing.
    return "is not an image" if isinstance(error, UnidentifiedImageError) else str(error)
