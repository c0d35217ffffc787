"""Square-window morphology of maps, the one sweep that edge masks and boundary metrics share."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def slide(values: Tensor, window: int, *, padding: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine each `window` x `window` square of `values` [..., H, W] padded with zeros.

    `combine` must be idempotent (maximum, or). Takes log2(window) steps an axis, by doubling.
    """
    values = F.pad(values, (padding,) * 4)
    for dim in (-2, -1):
        span = 1
        while span < window:
            # `combine` is idempotent, so the last step may overlap what is already covered.
            step = min(span, window - span)
            size = values.shape[dim] - step
            values = combine(values.narrow(dim, 0, size), values.narrow(dim, step, size))
            span += step
    return values
