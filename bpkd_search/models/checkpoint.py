"""Saves and loads weights: completely, safely, and with an error that names the keys that do not fit."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from bpkd_search.errors import CheckpointError
from bpkd_search.files import write_bytes

Weights = dict[str, Tensor]


def save_weights(path: Path, model: nn.Module, about: Mapping[str, Any] | None = None) -> None:
    """Write the weights of a model to a safetensors file atomically; `about` is stored in its header.

    An auxiliary head, which serves training alone, is left out.
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("auxiliary.")}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_bytes(path, save(weights, metadata={"bpkd_search": json.dumps(about or {})}))


def read_about(path: Path) -> dict[str, Any]:
    """Return what `save_weights` stored in the header; empty for files of other tools."""
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {}).get("bpkd_search", "{}"))
    except (OSError, SafetensorError, ValueError) as e:
        raise CheckpointError(f"{path}: is not a readable safetensors file: {e}") from e
    return about


def read_weights(path: Path) -> Weights:
    """Return the tensors of a `.safetensors`, or of a `.pt` / `.pth` that contains only tensors.

    A pickle with code in it is rejected, not run (`weights_only`). A state dict is also found under the
    usual keys `state_dict`, `model` and `model_state_dict`, and a `module.` prefix is removed.
    Raises `CheckpointError` if the file is missing, unreadable, unsafe or has no state dict.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as e:
            raise CheckpointError(f"{path}: is not a readable safetensors file: {e}") from e
    try:
        tree: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise CheckpointError(
            f"{path}: holds pickled objects beside tensors, which could run code (rejected);"
            " save the bare state dict (or safetensors) instead"
        ) from e
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as e:
        raise CheckpointError(f"{path}: is not a readable PyTorch file: {str(e).splitlines()[0]}") from e
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
    if not isinstance(tree, Mapping) or not all(isinstance(v, Tensor) for v in tree.values()) or not tree:
        raise CheckpointError(f"{path}: holds no state dict (a mapping of names to tensors)")
    return {str(name).removeprefix("module."): tensor for name, tensor in tree.items()}


def load_segmentor(model: nn.Module, path: Path) -> None:
    """Load a whole segmentor. Raises `CheckpointError` that names missing, unknown and misshapen keys."""
    _fit(model, read_weights(path), path, allow_unknown=False)


def load_encoder(encoder: nn.Module, path: Path) -> None:
    """Load an encoder from a file with timm's names; a classifier in the file is ignored.

    timm joins nested names with `_` when it cuts a network into its feature pyramid (`stages.0` becomes
    `stages_0`), so names are normalised before they are compared. Raises `CheckpointError` that names the keys.
    """
    alike = {name.replace("_", "."): name for name in encoder.state_dict()}
    weights = {alike.get(name.replace("_", "."), name): tensor for name, tensor in read_weights(path).items()}
    _fit(encoder, weights, path, allow_unknown=True)


def _fit(model: nn.Module, weights: Weights, path: Path, *, allow_unknown: bool) -> None:
    wanted = model.state_dict()
    # Files from before PyTorch 1.0 lack these counters, and nothing here uses them.
    missing = [k for k in wanted if k not in weights and not k.endswith("num_batches_tracked")]
    unknown = [] if allow_unknown else [k for k in weights if k not in wanted]
    shapes = [
        f"{k} is {list(weights[k].shape)}, the model's is {list(wanted[k].shape)}"
        for k in wanted
        if k in weights and weights[k].shape != wanted[k].shape
    ]
    faults = [
        f"{len(keys)} {what}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
        for what, keys in (("keys missing", missing), ("unknown keys", unknown), ("shapes differ", shapes))
        if keys
    ]
    if faults:
        raise CheckpointError(f"{path}: does not fit the model; " + "; ".join(faults))
    model.load_state_dict({k: v for k, v in weights.items() if k in wanted}, strict=False)
