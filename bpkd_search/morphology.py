"""Sliding-window morphology of maps, shared by edge masks and boundary metrics."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Combine = Callable[[Tensor, Tensor], Tensor]


def slide(values: Tensor, window: int, *, padding: int, combine: Combine) -> Tensor:
    """Combine each `window` x `window` square of `values` [..., H, W], zero-padded by `padding` on each side.

    `combine` must be idempotent (maximum, or). Each side shrinks by `window` - 1 after padding.
    """
    return widen(F.pad(values, (padding,) * 4), 1, window, combine=combine)


def widen(values: Tensor, span: int, window: int, *, combine: Combine) -> Tensor:
    """Combine each `window` x `window` square of maps whose values already combine `span` x `span` squares.

    About log2(window / span) steps per axis, by doubling. Each side shrinks by `window` - `span`.
    """
    for dim in (-2, -1):
        covered = span
        while covered < window:
            # `combine` is idempotent, so the last step may overlap covered positions.
            step = min(covered, window - covered)
            size = values.shape[dim] - step
            values = combine(values.narrow(dim, 0, size), values.narrow(dim, step, size))
            covered += step
    return values
