"""Class-wise edge masks of a label map, by bit words.

In a square window, "dilation minus erosion" of one class is 1 exactly where the window holds that class
and another one. So each pixel gets one bit per class, the bits are OR-ed over the window (separable, by
doubling: about log2(width) steps per axis), and words with a single bit are dropped. This equals the
one-hot max-pool form bit for bit at a small part of its time and memory.

Rules, the same for every function here:
- The frame of the image is no edge: windows are clipped to the image.
- Ignored pixels are no class and seed no edge, and a window that holds one is no edge.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from .pooling import pool_bits

MAX_CLASSES = 253
_PER_WORD = 31  # an int32 word: one bit per class, and its sign marks what is no class
_IGNORED = 255
_STRANGE = 254
_IGNORED_WORD = -1
_STRANGE_WORD = torch.iinfo(torch.int32).min + 3  # negative too, but less than any ignored word


def edge_masks(
    labels: Tensor,
    num_classes: int,
    width: int,
    size: tuple[int, int] | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Per class, the share of each cell's pixels that are its edge: float32 [B, C, h, w] in [0, 1].

    `labels` [B, H, W] of any integer type hold ids 0..C-1 and `ignore_index`; `width` is the odd side
    of the window in label pixels (7: up to 3 pixels to either side of an edge); `size` is the grid (h, w)
    of cells, those of `torch.nn.AdaptiveAvgPool2d`, or None for full resolution.

    Raises ValueError for an even or non-positive width, more than 253 classes, labels of a wrong shape or
    type and, on the CPU, ids that are neither a class nor `ignore_index`. On a GPU that check would stall the
    queue: such ids are taken as ignored there. Source: Liu et al. 2023 (arXiv 2306.08075).
    """
    _check(labels, width)
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"num_classes: got {num_classes}, must be 1 to {MAX_CLASSES}")
    # One image after the other keeps the words in a CPU's cache; a GPU wants few, large operations.
    chunks = torch.split(labels, 1) if labels.device.type == "cpu" else (labels,)
    return torch.cat([_edge_masks(chunk, num_classes, width, size, ignore_index) for chunk in chunks])


def edge_band(labels: Tensor, width: int, ignore_index: int = 255) -> Tensor:
    """Where two classes meet within the window: bool [B, H, W], the union of the classes' edges.

    Arguments and rules are those of `edge_masks`, without pooling.
    """
    _check(labels, width)
    ids = labels.to(torch.int32)
    ids = torch.where(ids == ignore_index, -1, ids)
    span = torch.iinfo(torch.int32)
    lowest = _over_window(ids, width, torch.minimum, outside=span.max)
    highest = _over_window(ids, width, torch.maximum, outside=span.min)
    return (lowest >= 0) & (lowest != highest)


def valid_fraction(labels: Tensor, size: tuple[int, int] | None = None, ignore_index: int = 255) -> Tensor:
    """The share of each cell's pixels that are labelled: float32 [B, 1, h, w], cells as in `edge_masks`."""
    if labels.dtype == torch.uint8 and 0 <= ignore_index <= 255:
        valid = (labels ^ ignore_index).clamp_(max=1)  # several times faster than a comparison
    else:
        valid = (labels != ignore_index).view(torch.uint8)
    return pool_bits(valid, 1, size)


def _edge_masks(
    labels: Tensor, num_classes: int, width: int, size: tuple[int, int] | None, ignore_index: int
) -> Tensor:
    ids = _byte_ids(labels, num_classes, ignore_index).to(torch.int32)
    firsts = range(0, num_classes, _PER_WORD)
    words = [_bit_words(ids, num_classes, first) for first in firsts]
    if ids.device.type == "cpu" and int(words[0].min()) < _IGNORED_WORD:
        got = [i for i in sorted(set(labels.flatten().tolist())) if not 0 <= i < num_classes and i != ignore_index]
        raise ValueError(
            f"labels: got ids {got[:5]}, must be 0 to {num_classes - 1}, or {ignore_index} for ignored pixels"
        )
    words = [_over_window(word, width, torch.bitwise_or, outside=0) for word in words]
    edge = _of_several_classes(words)
    counts = [min(_PER_WORD, num_classes - first) for first in firsts]
    return torch.cat([pool_bits(word & edge, count, size) for word, count in zip(words, counts, strict=True)], 1)


def _byte_ids(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """The labels as uint8, with 255 for ignored pixels and any other id from C on for what is no class."""
    if labels.dtype == torch.uint8 and ignore_index == _IGNORED:
        return labels
    labels = labels.to(torch.int64)
    known = (labels >= 0) & (labels < num_classes)
    ids = torch.where(known, labels, _STRANGE)
    return torch.where(labels == ignore_index, _IGNORED, ids).to(torch.uint8)


def _bit_words(ids: Tensor, num_classes: int, first: int) -> Tensor:
    """Bit `id - first` for the word's classes, none for the others, a negative word for what is no class."""
    table = [0] * num_classes + [_STRANGE_WORD] * (_IGNORED - num_classes) + [_IGNORED_WORD]
    for bit, id_ in enumerate(range(first, min(first + _PER_WORD, num_classes))):
        table[id_] = 1 << bit
    look_up = torch.tensor(table, dtype=torch.int32, device=ids.device)
    return look_up.index_select(0, ids.flatten()).view_as(ids)


def _of_several_classes(words: list[Tensor]) -> Tensor:
    """All bits set where the words together hold two classes or more and nothing else, else none."""
    # x & (x - 1) clears the lowest bit. Bit arithmetic, because a CPU compares several times slower.
    seen, several = words[0], (words[0] - 1).bitwise_and_(words[0])
    for word in words[1:]:
        several = several | (word & (word - 1)) | (word & _if_positive(seen))
        seen = seen | word
    return _if_positive(several)


def _if_positive(words: Tensor) -> Tensor:
    return words.neg().bitwise_right_shift_(31)


def _over_window(maps: Tensor, width: int, reduce: Callable[[Tensor, Tensor], Tensor], outside: int) -> Tensor:
    """Reduce [B, H, W] over a square window; `outside` is the value beyond the frame, neutral to `reduce`."""
    maps = pad(maps, (width // 2,) * 4, value=outside)
    for dim in (1, 2):
        covered = 1
        while covered < width:
            step = min(covered, width - covered)
            length = maps.shape[dim] - step
            maps = reduce(maps.narrow(dim, 0, length), maps.narrow(dim, step, length))
            covered += step
    return maps


def _check(labels: Tensor, width: int) -> None:
    if width < 1 or width % 2 == 0:
        raise ValueError(f"width: got {width}, must be an odd number of pixels")
    if labels.ndim != 3 or labels.is_floating_point():
        raise ValueError(
            f"labels: got {labels.dtype} of shape {tuple(labels.shape)}, must be integers of shape [B, H, W]"
        )
