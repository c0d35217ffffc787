"""A segmentation network: an encoder, a head and a 1x1 classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bpkd_search.models.encoders import create_encoder, size_multiple
from bpkd_search.models.heads import HEADS, Auxiliary
from bpkd_search.models.heads.layers import ChannelDropout
from bpkd_search.models.network import Network, Outputs


class Segmentor(Network):
    """An encoder with a segmentation head; maps unnormalised images to class logits.

    Takes images [B, 3, H, W], red first, as uint8 or as float in 0..255, and normalises them with the mean and
    deviation of the encoder's pretraining, so that teacher and student read the same batch.
    Returns logits [B, num_classes, h, w] at `stride` pixels per cell; with `return_features=True` also the map
    before the classifier, [B, channels, h, w]. With an `auxiliary_weight`, which is
    that of its loss, `outputs` gives the logits of an auxiliary head too.
    Raises `ConfigError` if there is no such encoder or it has no feature pyramid.
    """

    channels: int
    std: Tensor

    def __init__(
        self,
        encoder: str,
        num_classes: int,
        *,
        head: str = "fpn",
        channels: int = 64,
        output_stride: int = 32,
        auxiliary_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = create_encoder(encoder, output_stride)
        info: Any = self.encoder.feature_info
        self.head = HEADS[head](info.channels(), info.reduction(), channels)
        dropout = getattr(self.head, "dropout", 0.0)
        self.dropout = ChannelDropout(dropout) if dropout else nn.Identity()
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.auxiliary = Auxiliary(info.channels(), channels // 2, num_classes) if auxiliary_weight else None
        self.auxiliary_weight = auxiliary_weight
        self.channels, self.num_classes, self.stride = channels, num_classes, self.head.reduction
        self.multiple = size_multiple(encoder, self.encoder)
        settings: Any = self.encoder.pretrained_cfg
        for name in ("mean", "std"):
            value = torch.tensor(settings[name], dtype=torch.float32).view(1, 3, 1, 1) * 255
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor | tuple[Tensor, Tensor | None]:
        """Return logits [B, num_classes, h, w], with `return_features` also the features before the classifier."""
        features = self.head(self._pyramid(images))
        logits: Tensor = self.classifier(self.dropout(features))
        return (logits, features) if return_features else logits

    def outputs(self, images: Tensor) -> Outputs:
        """Return logits and features as `forward` does, and the auxiliary logits, None without such a head."""
        pyramid = self._pyramid(images)
        features = self.head(pyramid)
        logits = self.classifier(self.dropout(features))
        return logits, features, None if self.auxiliary is None else self.auxiliary(pyramid)

    def heads(self) -> Sequence[nn.Module]:
        """Return the head, the classifier and the auxiliary head."""
        return [part for part in (self.head, self.classifier, self.auxiliary) if part is not None]

    def _pyramid(self, images: Tensor) -> Sequence[Tensor]:
        images = (images.float() - self.mean) / self.std
        if self.multiple == 1:
            maps: Sequence[Tensor] = self.encoder(images)
            return maps
        height, width = images.shape[-2:]
        maps = self.encoder(F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple)))
        info: Any = self.encoder.feature_info
        return [x[..., : -(-height // r), : -(-width // r)] for x, r in zip(maps, info.reduction(), strict=True)]


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
