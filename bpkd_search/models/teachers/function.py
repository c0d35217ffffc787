"""Finished teachers that a function of the user's returns."""

from __future__ import annotations

import hashlib
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bpkd_search.blocks import in_words
from bpkd_search.config.networks import Input, Teacher
from bpkd_search.errors import CheckpointError, ConfigError, UserError
from bpkd_search.imports import argument_faults, first_line, import_object
from bpkd_search.models.checkpoint import Weights, read_weights
from bpkd_search.models.teachers.opened import Opened


def open_function(teacher: Teacher, path: Path, device: torch.device) -> Opened:
    """Call the function that `teacher.factory` names, and load the weights in `path`, if that file is there.

    The network may say what it reads and its classes itself, in attributes `input` (a mapping with the keys of
    `teacher.input`) and `classes` (a list of names). Raises `ConfigError` if the function cannot be imported, raises,
    or returns no module, `CheckpointError` if the weights are others.
    """
    place = str(teacher.factory)
    function = import_object(place, "teacher.factory")
    if faults := argument_faults(function, place, teacher.arguments, "teacher.arguments", handed=()):
        raise ConfigError(faults)
    try:
        # What it prints is for people: standard output may be read by a program.
        with redirect_stdout(sys.stderr):
            net = function(**teacher.arguments)
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as e:  # whatever a user's function raises, as a script's parser of arguments
        raise ConfigError([f"teacher.factory: {place} raised {first_line(e)}"]) from e
    if not isinstance(net, nn.Module):
        raise ConfigError([f"teacher.factory: {place} returned {type(net).__name__}, must return a torch.nn.Module"])
    if path.is_file():
        try:
            net.load_state_dict(read_weights(path))
        except RuntimeError as e:
            raise CheckpointError(f"{path}: does not fit the network of {place}: {first_line(e)}") from e
    names, said = teacher.classes or getattr(net, "classes", None), getattr(net, "input", None)
    return Opened(
        net.float().eval().to(device),
        teacher.input or (_input(said, place) if isinstance(said, dict) else Input()),
        tuple(map(str, names)) if isinstance(names, tuple | list) else None,
    )


def _input(said: dict[str, Any], place: str) -> Input:
    try:
        return Input.model_validate(said)
    except ValidationError as e:
        faults = [in_words(Input, error) for error in e.errors()]
        raise ConfigError(
            [f"teacher.factory: {place} returned a module whose input.{fault}" for fault in faults]
        ) from e


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
