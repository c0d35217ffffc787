"""Sizes of images and windows in them, as whole numbers of pixels: no pixel is touched here.

A window is a crop of an image that was scaled, and perhaps flipped. Its position is given in the scaled, flipped image;
it may reach beyond the image, whose outside is padding. This module imports neither torch nor NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field, model_validator

from bpkd_search.blocks import Block

Size = tuple[int, int]

# Whole images are padded to a multiple of the largest stride of common encoders: elsewhere feature maps are rounded up,
# and the logits of an image and of a crop of it no longer agree.
MULTIPLE = 32


class Sides(Block):
    """The lengths to which an image is resized with its aspect ratio kept; of two, the one that gives less."""

    short: int | None = Field(default=None, ge=16, le=16384, description="Length of the shorter side, in pixels.")
    long: int | None = Field(default=None, ge=16, le=16384, description="Largest length of the longer side, in pixels.")

    @model_validator(mode="after")
    def _one(self) -> Sides:
        if self.short is None and self.long is None:
            raise ValueError("must give short, long or both")
        return self


# What scale 1 is: the image as it is, its sides at given lengths, or exactly (height, width).
Resize = None | Size | Sides


@dataclass(frozen=True)
class Window:
    """A window [height, width] of an image that was scaled to `scaled` and flipped if `flip`.

    `top` and `left` are offsets in the scaled, flipped image; `step` is the number of the scale, if they are numbered.
    """

    scaled: Size
    flip: bool
    top: int
    left: int
    height: int
    width: int
    step: int = 0


def base_size(size: Size, resize: Resize) -> Size:
    """Return the size of an image at scale 1."""
    if resize is None:
        return size
    if not isinstance(resize, Sides):
        return resize
    factors = [
        wanted / actual
        for wanted, actual in ((resize.short, min(size)), (resize.long, max(size)))
        if wanted is not None
    ]
    return scaled_size(size, min(factors))


def scaled_size(size: Size, factor: float) -> Size:
    """Return a size times a factor, at least one pixel."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def padded_size(size: Size, multiple: int = MULTIPLE) -> Size:
    """Return a size rounded up to a multiple."""
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def scale_steps(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return `count` evenly spaced scales from `low` to `high`."""
    if low == high or count == 1:
        return (low,) if low == high else ((low + high) / 2,)
    return tuple(low + (high - low) * step / (count - 1) for step in range(count))


def offset(length: int, crop: int, position: float, grid: int = 1) -> int:
    """Return the start of a crop along one axis, `position` in [0, 1) of the possible ones.

    With `grid` 1, a crop longer than the axis begins before it: the padding is on both sides. Otherwise offsets are
    multiples of `grid`, padding is at the end alone, and the last crop reaches up to `grid` - 1 pixels beyond the axis.
    """
    slack = length - crop
    if grid == 1:
        return int(position * (slack + 1)) if slack >= 0 else -int(position * (1 - slack))
    return grid * int(position * (math.ceil(max(slack, 0) / grid) + 1))


def windows(size: Size, crop: Size, stride: Size) -> Iterator[tuple[int, int]]:
    """Yield the (top, left) of windows that cover an image; the last of an axis is moved back to end at the border."""
    starts = []
    for length, side, step in zip(size, crop, stride, strict=True):
        count = max(0, math.ceil((length - side) / step)) + 1
        starts.append([max(0, min(number * step, length - side)) for number in range(count)])
    yield from ((top, left) for top in starts[0] for left in starts[1])
