"""Light heads: fewer weights than the published networks they are named after."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bpkd_search.models.heads.layers import conv_bn_relu, resize


class FCN(nn.Module):
    """Two 3x3 convolutions on the deepest map (Long et al., arXiv 1411.4038)."""

    def __init__(self, in_channels: Sequence[int], reductions: Sequence[int], channels: int) -> None:
        super().__init__()
        self.reduction = reductions[-1]
        self.body = nn.Sequential(conv_bn_relu(in_channels[-1], channels, 3), conv_bn_relu(channels, channels, 3))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features [B, C_i, h_i, w_i] to [B, channels, h, w] at the deepest stride."""
        out: Tensor = self.body(features[-1])
        return out


class FPN(nn.Module):
    """Top-down sum of 1x1 projections down to stride 4, then one 3x3 (after Kirillov et al., arXiv 1901.02446)."""

    def __init__(self, in_channels: Sequence[int], reductions: Sequence[int], channels: int) -> None:
        super().__init__()
        self.levels = [i for i, r in enumerate(reductions) if r >= 4]
        self.reduction = reductions[self.levels[0]]
        self.lateral = nn.ModuleList(conv_bn_relu(in_channels[i], channels, 1) for i in self.levels)
        self.smooth = conv_bn_relu(channels, channels, 3)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features [B, C_i, h_i, w_i] to [B, channels, h, w] at stride 4."""
        top: Tensor | None = None
        for level, project in zip(reversed(self.levels), reversed(list(self.lateral)), strict=True):
            here = project(features[level])
            top = here if top is None else here + resize(top, here.shape[-2:])
        out: Tensor = self.smooth(top)
        return out


class PSP(nn.Module):
    """Pyramid pooling on the deepest map, bins of 1, 2, 3 and 6 (after Zhao et al., arXiv 1612.01105)."""

    def __init__(self, in_channels: Sequence[int], reductions: Sequence[int], channels: int) -> None:
        super().__init__()
        self.reduction = reductions[-1]
        self.bins = (1, 2, 3, 6)
        self.pools = nn.ModuleList(nn.Conv2d(in_channels[-1], channels // 4, 1) for _ in self.bins)
        self.fuse = conv_bn_relu(in_channels[-1] + 4 * (channels // 4), channels, 3)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features [B, C_i, h_i, w_i] to [B, channels, h, w] at the deepest stride."""
        deep = features[-1]
        # No batch norm on pooled maps: at 1x1, a batch of one has no variance.
        pooled = [
            resize(F.relu(project(F.adaptive_avg_pool2d(deep, bin_))), deep.shape[-2:])
            for bin_, project in zip(self.bins, self.pools, strict=True)
        ]
        out: Tensor = self.fuse(torch.cat([deep, *pooled], dim=1))
        return out


class ASPP(nn.Module):
    """Atrous pyramid with a stride-4 skip (after Chen et al., arXiv 1802.02611)."""

    def __init__(self, in_channels: Sequence[int], reductions: Sequence[int], channels: int) -> None:
        super().__init__()
        skip = next(i for i, r in enumerate(reductions) if r >= 4)
        self.skip, self.reduction = skip, reductions[skip]
        rates = (6, 12, 18) if reductions[-1] >= 16 else (12, 24, 36)
        self.branches = nn.ModuleList(
            [conv_bn_relu(in_channels[-1], channels, 1)]
            + [conv_bn_relu(in_channels[-1], channels, 3, dilation=rate) for rate in rates]
        )
        self.image = nn.Conv2d(in_channels[-1], channels, 1)
        self.join = conv_bn_relu(5 * channels, channels, 1)
        self.low = conv_bn_relu(in_channels[skip], 48, 1)
        self.fuse = conv_bn_relu(channels + 48, channels, 3)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features [B, C_i, h_i, w_i] to [B, channels, h, w] at stride 4."""
        deep, low = features[-1], self.low(features[self.skip])
        image = resize(F.relu(self.image(F.adaptive_avg_pool2d(deep, 1))), deep.shape[-2:])
        joined = self.join(torch.cat([*(branch(deep) for branch in self.branches), image], dim=1))
        out: Tensor = self.fuse(torch.cat([resize(joined, low.shape[-2:]), low], dim=1))
        return out
