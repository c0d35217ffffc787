"""Weights of mmsegmentation (0.x and 1.x) under this package's names, and which network they are of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bpkd_search.models.encoders import VARIANTS

Rules = tuple[tuple[str, str], ...]

# An mmcv `ConvModule` is a convolution and a batch norm.
_CONV_MODULES: Rules = ((r"\.conv\.(weight|bias)$", r".0.\1"), (r"\.bn\.(\w+)$", r".1.\1"))

_RESNET: Rules = ((r"^stem\.7\.", "bn1."), (r"^stem\.", "conv1."))
_MOBILENET: Rules = (
    (r"^conv1\.conv\.", "conv_stem."),
    (r"^conv1\.bn\.", "bn1."),
    # The only block without an expansion: depthwise, then pointwise.
    (r"^layer1\.0\.conv\.0\.conv\.", "blocks.0.0.conv_dw."),
    (r"^layer1\.0\.conv\.0\.bn\.", "blocks.0.0.bn1."),
    (r"^layer1\.0\.conv\.1\.conv\.", "blocks.0.0.conv_pw."),
    (r"^layer1\.0\.conv\.1\.bn\.", "blocks.0.0.bn2."),
    *(
        (rf"^layer{stage + 1}\.(\d+)\.conv\.{place}\.{theirs}\.", rf"blocks.{stage}.\1.{ours}.")
        for stage in range(1, 7)
        for place, name in enumerate(("conv_pw", "conv_dw", "conv_pwl"))
        for theirs, ours in (("conv", name), ("bn", f"bn{place + 1}"))
    ),
)
_HEADS: dict[str, Rules] = {
    "pspnet": ((r"^psp_modules\.(\d+)\.1\.", r"pools.\1.project."), (r"^bottleneck\.", "fuse.")),
    "deeplabv3plus": (
        (r"^image_pool\.1\.", "image.project."),
        (r"^aspp_modules\.", "branches."),
        (r"^bottleneck\.", "join."),
        (r"^c1_bottleneck\.", "low."),
        (r"^sep_bottleneck\.", "decoder."),
        (r"\.depthwise_conv\.", ".0."),
        (r"\.pointwise_conv\.", ".1."),
    ),
    "isanet": (
        (r"^in_conv\.", "reduce."),
        (r"^global_relation\.", "across."),
        (r"^local_relation\.", "within."),
        (r"^out_conv\.", "fuse."),
        (r"\.(query|key|value)_project\.", r".\1."),
        (r"\.output_project\.", ".project."),
    ),
    "segformer": ((r"^convs\.", "project."), (r"^fusion_conv\.", "fuse.")),
    "hrnetv2": ((r"^convs\.0\.", "fuse."),),
}
# A key that only this head has, in the order in which they are tried.
_MARKS = {
    "pspnet": "psp_modules.0.1.conv.weight",
    "deeplabv3plus": "sep_bottleneck.0.depthwise_conv.conv.weight",
    "isanet": "global_relation.value_project.weight",
    "segformer": "fusion_conv.conv.weight",
}
_RESNETS = {(2, False): "resnet18_v1c", (6, True): "resnet50_v1c", (23, True): "resnet101_v1c"}


# Of the images that ImageNet's encoders were trained on, red first, in 0..255.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Network:
    """What a file of mmsegmentation holds, in the words of a `student` or `teacher` block."""

    encoder: str
    head: str
    channels: int
    classes: int

    def __str__(self) -> str:
        return f"encoder: {self.encoder}, head: {self.head}, channels: {self.channels} and {self.classes} classes"


def network_of(weights: Mapping[str, Tensor]) -> Network | None:
    """Return which network of this package the weights of mmsegmentation are of; None if they are of no such."""
    classifier = weights.get("decode_head.conv_seg.weight")
    encoder, head = _encoder(weights), _head(weights)
    if classifier is None or encoder is None or head is None:
        return None
    return Network(encoder, head, int(classifier.shape[1]), int(classifier.shape[0]))


def preprocessing_fault(meta: Mapping[str, Any]) -> str | None:
    """Return what differs between the images that a file's configuration states and those that networks read here."""
    config = str(meta.get("cfg") or meta.get("config") or "")
    if re.search(r"to_rgb['\"]?[=:] ?False", config):
        return (
            "was trained on images with blue first, and networks here read red first; train it again with to_rgb=True"
        )
    for name, expected in (("mean", _MEAN), ("std", _STD)):
        for text in re.findall(rf"\b{name}['\"]?[=:] ?\[([\d., \n]+)\]", config):
            values = [float(part) for part in text.split(",") if part.strip()]
            if len(values) == 3 and max(abs(a - b) for a, b in zip(values, expected, strict=True)) > 0.5:
                return f"was trained on images normalised with {name} {values}, networks here with {list(expected)}"
    return None


def translate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a whole network under this package's names; those without a counterpart keep theirs."""
    head_rules = (*_HEADS.get(_head(weights) or "", ()), *_CONV_MODULES)
    out = {}
    for name, tensor in weights.items():
        room, _, rest = name.partition(".")
        if room == "backbone":
            name = f"encoder.{encoder_name(rest)}"
        elif rest.startswith("conv_seg."):
            name = {"decode_head": "", "auxiliary_head": "auxiliary."}.get(room, f"{room}.")
            name += rest.replace("conv_seg", "classifier")
        elif room == "auxiliary_head":
            name = "auxiliary." + _renamed(rest, ((r"^convs\.0\.", "conv."), *_CONV_MODULES))
        elif room == "decode_head":
            name = "head." + _renamed(rest, head_rules)
        out[name] = tensor
    return out


def encoder_name(name: str) -> str:
    """Return timm's name of a backbone's weight; names that both share stay as they are."""
    return _renamed(name, (*_RESNET, *_MOBILENET))


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _head(weights: Mapping[str, Tensor]) -> str | None:
    for head, mark in _MARKS.items():
        if f"decode_head.{mark}" in weights:
            return head
    # An FCN head is the one of HRNet if it is a single 1x1 convolution.
    conv = weights.get("decode_head.convs.0.conv.weight")
    single = conv is not None and conv.shape[2] == 1 and "decode_head.convs.1.conv.weight" not in weights
    return "hrnetv2" if single else None


def _encoder(weights: Mapping[str, Tensor]) -> str | None:
    if "backbone.stem.0.weight" in weights:
        depth = sum(re.fullmatch(r"backbone\.layer3\.\d+\.conv1\.weight", name) is not None for name in weights)
        return _RESNETS.get((depth, "backbone.layer3.0.conv3.weight" in weights))
    if "backbone.layer7.0.conv.2.conv.weight" in weights:
        return "mobilenet_v2"
    if (conv := weights.get("backbone.stage2.0.branches.0.0.conv1.weight")) is not None:
        small = "backbone.stage2.0.branches.0.2.conv1.weight" not in weights
        name = f"hrnetv2_w{conv.shape[0]}" + ("_small" if small else "")
        return name if name in VARIANTS else None
    return None
