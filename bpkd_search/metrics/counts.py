"""Pixel counts by class, and ratios of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bpkd_search.metrics.regions import encode


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Count pixels by true class (row) and predicted class (column).

    `predictions` and `labels` are integers of equal shape; the result is [num_classes, num_classes] int64.
    Ignored pixels and ids outside 0..num_classes-1 are excluded.
    """
    truth, guess, _ = encode(predictions, labels, num_classes, ignore_index)
    return joint_counts(truth, guess, torch.zeros_like(truth, dtype=torch.bool), num_classes)[0]


def class_iou(confusion: Tensor) -> Tensor:
    """Return intersection over union per class, [C] float64, from counts [C, C]; NaN for a class without pixels."""
    hits = confusion.diagonal().double()
    return hits / (confusion.sum(0) + confusion.sum(1) - hits)


def mean_iou(confusion: Tensor) -> float:
    """Return the mean of `class_iou` over the classes that occur; NaN if none does."""
    return class_iou(confusion).nanmean().item()


def pixel_accuracy(confusion: Tensor) -> float:
    """Return the share of the counted pixels that are right; NaN if none is counted."""
    return (confusion.diagonal().sum().double() / confusion.sum()).item()


def joint_counts(truth: Tensor, guess: Tensor, edge: Tensor, num_classes: int) -> Tensor:
    """Return the confusion matrices outside and inside `edge`, [2, C, C]; all maps have equal shape."""
    side = num_classes + 1
    index = (edge.to(torch.int32) * side + truth) * side + guess
    return _histogram(index, 2 * side * side).view(2, side, side)[:, 1:, 1:]


def class_counts(codes: Tensor, masks: Sequence[Tensor], num_classes: int) -> Tensor:
    """Count pixels of each class in each mask, for both sides: codes and masks [2, ...] give [2, C, len(masks)]."""
    side, patterns = num_classes + 1, 2 ** len(masks)
    # Bit k of a pixel's pattern is 1 if mask k contains it; bytes, because they are fast to process.
    pattern = torch.zeros_like(codes, dtype=torch.uint8)
    for k, mask in enumerate(masks):
        pattern |= mask.view(torch.uint8) << k
    index = codes.to(torch.int32)
    index[1] += side
    counts = _histogram(index * patterns + pattern, 2 * side * patterns).view(2, side, patterns)[:, 1:]
    chosen = torch.arange(patterns, device=codes.device)[:, None] >> torch.arange(len(masks), device=codes.device)
    return (counts[..., None] * (chosen & 1)).sum(2)


def _histogram(index: Tensor, bins: int) -> Tensor:
    """Return the counts of 0..bins-1; unlike torch.bincount, this never synchronises with a GPU."""
    counts = torch.zeros(bins, dtype=torch.int64, device=index.device)
    return counts.index_add_(0, index.flatten(), counts.new_ones(()).expand(index.numel()))
