"""Pillow's bilinear, antialiased resampling of windows, for a whole batch at once on any device.

Pillow computes in whole numbers: weights are rounded to 22 binary places, and pixels to 8 bits after each of the axes.
The same sums are taken here, so that every device gives the same bits. They are Pillow's where it begins with the
columns too; where it begins with the rows, a pixel may differ by one of 255 levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bpkd_search.data.transforms import PADDING_COLOUR, Source

# Binary places of a weight: a sum of weights times 8 bits fits 32.
PLACES = 22


def taps(low: float, high: float, length: int, count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return what each of `count` pixels is made of that cover `low` to `high` of an axis of `length` pixels.

    The first source pixel [count], and the weights [count, K] of it and of the K - 1 after it. Source: Pillow,
    `precompute_coeffs` and `normalize_coeffs_8bpc` of Resample.c.
    """
    # Pillow holds a box in single precision.
    low, high = float(np.float32(low)), float(np.float32(high))
    scale = float(np.float32(high) - np.float32(low)) / count
    support = max(1.0, scale)
    centre = low + (np.arange(count) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int32), 0)
    after = np.minimum((centre + support + 0.5).astype(np.int32), length)
    offsets = np.arange(int(np.ceil(support)) * 2 + 1)
    away = np.abs((offsets + first[:, None] - centre[:, None] + 0.5) * (1.0 / support))
    weights = np.where((offsets < (after - first)[:, None]) & (away < 1.0), 1.0 - away, 0.0)
    # One after the other, as Pillow adds: another order rounds differently.
    total = np.zeros(count)
    for column in weights.T:
        total += column
    whole = (0.5 + weights / np.where(total == 0.0, 1.0, total)[:, None] * (1 << PLACES)).astype(np.int32)
    return first, whole


@dataclass(frozen=True)
class Axis:
    """One axis of a batch of windows: first source pixels [B, n], their weights [B, n, K], and whether it is image."""

    first: Tensor
    weights: Tensor
    inside: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> Axis:
        """Return it with all its tensors changed."""
        return Axis(change(self.first), change(self.weights), change(self.inside))


@dataclass(frozen=True)
class Batch:
    """The sources of a batch of windows [B, H, W, 3], each in the upper left corner, and how they are resampled."""

    pixels: Tensor
    rows: Axis
    columns: Axis
    padded: bool

    def pinned(self, device: torch.device) -> Batch:
        """Return it in memory from which it is sent to a device without waiting."""
        return self._each(lambda part: pin(part, device))

    def on(self, device: torch.device) -> Batch:
        """Return it on a device; if it was pinned, the host does not wait."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(change(self.pixels), self.rows.each(change), self.columns.each(change), self.padded)

    def resampled(self) -> Tensor:
        """Return the windows, uint8 [B, 3, h, w], on the device of the sources."""
        across = _along(self.pixels.permute(0, 3, 1, 2), self.columns, 3)
        windows = _along(across, self.rows, 2)
        if not self.padded:
            return windows
        for channel, value in enumerate(PADDING_COLOUR):
            outside = ~(self.rows.inside[:, :, None] & self.columns.inside[:, None, :])
            windows[:, channel].masked_fill_(outside, value)
        return windows


def batch_of(sources: Sequence[Source], flips: Sequence[bool], height: int, width: int) -> Batch:
    """Return a batch, on the CPU, of the sources of windows of one size and whether each is flipped."""
    tall, wide = (max(source.pixels.shape[side] for source in sources) for side in (0, 1))
    pixels = torch.zeros(len(sources), tall, wide, 3, dtype=torch.uint8)
    rows, columns = [], []
    for place, (source, flip) in enumerate(zip(sources, flips, strict=True)):
        high, broad = source.pixels.shape[:2]
        pixels[place, :high, :broad] = torch.from_numpy(np.ascontiguousarray(source.pixels))
        left, top, right, bottom = source.box
        rows.append(_placed(taps(top, bottom, high, source.rows[1] - source.rows[0]), source.rows, height, False))
        across = taps(left, right, broad, source.columns[1] - source.columns[0])
        columns.append(_placed(across, source.columns, width, flip))
    padded = any(s.rows != (0, height) or s.columns != (0, width) for s in sources)
    return Batch(pixels, _axis(rows), _axis(columns), padded)


Placed = tuple[Tensor, Tensor, Tensor]


def _placed(
    found: tuple[NDArray[np.int32], NDArray[np.int32]], inside: tuple[int, int], length: int, flip: bool
) -> Placed:
    """Put the taps of the pixels that are inside, mirrored if flipped, among those of the whole axis."""
    first, weights = (np.ascontiguousarray(part[::-1]) if flip else part for part in found)
    whole, there = slice(*inside), torch.zeros(length, dtype=torch.bool)
    starts = torch.zeros(length, dtype=torch.int64)
    shares = torch.zeros(length, weights.shape[1], dtype=torch.int32)
    there[whole] = True
    starts[whole], shares[whole] = torch.from_numpy(first).long(), torch.from_numpy(weights)
    return starts, shares, there


def _axis(placed: Sequence[Placed]) -> Axis:
    most = max(weights.shape[1] for _, weights, _ in placed)
    return Axis(
        torch.stack([first for first, _, _ in placed]),
        torch.stack([F.pad(weights, (0, most - weights.shape[1])) for _, weights, _ in placed]),
        torch.stack([inside for _, _, inside in placed]),
    )


def _along(images: Tensor, axis: Axis, dim: int) -> Tensor:
    """Resample images uint8 [B, 3, H, W] along one axis."""
    last, shape = images.shape[dim] - 1, [*images.shape]
    shape[dim] = axis.first.shape[1]
    view = [len(images), 1, 1, 1]
    view[dim] = -1
    total = torch.full(shape, 1 << (PLACES - 1), dtype=torch.int32, device=images.device)
    for step in range(axis.weights.shape[2]):
        index = (axis.first + step).clamp_(max=last).view(view).expand(shape)
        total.addcmul_(images.gather(dim, index).to(torch.int32), axis.weights[:, :, step].reshape(view))
    # No sum is negative or exceeds 8 bits by more than rounding.
    return (total >> PLACES).clamp_(max=255).to(torch.uint8)


def pin(part: Tensor, device: torch.device) -> Tensor:
    """Return a tensor in memory from which a GPU copies by itself; as it is for a CPU."""
    return part.pin_memory() if device.type == "cuda" else part
