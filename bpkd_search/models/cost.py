"""What a network costs: parameters and multiply-adds, counted without its memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from bpkd_search.config.networks import Model
from bpkd_search.models.build import build_model
from bpkd_search.models.segmentor import count_parameters


@dataclass(frozen=True)
class Cost:
    """Parameters, those of them in an auxiliary head, and multiply-adds of one image without that head."""

    parameters: int
    auxiliary: int
    multiply_adds: int


def cost_of(spec: Model, num_classes: int, height: int, width: int) -> Cost:
    """Return what a network costs for an image of `height` x `width` pixels; only products are counted.

    Raises `ConfigError` if the network cannot be built.
    """
    # PyTorch's meta device computes shapes alone.
    with torch.device("meta"):
        model = build_model(spec.model_copy(update={"weights": None}), num_classes, 0).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, height, width))
    auxiliary = 0 if model.auxiliary is None else count_parameters(model.auxiliary)
    # A multiply-add is two floating-point operations.
    return Cost(count_parameters(model), auxiliary, counter.get_total_flops() // 2)
