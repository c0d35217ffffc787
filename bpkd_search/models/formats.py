"""Which software a file of weights is from, by its names, and what to do with one that does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from bpkd_search.models.mmsegmentation import network_of

# A classifier's last layer in timm's and torchvision's networks.
_CLASSIFIERS = ("fc.weight", "head.weight", "head.fc.weight", "classifier.weight", "classifier.1.weight")
# What is said of networks that only their own software can build.
_FOREIGN = "; as a teacher, it loads with teacher.factory: package.module:function, which builds the network"


def describe(weights: Mapping[str, Tensor]) -> str | None:
    """Return what a file is that does not have this package's names, and how to load it; None if that is not known."""
    names = set(weights)
    if network := network_of(weights):
        return f"is of mmsegmentation and loads with {network}"
    if "decode_head.conv_seg.weight" in names:
        return f"is of mmsegmentation, with a backbone or head that is not here{_FOREIGN}"
    if _has(names, "encoder.") and _has(names, "head.") and "classifier.weight" in names:
        return None
    if _has(names, "segmentation_head."):
        return (
            "is of segmentation_models_pytorch; as a teacher, it loads with"
            " teacher.smp: {arch: unet, encoder_name: ...}, or the folder of save_pretrained"
        )
    if _has(names, "backbone.") and (_has(names, "classifier.") or _has(names, "aux_classifier.")):
        return f"is a segmentation network of torchvision{_FOREIGN}"
    if _has(names, "segformer.") or _has(names, "model.pixel_level_module."):
        return "is of Hugging Face transformers; as a teacher, it loads as the folder that also holds config.json"
    for prefix in ("model.", "student.", "net.", "network."):
        if all(name.startswith(prefix) for name in names):
            return f"has names that all begin with {prefix!r}; save its state dict without that prefix"
    if _has(names, "backbone."):
        return "is a backbone of mmsegmentation without a head, which can only start an encoder, as `weights`"
    if names.intersection(_CLASSIFIERS):
        return "is an image classifier, which can only start an encoder, as `weights`"
    return None


def _has(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)
