"""Costs of networks: the paper's counts of parameters, and multiply-adds counted layer by layer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bpkd_search.models.build import build_model
from bpkd_search.models.cost import cost_of
from bpkd_search.models.heads.isanet import SelfAttention
from bpkd_search.models.paper import NETWORKS

# Millions of parameters in the paper's tables (arXiv 2306.08075), for 19 classes.
PUBLISHED = {
    "pspnet_r18": 12.82,
    "pspnet_r101": 68.07,
    "hrnetv2_w18s": 3.97,
    "hrnetv2_w48": 65.95,
    "deeplabv3plus_mv2": 15.35,
    "deeplabv3plus_r101": 62.68,
    "isanet_r18": 12.46,
    "isanet_r101": 56.80,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_the_papers(name: str) -> None:
    cost = cost_of(NETWORKS[name], 19, 64, 64)
    assert cost.parameters / 1e6 == pytest.approx(PUBLISHED[name], rel=0.01)
    if cost.auxiliary > 0.01 * cost.parameters:
        assert (cost.parameters - cost.auxiliary) / 1e6 != pytest.approx(PUBLISHED[name], rel=0.01)


@pytest.mark.parametrize("name", ["pspnet_r18", "hrnetv2_w18s", "deeplabv3plus_mv2", "isanet_r18"])
def test_multiply_adds_are_those_of_its_layers(name: str) -> None:
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output.numel() * math.prod(layer.weight.shape[1:])
        elif isinstance(layer, SelfAttention):
            groups, channels, height, width = inputs[0].shape
            keys = layer.key[0][0].out_channels
            total += groups * (height * width) ** 2 * (keys + channels)

    model = build_model(NETWORKS[name], 19, 0).eval()
    for layer in model.modules():
        layer.register_forward_hook(count)
    model(torch.zeros(1, 3, 64, 128))
    assert cost_of(NETWORKS[name], 19, 64, 128).multiply_adds == total
