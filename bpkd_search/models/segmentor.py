"""A segmentation network: a timm encoder, a head and a 1x1 classifier."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from torch import Tensor, nn

from bpkd_search.errors import ConfigError
from bpkd_search.models.heads import HEADS


class Segmentor(nn.Module):
    """A timm encoder with a segmentation head; maps unnormalised images to class logits.

    Takes images [B, 3, H, W] as uint8 or as float in 0..255 and normalises them with the mean and
    deviation of the encoder's pretraining, so that teacher and student read the same batch.
    Returns logits [B, num_classes, h, w] at `stride` pixels per cell; with `return_features=True` also the map
    before the classifier, [B, channels, h, w]. Raises `ConfigError` if timm does not have the encoder
    or it has no feature pyramid.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, encoder: str, num_classes: int, *, head: str = "fpn", channels: int = 64, output_stride: int = 32
    ) -> None:
        super().__init__()
        self.encoder = create_encoder(encoder, output_stride)
        info: Any = self.encoder.feature_info
        self.head = HEADS[head](info.channels(), info.reduction(), channels)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.channels, self.num_classes, self.stride = channels, num_classes, self.head.reduction
        settings: Any = self.encoder.pretrained_cfg
        for name in ("mean", "std"):
            value = torch.tensor(settings[name], dtype=torch.float32).view(1, 3, 1, 1) * 255
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits [B, num_classes, h, w], with `return_features` also the features before the classifier."""
        features = self.head(self.encoder((images.float() - self.mean) / self.std))
        logits: Tensor = self.classifier(features)
        return (logits, features) if return_features else logits


def create_encoder(name: str, output_stride: int = 32) -> nn.Module:
    """A timm network that gives its feature pyramid, with fresh weights; nothing is downloaded.

    Raises `ConfigError` for an encoder that timm does not have, that gives no feature pyramid, or not at that stride.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ConfigError([f"encoder: got {name!r}, timm {timm.__version__} has no such model{hint}"])
    # timm does not state the default stride of a network, and some support no other.
    stride = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        encoder: nn.Module = timm.create_model(name, features_only=True, pretrained=False, **stride)
    except Exception as e:  # whatever timm's builders raise for what they do not offer
        if stride:
            create_encoder(name)  # raises if the stride is not what is wrong
            raise ConfigError([f"output_stride: got {output_stride}, {name} works at 32 only"]) from e
        raise ConfigError([f"encoder: got {name!r}, which gives no feature pyramid: {e}"]) from e
    info: Any = encoder.feature_info
    if len(info.channels()) < 2 or info.reduction()[-1] < 8:
        raise ConfigError([f"encoder: got {name!r}, which gives no feature pyramid"])
    return encoder


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
