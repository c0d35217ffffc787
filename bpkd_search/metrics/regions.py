"""Bands, boundaries and contours of label maps, all classes at once.

A label map is stored as *codes*: 0 is an ignored pixel, k + 1 is class k. With one class per pixel no
morphology per class is needed: a window has one class exactly where its lowest and highest code are equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from bpkd_search.morphology import slide, widen

# Bytes of one map at a time; a GPU needs few, large operations.
_CACHED, _LARGE = 2**20, 2**28


def encode(predictions: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return the codes of truth and prediction, int32 [2, ...], and where an id is out of range (coded as ignored)."""
    ids = labels.new_empty((2, *labels.shape), dtype=torch.int32)
    ids[0], ids[1] = labels, predictions
    in_range = (ids.clamp(0, num_classes - 1) == ids).all(0)
    not_ignored = ids[0] != ignore_index
    return (ids + 1) * (in_range & not_ignored), not_ignored > in_range


def boundary_distance(height: int, width: int, ratio: float) -> int:
    """Return the distance in pixels that is a share `ratio` of the image diagonal, at least 1."""
    return max(1, round(ratio * math.hypot(height, width)))


def framed(codes: Tensor, margin: int, num_classes: int) -> Tensor:
    """Return codes [..., H, W] in the smallest type that holds them, with `margin` ignored pixels on each side."""
    # One code stays free, so that a difference of codes fits too.
    dtype = torch.uint8 if num_classes < 255 else torch.int16
    height, width = codes.shape[-2:]
    frame = codes.new_zeros((*codes.shape[:-2], height + 2 * margin, width + 2 * margin), dtype=dtype)
    frame[..., margin : margin + height, margin : margin + width] = codes
    return frame


def windows(frame: Tensor, radii: Iterable[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """Return, for each radius, which squares of that half-width hold several classes, and which an ignored pixel.

    `frame` [2, B, H, W] holds codes of truth and prediction, whose ignored pixels are the same. 0 or 1, [2, B, ...] and
    [B, ...], smaller than the frame by the radius on each side; ignored pixels are of no class.
    """
    low = torch.iinfo(frame.dtype).min
    # low - code, which wraps around, is the higher the lower the code, and lowest for an ignored pixel. So the sum of
    # both maxima is `low` exactly where the highest and the lowest code are equal or the window has no class.
    maps = torch.cat((frame, low - frame, (frame[:1] == 0).view(torch.uint8).to(frame.dtype)))
    found, span = {}, 1
    for radius in sorted(set(radii)):
        maps = widen(maps, span, 2 * radius + 1, combine=torch.maximum)
        span = 2 * radius + 1
        found[radius] = (maps[:2] + maps[2:4] != low, maps[4])
    return found


def inner(maps: Tensor, height: int, width: int) -> Tensor:
    """Return the middle of maps [..., H, W], cut to this size."""
    top, left = (maps.shape[-2] - height) // 2, (maps.shape[-1] - width) // 2
    return maps[..., top : top + height, left : left + width]


def change_band(codes: Tensor, radius: int) -> Tensor:
    """Return labelled pixels with a pixel of another class within Chebyshev distance `radius`, bool [..., H, W].

    Ignored pixels have no class: they are not in the band and add no pixel to it. The band at the
    default radius is the trimap of edge mIoU; at radius 1 it is the contour of every class, on both sides.
    """
    low = torch.iinfo(codes.dtype).min
    extremes = slide(torch.stack((codes, low - codes)), 2 * radius + 1, padding=radius, combine=torch.maximum)
    return (extremes[0] + extremes[1] != low) & codes.bool()


def matched_contours(contours: Tensor, radius: int, num_classes: int) -> Tensor:
    """Return the contour pixels of each side with one of their class on the other side within `radius`.

    `contours` [2, B, H, W]: codes on the contour, 0 elsewhere, of truth and prediction, with a margin of `radius`
    beyond the image, which the result lacks: bool, and of any value off the contours. Distance is Chebyshev's.
    """
    bits = 8 * contours.element_size()
    groups = num_classes // bits + 1
    limit = _CACHED if contours.device.type == "cpu" else _LARGE
    # All classes at once if they fit: one bit of a word for each.
    at_once = max(1, limit // max(1, contours.nbytes))
    height, width = contours.shape[-2] - 2 * radius, contours.shape[-1] - 2 * radius
    matched = None
    for start in range(0, groups, at_once):
        count = min(at_once, groups - start)
        first = torch.arange(bits * start, bits * (start + count), bits, dtype=contours.dtype, device=contours.device)
        # A shift by a negative number, or by all bits or more, gives 0.
        own = 1 << (contours.unsqueeze(2) - first.view(-1, 1, 1))
        near = widen(own, 1, 2 * radius + 1, combine=torch.bitwise_or)
        found = (near.flip(0) & inner(own, height, width)).any(2)
        matched = found if matched is None else matched | found
    assert matched is not None
    return matched
