"""The auxiliary head: a second prediction from a shallower map, for training alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bpkd_search.models.heads.layers import ChannelDropout, conv_bn_relu


class Auxiliary(nn.Module):
    """An FCN of one 3x3 convolution on the second deepest map, with its own classifier (arXiv 1612.01105)."""

    def __init__(self, in_channels: Sequence[int], channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = conv_bn_relu(in_channels[-2], channels, 3)
        self.dropout = ChannelDropout(0.1)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features [B, C_i, h_i, w_i] to logits [B, num_classes, h, w] at the second deepest map's stride."""
        logits: Tensor = self.classifier(self.dropout(self.conv(features[-2])))
        return logits
