"""What every network is to those that run it."""

from __future__ import annotations

from torch import Tensor, nn


class Network(nn.Module):
    """Maps images [B, 3, H, W], red first, as uint8 or as float in 0..255, to logits [B, num_classes, h, w].

    With `return_features=True`, it returns the features before the classifier too, [B, channels, h, w]; None, like
    `channels`, if it has none to give. `mean` and `std` [1, 3, 1, 1] normalise images in 0..255.
    """

    mean: Tensor
    std: Tensor
    num_classes: int
    channels: int | None
