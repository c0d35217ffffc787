"""Bands, boundaries and contours of label maps, all classes at once.

A label map is stored as *codes*: 0 is an ignored pixel, k + 1 is class k. With one class per pixel no
morphology per class is needed: a window has one class exactly where its lowest and highest code are equal.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bpkd_search.morphology import slide


def encode(predictions: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes of truth and prediction, and the number of pixels with an id out of range (coded as ignored)."""
    labels, predictions = labels.to(torch.int32), predictions.to(torch.int32)
    ignored = labels == ignore_index
    in_range = (torch.minimum(labels, predictions) >= 0) & (torch.maximum(labels, predictions) < num_classes)
    labelled = in_range & ~ignored
    # The highest value stays free: it is the complement of "ignored" and marks the image border.
    dtype = torch.uint8 if num_classes < 255 else torch.int16
    truth, guess = ((ids.to(dtype) + 1) * labelled for ids in (labels, predictions))
    return truth, guess, (~(in_range | ignored)).sum()


def boundary_distance(height: int, width: int, ratio: float) -> int:
    """Return the distance in pixels that is a share `ratio` of the image diagonal, at least 1."""
    return max(1, round(ratio * math.hypot(height, width)))


def change_band(codes: Tensor, radius: int) -> Tensor:
    """Return labelled pixels with a pixel of another class within Chebyshev distance `radius`, bool [..., H, W].

    Ignored pixels have no class: they are not in the band and add no pixel to it. The band at the
    default radius is the trimap of edge mIoU; at radius 1 it is the contour of every class, on both sides.
    """
    top = torch.iinfo(codes.dtype).max
    labelled = codes.bool()
    # The lowest code of a window without ignored pixels is `top` minus the highest complement.
    extremes = slide(
        torch.stack((codes, (top - codes) * labelled)), 2 * radius + 1, padding=radius, combine=torch.maximum
    )
    return (extremes[0] != top - extremes[1]) & labelled


def mask_boundary(codes: Tensor, radius: int) -> Tensor:
    """Return each class's mask minus its erosion by `radius`, all in one map (Cheng et al., arXiv 2103.16562).

    Pixel i of class c is set if the square of half-width `radius` around it contains anything but c: another
    class, an ignored pixel, or the outside of the image. Bool, shaped like `codes`; ignored pixels are never set.
    """
    framed = F.pad(codes, (1, 1, 1, 1), value=torch.iinfo(codes.dtype).max)
    across, down = framed[..., 1:] != framed[..., :-1], framed[..., 1:, :] != framed[..., :-1, :]
    # A square has one code exactly where all 2x2 cells in it do, and 2 * radius of them fit a side.
    cells = across[..., 1:, :] | across[..., :-1, :] | down[..., :-1]
    return slide(cells, 2 * radius, padding=radius - 1, combine=torch.bitwise_or) & codes.bool()


def matched_contours(contours: Tensor, radius: int, num_classes: int) -> Tensor:
    """Return the contour pixels of each side with one of their class on the other side within `radius`.

    `contours` [2, ..., H, W]: codes on the contour, 0 elsewhere, of truth and prediction. The result is bool of that
    shape. Distance is Chebyshev's.
    """
    group = contours >> 3
    bit = contours.bool().view(torch.uint8) << (contours & 7).to(torch.uint8)
    hits = torch.zeros_like(bit)
    # Eight classes at a time, one bit each: bytes are several times faster to process than 64-bit words.
    for index in range(num_classes // 8 + 1):
        own = bit * (group == index)
        near = slide(own, 2 * radius + 1, padding=radius, combine=torch.bitwise_or)
        hits |= near.flip(0) & own
    return hits.bool()
