"""Layers that the heads share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bpkd_search.errors import ConfigError


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size, batch norm and ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def separable_conv(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """Return a depthwise 3x3 and a pointwise convolution, each with batch norm and ReLU."""
    return nn.Sequential(
        conv_bn_relu(in_channels, in_channels, 3, dilation=dilation, groups=in_channels),
        conv_bn_relu(in_channels, out_channels, 1),
    )


class PooledConv(nn.Module):
    """A 1x1 convolution with batch norm and ReLU on a map pooled to `bins` x `bins`, resized back to the map."""

    def __init__(self, in_channels: int, out_channels: int, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.project = conv_bn_relu(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to [B, out_channels, h, w]. Raises `ConfigError` for a training batch of one image."""
        if self.training and self.bins == 1 and x.shape[0] == 1:
            raise ConfigError(["head: needs train.batch_size of at least 2, for the batch norm of its pooled maps"])
        return resize(self.project(F.adaptive_avg_pool2d(x, self.bins)), x.shape[-2:])


class ChannelDropout(nn.Module):
    """Drops whole channels in training, like `nn.Dropout2d`, with random numbers that compiled code draws alike."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to the same shape and mean."""
        if not self.training:
            return x
        kept = torch.rand(x.shape[:2], device=x.device) >= self.rate
        return x * (kept / (1 - self.rate)).to(x.dtype)[:, :, None, None]


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize [B, C, h, w] bilinearly to `size` (height, width), `align_corners=False`."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
