"""Sliding-window morphology of maps, shared by edge masks and boundary metrics."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def slide(values: Tensor, window: int, *, padding: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine each `window` x `window` square of `values` [..., H, W], zero-padded by `padding` on each side.

    `combine` must be idempotent (maximum, or); about log2(window) steps per axis, by doubling. Each side shrinks by
    `window` - 1 after padding.
    """
    values = F.pad(values, (padding,) * 4)
    for dim in (-2, -1):
        span = 1
        while span < window:
            # `combine` is idempotent, so the last step may overlap covered positions.
            step = min(span, window - span)
            size = values.shape[dim] - step
            values = combine(values.narrow(dim, 0, size), values.narrow(dim, step, size))
            span += step
    return values
