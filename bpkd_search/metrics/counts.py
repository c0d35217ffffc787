"""Pixel counts by class, and ratios of them."""

from __future__ import annotations

import torch
from torch import Tensor

from bpkd_search.metrics.regions import encode


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Count pixels by true class (row) and predicted class (column).

    `predictions` and `labels` are integers of equal shape; the result is [num_classes, num_classes] int64.
    Ignored pixels and ids outside 0..num_classes-1 are excluded.
    """
    codes, _ = encode(predictions, labels, num_classes, ignore_index)
    side = num_classes + 1
    counts = codes.new_zeros(side * side, dtype=torch.int64)
    count(counts, torch.add(codes[1], codes[0], alpha=side), counts.new_ones(()))
    return counts.view(side, side)[1:, 1:]


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


def count(counts: Tensor, index: Tensor, one: Tensor) -> None:
    """Add `one`, a scalar, to `counts` for each index; unlike torch.bincount, this never synchronises with a GPU."""
    counts.index_add_(0, index.flatten(), one.expand(index.numel()))
