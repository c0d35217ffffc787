"""Builds networks from the configuration, and picks device and precision."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from bpkd_search.config.networks import Model
from bpkd_search.errors import ResourceError
from bpkd_search.models.checkpoint import load_encoder
from bpkd_search.models.factory import build_network
from bpkd_search.models.network import Network
from bpkd_search.models.segmentor import Segmentor

# A frozen teacher's half precision: in bfloat16, the KL divergence of its logits from those in float32 is 2.9e-4, in
# float16 5.5e-6.
TEACHER_DTYPE = torch.float16


def pick_device(name: str) -> torch.device:
    """Return the device; `auto` is the first GPU, or the CPU.

    Raises `ResourceError` if a GPU does not exist, or if this process was given one that PyTorch cannot use.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        # Ray and Slurm name a process's GPUs there; training on the CPU instead would take days, and hold the GPU.
        given = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
        if given and given not in ("-1", "NoDevFiles"):
            raise ResourceError(_unusable(given))
        return torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(f"train.device: got {name}, this machine has {torch.cuda.device_count()} GPU(s)")
    return device


def build_model(spec: Model, num_classes: int, seed: int) -> Network:
    """Return the network of a `student` or `teacher` block; its initial weights depend on the seed only.

    A factory draws its weights with PyTorch's random numbers. Raises `ConfigError` if it cannot be built.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec.factory is not None:
            return build_network(spec.factory, spec.arguments, num_classes)
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


def half_precision(device: torch.device) -> torch.dtype | None:
    """Return the type that a device trains faster in: bfloat16, float16 on GPUs without it, None on CPU."""
    if device.type != "cuda":
        return None
    # Older GPUs emulate bfloat16, slower than float32.
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def autocast(device: torch.device, enabled: bool = True, *, dtype: torch.dtype | None = None) -> torch.autocast:
    """Return autocast to `half_precision`, or to `dtype`, on a device that has it; a no-op on CPU."""
    half = half_precision(device) if enabled else None
    on = half is not None
    return torch.autocast(device.type, dtype=(dtype or half) if on else torch.bfloat16, enabled=on)


def teacher_precision(device: torch.device, amp: bool) -> str:
    """Return the kind of a device and the number format of a frozen teacher on it, such as `cuda float16`."""
    half = amp and device.type == "cuda"
    return f"{device.type} {str(TEACHER_DTYPE if half else torch.float32).removeprefix('torch.')}"


def _unusable(given: str) -> str:
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        reason = "no device was found"
    except Exception as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
    version = Path("/proc/driver/nvidia/version")
    words = version.read_text(encoding="utf-8").split() if version.is_file() else []
    driver = next((word for word in words if word[0].isdigit() and "." in word), "none found")
    return (
        f"train.device: got auto, and this process was given the GPU(s) {given} (CUDA_VISIBLE_DEVICES), which PyTorch"
        f" {torch.__version__} cannot use: {reason} (CUDA of PyTorch: {torch.version.cuda or 'none'}, NVIDIA driver:"
        f" {driver}); install a PyTorch that fits the driver, or set train.device to cpu"
    )
