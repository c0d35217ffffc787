"""Encoders: timm's networks by their names, and those that mmsegmentation builds otherwise than timm."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
from torch import nn

from bpkd_search.errors import ConfigError


@dataclass(frozen=True)
class Variant:
    """A network of timm with other options, of which `pyramid` are those of its feature pyramid alone.

    `adapt` changes it in place for an output stride after it is built.
    """

    timm_name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    pyramid: Mapping[str, Any] = field(default_factory=dict)
    adapt: Callable[[nn.Module, int], None] = lambda encoder, output_stride: None


def _dilate_first_convolutions(encoder: nn.Module, output_stride: int) -> None:
    """Leave the second convolution of basic blocks undilated, as mmsegmentation does."""
    for block in encoder.modules():
        if type(block).__name__ == "BasicBlock":
            _set_dilation(block.conv2, 1)


def _dilate_first_blocks(encoder: nn.Module, output_stride: int) -> None:
    """Dilate only the first block of each stage, by the strides left out up to and with it, as mmsegmentation does."""
    stages: Any = encoder.blocks
    for index, stage in enumerate(stages):
        # Stage 3 brings the stride to 16, stage 5 to 32.
        rate = max(1, (32 if index >= 5 else 16 if index >= 3 else 1) // output_stride)
        for number, block in enumerate(stage):
            _set_dilation(block.conv_dw, rate if number == 0 else 1)


def _upsample_bilinearly(encoder: nn.Module, output_stride: int) -> None:
    """Upsample the maps that are added to finer ones bilinearly, as mmsegmentation does; timm repeats cells."""
    for module in encoder.modules():
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", False


def _set_dilation(conv: Any, dilation: int) -> None:
    conv.dilation = (dilation, dilation)
    conv.padding = tuple(dilation * (size // 2) for size in conv.kernel_size)


_DEEP_STEM = {"stem_type": "deep", "stem_width": 32}
_HIGH_RESOLUTION = {"feature_location": ""}

VARIANTS: dict[str, Variant] = {
    "resnet18_v1c": Variant("resnet18", _DEEP_STEM, adapt=_dilate_first_convolutions),
    "resnet50_v1c": Variant("resnet50", _DEEP_STEM),
    "resnet101_v1c": Variant("resnet101", _DEEP_STEM),
    "mobilenet_v2": Variant("mobilenetv2_100", adapt=_dilate_first_blocks),
    "hrnetv2_w18_small": Variant("hrnet_w18_small_v2", pyramid=_HIGH_RESOLUTION, adapt=_upsample_bilinearly),
    "hrnetv2_w18": Variant("hrnet_w18", pyramid=_HIGH_RESOLUTION, adapt=_upsample_bilinearly),
    "hrnetv2_w48": Variant("hrnet_w48", pyramid=_HIGH_RESOLUTION, adapt=_upsample_bilinearly),
}


def create_encoder(name: str, output_stride: int = 32) -> nn.Module:
    """A network that gives its feature pyramid, with fresh weights; nothing is downloaded.

    Raises `ConfigError` for an encoder that neither timm nor `VARIANTS` has, that gives no feature pyramid, or not at
    that stride.
    """
    _require_known(name)
    variant = VARIANTS.get(name, Variant(name))
    # timm does not state the default stride of a network, and some support no other.
    stride = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        encoder = _build(variant, stride)
    except Exception as e:  # whatever timm's builders raise for what they do not offer
        if stride:
            create_encoder(name)  # raises if the stride is not what is wrong
            raise ConfigError([f"output_stride: got {output_stride}, {name} works at 32 only"]) from e
        raise ConfigError([f"encoder: got {name!r}, which gives no feature pyramid: {e}"]) from e
    info: Any = encoder.feature_info
    if len(info.channels()) < 2 or info.reduction()[-1] < 8:
        raise ConfigError([f"encoder: got {name!r}, which gives no feature pyramid"])
    variant.adapt(encoder, output_stride)
    return encoder


def create_classifier(name: str) -> nn.Module:
    """The whole network that an encoder is cut from, whose names of weights other software knows."""
    variant = VARIANTS.get(name, Variant(name))
    model: nn.Module = timm.create_model(variant.timm_name, pretrained=False, **variant.options)
    return model


def native_size(name: str) -> tuple[int, int] | None:
    """Return the height and width that a network was made for, or None for one that takes any size."""
    cfg = timm.get_pretrained_cfg(VARIANTS.get(name, Variant(name)).timm_name)
    return tuple(cfg.input_size[1:]) if cfg is not None and cfg.fixed_input_size else None


def size_multiple(name: str, encoder: nn.Module) -> int:
    """Return the number of which heights and widths must be multiples: 1 for most networks."""
    info: Any = encoder.feature_info
    joins = VARIANTS.get(name, Variant(name)).timm_name.startswith("hrnet")
    return int(max(info.reduction())) if joins or native_size(name) else 1


def _build(variant: Variant, stride: Mapping[str, int]) -> nn.Module:
    options = {**variant.options, **variant.pyramid, **stride}
    if native_size(variant.timm_name):
        # What makes a transformer take any size has one of two names; some can only take their own.
        for free in ({"dynamic_img_size": True}, {"strict_img_size": False}):
            try:
                # This class of pyramid gives channels first, whatever the network computes in.
                return _pyramid(variant.timm_name, **options, **free, feature_cls="getter")
            except (TypeError, AttributeError):
                continue
    return _pyramid(variant.timm_name, **options)


def _pyramid(name: str, **options: Any) -> nn.Module:
    encoder: nn.Module = timm.create_model(name, features_only=True, pretrained=False, **options)
    return encoder


def _require_known(name: str) -> None:
    if name in VARIANTS or timm.is_model(name):
        return
    close = difflib.get_close_matches(name, [*VARIANTS, *timm.list_models()], n=3)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    raise ConfigError([f"encoder: got {name!r}, timm {timm.__version__} has no such model{hint}"])
