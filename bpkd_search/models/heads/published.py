"""Heads as published, with the widths, layers and dropout of mmsegmentation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bpkd_search.models.heads.layers import PooledConv, conv_bn_relu, resize, separable_conv


class PSPNet(nn.Module):
    """Pyramid pooling on the deepest map with bins of 1, 2, 3 and 6 (Zhao et al., arXiv 1612.01105)."""

    dropout = 0.1

    def __init__(self, in_channels: Sequence[int], reductions: Sequence[int], channels: int) -> None:
        super().__init__()
        self.reduction, deep = reductions[-1], in_channels[-1]
        self.pools = nn.ModuleList(PooledConv(deep, channels, bins) for bins in (1, 2, 3, 6))
        self.fuse = conv_bn_relu(deep + 4 * channels, channels, 3)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features [B, C_i, h_i, w_i] to [B, channels, h, w] at the deepest stride."""
        deep = features[-1]
        out: Tensor = self.fuse(torch.cat([deep, *(pool(deep) for pool in self.pools)], dim=1))
        return out


class DeepLabV3Plus(nn.Module):
    """Separable atrous pyramid and a decoder at stride 4 (Chen et al., arXiv 1802.02611)."""

    dropout = 0.1

    def __init__(self, in_channels: Sequence[int], reductions: Sequence[int], channels: int) -> None:
        super().__init__()
        # 48 at the published width of 512, 12 at that of 128 for ResNet-18.
        deep, low = in_channels[-1], max(1, 48 * channels // 512)
        self.skip = next(i for i, r in enumerate(reductions) if r >= 4)
        self.reduction = reductions[self.skip]
        rates = (6, 12, 18) if reductions[-1] >= 16 else (12, 24, 36)
        self.image = PooledConv(deep, channels, 1)
        self.branches = nn.ModuleList(
            [conv_bn_relu(deep, channels, 1), *(separable_conv(deep, channels, rate) for rate in rates)]
        )
        self.join = conv_bn_relu(5 * channels, channels, 3)
        self.low = conv_bn_relu(in_channels[self.skip], low, 1)
        self.decoder = nn.Sequential(separable_conv(channels + low, channels), separable_conv(channels, channels))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features [B, C_i, h_i, w_i] to [B, channels, h, w] at stride 4."""
        deep, low = features[-1], self.low(features[self.skip])
        joined = self.join(torch.cat([self.image(deep), *(branch(deep) for branch in self.branches)], dim=1))
        out: Tensor = self.decoder(torch.cat([resize(joined, low.shape[-2:]), low], dim=1))
        return out


class HRNetV2(nn.Module):
    """A 1x1 convolution on the maps of all strides from 4, joined at the finest (Sun et al., arXiv 1904.04514)."""

    dropout = 0.0

    def __init__(self, in_channels: Sequence[int], reductions: Sequence[int], channels: int) -> None:
        super().__init__()
        self.levels = levels_from_4(reductions)
        self.reduction = reductions[self.levels[0]]
        self.fuse = conv_bn_relu(sum(in_channels[i] for i in self.levels), channels, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features [B, C_i, h_i, w_i] to [B, channels, h, w] at stride 4."""
        maps = [features[i] for i in self.levels]
        out: Tensor = self.fuse(torch.cat([resize(x, maps[0].shape[-2:]) for x in maps], dim=1))
        return out


class SegFormer(nn.Module):
    """1x1 projections of the maps of all strides from 4, joined at the finest (Xie et al., arXiv 2105.15203)."""

    dropout = 0.1

    def __init__(self, in_channels: Sequence[int], reductions: Sequence[int], channels: int) -> None:
        super().__init__()
        self.levels = levels_from_4(reductions)
        self.reduction = reductions[self.levels[0]]
        self.project = nn.ModuleList(conv_bn_relu(in_channels[i], channels, 1) for i in self.levels)
        self.fuse = conv_bn_relu(len(self.levels) * channels, channels, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features [B, C_i, h_i, w_i] to [B, channels, h, w] at the finest stride from 4."""
        maps = [project(features[i]) for i, project in zip(self.levels, self.project, strict=True)]
        out: Tensor = self.fuse(torch.cat([resize(x, maps[0].shape[-2:]) for x in maps], dim=1))
        return out


def levels_from_4(reductions: Sequence[int]) -> list[int]:
    """Return the indices of the maps at stride 4 and coarser."""
    return [i for i, reduction in enumerate(reductions) if reduction >= 4]
