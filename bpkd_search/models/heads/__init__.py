"""Segmentation heads: from encoder features to one feature map, which the segmentor classifies."""

from collections.abc import Callable
from typing import Any

from bpkd_search.models.heads.auxiliary import Auxiliary
from bpkd_search.models.heads.isanet import ISANet
from bpkd_search.models.heads.layers import resize
from bpkd_search.models.heads.light import ASPP, FCN, FPN, PSP
from bpkd_search.models.heads.published import DeepLabV3Plus, HRNetV2, PSPNet, SegFormer

# Each is built from the encoder's channels and strides, and the head's width.
HEADS: dict[str, Callable[..., Any]] = {
    "fcn": FCN,
    "fpn": FPN,
    "psp": PSP,
    "aspp": ASPP,
    "pspnet": PSPNet,
    "deeplabv3plus": DeepLabV3Plus,
    "isanet": ISANet,
    "hrnetv2": HRNetV2,
    "segformer": SegFormer,
}

__all__ = ["HEADS", "Auxiliary", "resize"]
