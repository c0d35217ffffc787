"""Networks of segmentation_models_pytorch: a folder of `save_pretrained`, or a state dict and how it was built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from bpkd_search.config.networks import Input, Teacher
from bpkd_search.config.software import read_json
from bpkd_search.errors import CheckpointError, ConfigError
from bpkd_search.imports import require
from bpkd_search.models.checkpoint import read_weights
from bpkd_search.models.teachers.opened import Opened, sentence

# Encoders of smp that were trained with mean and deviation 0.5; its other ones with ImageNet's.
HALF = ("inception", "xception")


def open_smp(teacher: Teacher, path: Path, device: torch.device) -> Opened:
    """Open a folder, or a state dict of the network that `teacher.smp` describes.

    Raises `CheckpointError` if weights do not fit, `ConfigError` if the network cannot be built.
    """
    smp = require("segmentation_models_pytorch", "smp", "teacher.checkpoint")
    if path.is_dir():
        arguments = {"encoder_name": "resnet34", **read_json(path / "config.json")}
        build = getattr(smp, str(arguments.pop("_model_class", "")), None)
        if build is None:
            raise CheckpointError(f"{path}: config.json names no network that smp {smp.__version__} has")
        arguments, weights, key = dict(arguments), read_weights(path / "model.safetensors"), "config.json"
    else:
        build, key, weights = smp.create_model, "teacher.smp", read_weights(path)
        arguments = {"arch": "unet", "encoder_name": "resnet34", **(teacher.smp or {})}
        if "segmentation_head.0.weight" in weights:
            arguments = {"classes": len(weights["segmentation_head.0.weight"]), **arguments}
    try:
        # Whatever it was started from, all its weights are in the file.
        net: nn.Module = build(**{**arguments, "encoder_weights": None})
    except Exception as e:  # of several libraries
        place = f"teacher.checkpoint: {path / key}" if path.is_dir() else key
        raise ConfigError([f"{place}: smp {smp.__version__} cannot build {arguments}: {sentence(e)}"]) from e
    try:
        net.load_state_dict(weights)
    except (RuntimeError, KeyError) as e:
        lines = " ".join(line.strip() for line in str(e).splitlines()[1:3])
        raise CheckpointError(f"{path}: does not fit the network of {key}: {lines[:300]}") from e
    head: Any = net.segmentation_head
    # What follows would turn logits into probabilities.
    head[-1] = nn.Identity()
    encoder: Any = net.encoder
    multiple = int(encoder.output_stride) if getattr(net, "requires_divisible_input_shape", True) else 1
    found = teacher.input or read_input(str(arguments["encoder_name"]))
    found = found.model_copy(update={"multiple": max(multiple, found.multiple)})
    return Opened(net.eval().to(device), found, teacher.classes)


def read_input(encoder: str) -> Input:
    """Return what an encoder's pretraining read."""
    if encoder.startswith(HALF):
        return Input(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    name = encoder.removeprefix("tu-")
    if name != encoder and (known := timm.get_pretrained_cfg(name)) is not None:
        return Input(mean=known.mean, std=known.std)
    return Input()
