"""The networks of the BPKD paper (arXiv 2306.08075), as the keys of a `student` or `teacher` block."""

from __future__ import annotations

from bpkd_search.config.networks import Model


def _dilated(encoder: str, head: str, channels: int) -> Model:
    return Model(encoder=encoder, head=head, channels=channels, output_stride=8, auxiliary_weight=0.4)


# Their settings for Cityscapes are mmsegmentation's; it has none for ISANet on ResNet-18, whose width is PSPNet's.
NETWORKS: dict[str, Model] = {
    "pspnet_r18": _dilated("resnet18_v1c", "pspnet", 128),
    "pspnet_r101": _dilated("resnet101_v1c", "pspnet", 512),
    "hrnetv2_w18s": Model(encoder="hrnetv2_w18_small", head="hrnetv2", channels=270),
    "hrnetv2_w48": Model(encoder="hrnetv2_w48", head="hrnetv2", channels=720),
    "deeplabv3plus_mv2": _dilated("mobilenet_v2", "deeplabv3plus", 512),
    "deeplabv3plus_r101": _dilated("resnet101_v1c", "deeplabv3plus", 512),
    "isanet_r18": _dilated("resnet18_v1c", "isanet", 128),
    "isanet_r101": _dilated("resnet101_v1c", "isanet", 512),
}
