"""Builds networks from the configuration, and picks device and precision."""

from __future__ import annotations

import torch

from bpkd_search.config.models import Model
from bpkd_search.errors import ResourceError
from bpkd_search.models.checkpoint import load_encoder
from bpkd_search.models.segmentor import Segmentor


def pick_device(name: str) -> torch.device:
    """Return the device; `auto` is the first GPU, or the CPU. Raises `ResourceError` if a GPU does not exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(f"train.device: got {name}, this machine has {torch.cuda.device_count()} GPU(s)")
    return device


def build_model(spec: Model, num_classes: int, seed: int) -> Segmentor:
    """Return the network of a `student` or `teacher` block; its initial weights depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Segmentor(
            spec.encoder,
            num_classes,
            head=spec.head,
            channels=spec.channels,
            output_stride=spec.output_stride,
            auxiliary_weight=spec.auxiliary_weight,
        )
    if spec.weights is not None:
        load_encoder(model.encoder, spec.weights)
    return model


def logits_shape(spec: Model, num_classes: int, height: int, width: int) -> tuple[int, ...]:
    """Return (C, h, w) of a network's logits for an image size, without computing any."""
    with torch.device("meta"):
        model = build_model(spec.model_copy(update={"weights": None}), num_classes, 0).eval()
        return tuple(model(torch.zeros(1, 3, height, width, dtype=torch.uint8)).shape[1:])


def autocast(device: torch.device, enabled: bool = True) -> torch.autocast:
    """Return autocast to bfloat16 (float16 on GPUs without it) if the device is faster in it; a no-op on CPU."""
    half = _half(device) if enabled else None
    return torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None)


def precision(device: torch.device) -> str:
    """Return the kind of a device and the number format of `autocast` on it, such as `cuda bfloat16`."""
    return f"{device.type} {str(_half(device) or torch.float32).removeprefix('torch.')}"


def _half(device: torch.device) -> torch.dtype | None:
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
