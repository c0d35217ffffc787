"""Teachers that a function of the user's builds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bpkd_search.config.networks import Input, Teacher
from bpkd_search.errors import CheckpointError, ConfigError
from bpkd_search.imports import import_object
from bpkd_search.models.checkpoint import Weights, read_weights
from bpkd_search.models.teachers.opened import Opened, sentence


def build(teacher: Teacher) -> nn.Module:
    """Call the factory. Raises `ConfigError` if it cannot be imported, raises, or returns no module."""
    place = str(teacher.factory)
    function = import_object(place, "teacher.factory")
    try:
        net = function(**teacher.arguments)
    except Exception as e:  # whatever a user's function raises
        raise ConfigError([f"teacher.factory: {place} raised {type(e).__name__}: {sentence(e)}"]) from e
    if not isinstance(net, nn.Module):
        raise ConfigError([f"teacher.factory: {place} returned {type(net).__name__}, must return a torch.nn.Module"])
    return net.eval()


def open_factory(teacher: Teacher, path: Path, device: torch.device) -> Opened:
    """Build a network and load its weights from `path`, if that file is there.

    It may say what it reads and its classes itself, in attributes `input` (a mapping with the keys of `teacher.input`)
    and `classes` (a list of names). Raises `CheckpointError` if the weights do not fit.
    """
    net = build(teacher)
    if teacher.checkpoint is not None or path.is_file():
        try:
            net.load_state_dict(read_weights(path))
        except RuntimeError as e:
            lines = " ".join(line.strip() for line in str(e).splitlines()[1:3])
            raise CheckpointError(f"{path}: does not fit what {teacher.factory} returns: {lines[:300]}") from e
    names = teacher.classes or getattr(net, "classes", None)
    said: Any = getattr(net, "input", None)
    return Opened(
        net.float().to(device),
        teacher.input or (Input.model_validate(said) if isinstance(said, dict) else Input()),
        tuple(map(str, names)) if isinstance(names, tuple | list) else None,
    )


def weights_of(net: nn.Module) -> Weights:
    """Return the weights of a network as tensors that share no memory, by name."""
    state = net.state_dict()
    return {name: x.detach().cpu().clone() for name, x in sorted(state.items()) if isinstance(x, Tensor)}


def content_of(weights: Weights) -> str:
    """Return a hash of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, x in weights.items():
        digest.update(f"{name} {x.dtype} {tuple(x.shape)};".encode())
        digest.update(x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
