"""Class-wise edge masks of a label map, with one bit per class.

In a square window, "dilation minus erosion" of a class is 1 exactly where the window contains that class
and another one. Each pixel gets one bit per class, in bytes of eight classes, and the bits are OR-ed
over the window (separably, by doubling: about log2(width) steps per axis); windows of one class, where the
lowest and the highest id are equal, are removed. This equals the one-hot max-pooling bit for bit at a small
fraction of its time and memory.

Rules of every function here:
- The image border is not an edge: windows are clipped to the image.
- Ignored pixels have no class and start no edge, and a window that contains one is not an edge.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bpkd_search.losses.pooling import pool_bits
from bpkd_search.morphology import slide

MAX_CLASSES = 253
_IGNORED = 255
# Pixels per part on a CPU: fewer add overhead, more exceed its cache.
_CACHED = 2**18
_STRANGE = 254


def edge_masks(
    labels: Tensor,
    num_classes: int,
    width: int,
    size: tuple[int, int] | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Compute the share of each cell's pixels that are edge of each class: float32 [B, C, h, w] in [0, 1].

    `labels` [B, H, W] of any integer type hold ids 0..C-1 and `ignore_index`; `width` is the odd side
    of the window in label pixels (7: up to 3 pixels to either side of an edge); `size` is the grid (h, w)
    of cells, those of `torch.nn.AdaptiveAvgPool2d`, or None for full resolution.

    Raises `ValueError` if width is even or not positive, there are more than 253 classes, or labels have a wrong shape
    or type or, on the CPU, an id that is neither a class nor `ignore_index`. On a GPU that check would stall the
    queue, so such ids count as ignored there. Source: Liu et al. 2023 (arXiv 2306.08075).
    """
    _check(labels, width)
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"num_classes: got {num_classes}, must be 1 to {MAX_CLASSES}")
    return torch.cat([_edge_masks(part, num_classes, width, size, ignore_index) for part in _parts(labels)])


def edge_band(labels: Tensor, width: int, ignore_index: int = 255) -> Tensor:
    """Compute where two classes meet within the window: bool [B, H, W], the union of the classes' edges.

    Arguments, rules and errors are those of `edge_masks`, without pooling.
    """
    _check(labels, width)
    if labels.dtype != torch.uint8 or ignore_index != _IGNORED:
        labels = labels.to(torch.int32)
        ignored = (labels == ignore_index) | (labels < 0)
        labels = labels.masked_fill(ignored, torch.iinfo(torch.int32).max)
    return _of_several_classes(labels, width)


def valid_fraction(labels: Tensor, size: tuple[int, int] | None = None, ignore_index: int = 255) -> Tensor:
    """Compute the share of each cell's pixels that are labelled: float32 [B, 1, h, w], cells as in `edge_masks`."""
    return torch.cat([pool_bits(_valid(part, ignore_index), 1, size) for part in _parts(labels)])


def _parts(labels: Tensor) -> tuple[Tensor, ...]:
    """Split a batch into as many images as fit a CPU's cache; a GPU needs few, large operations."""
    if labels.device.type != "cpu":
        return (labels,)
    return torch.split(labels, max(1, _CACHED // max(1, labels.shape[1] * labels.shape[2])))


def _valid(labels: Tensor, ignore_index: int) -> Tensor:
    if labels.dtype == torch.uint8 and 0 <= ignore_index <= 255:
        return (labels ^ ignore_index).clamp_(max=1)  # several times faster than a comparison
    return (labels != ignore_index).view(torch.uint8)


def _edge_masks(
    labels: Tensor, num_classes: int, width: int, size: tuple[int, int] | None, ignore_index: int
) -> Tensor:
    ids = _byte_ids(labels, num_classes, ignore_index)
    edge = _of_several_classes(ids, width).view(torch.uint8).neg()  # all bits or none
    masks = []
    for first in range(0, num_classes, 8):
        # A shift by 8 or more gives 0, and ids below `first` wrap around to such shifts.
        word = slide(1 << (ids - first), width, padding=width // 2, combine=torch.bitwise_or)
        masks.append(pool_bits(word.bitwise_and_(edge), min(8, num_classes - first), size))
    return torch.cat(masks, 1)


def _byte_ids(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Return the labels as uint8, with 255 for ignored pixels; invalid ids raise on the CPU, else count as ignored."""
    ids = labels
    if labels.dtype != torch.uint8 or ignore_index != _IGNORED:
        labels = labels.to(torch.int64)
        ids = torch.where((labels >= 0) & (labels < num_classes), labels, _STRANGE)
        ids = torch.where(labels == ignore_index, _IGNORED, ids).to(torch.uint8)
    if ids.device.type != "cpu":
        return ids.masked_fill(ids >= num_classes, _IGNORED)
    if int((ids + 1).max()) > num_classes:  # 255 + 1 wraps to 0
        got = [i for i in sorted(set(labels.flatten().tolist())) if not 0 <= i < num_classes and i != ignore_index]
        raise ValueError(
            f"labels: got ids {got[:5]}, must be 0 to {num_classes - 1}, or {ignore_index} for ignored pixels"
        )
    return ids


def _of_several_classes(ids: Tensor, width: int) -> Tensor:
    """Return where the window has two or more ids and no ignored pixel (the highest value of the dtype)."""
    top = torch.iinfo(ids.dtype).max
    highest = slide(ids, width, padding=width // 2, combine=torch.maximum)
    lowest = top ^ slide(top ^ ids, width, padding=width // 2, combine=torch.maximum)
    return (lowest != highest) & (top ^ highest).bool()


def _check(labels: Tensor, width: int) -> None:
    if width < 1 or width % 2 == 0:
        raise ValueError(f"width: got {width}, must be an odd number of pixels")
    if labels.ndim != 3 or labels.is_floating_point():
        raise ValueError(
            f"labels: got {labels.dtype} of shape {tuple(labels.shape)}, must be integers of shape [B, H, W]"
        )
