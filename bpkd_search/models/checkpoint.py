"""Saves and loads weights: completely, safely, and with an error that names the keys that do not fit."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from bpkd_search.errors import CheckpointError
from bpkd_search.files import write_bytes
from bpkd_search.imports import first_line
from bpkd_search.models.formats import describe
from bpkd_search.models.mmsegmentation import encoder_name, network_of, preprocessing_fault, translate

Weights = dict[str, Tensor]

# What DistributedDataParallel and torch.compile put before the names of a network's weights.
_WRAPPERS = re.compile(r"^(_orig_mod\.)?(module\.)?(_orig_mod\.)?")

# The layer of a segmentor that has a row for each class.
_LAST_LAYER = ("classifier.weight", "classifier.bias")


def save_weights(path: Path, model: nn.Module, about: Mapping[str, Any] | None = None) -> None:
    """Write the weights of a model to a safetensors file atomically; `about` is stored in its header.

    An auxiliary head, which serves training alone, is left out.
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("auxiliary.")}
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    weights = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
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
    usual keys `state_dict`, `model` and `model_state_dict`, and prefixes `module.` and `_orig_mod.` are removed.
    Raises `CheckpointError` if the file is missing, unreadable, unsafe or has no state dict.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[Weights, Sequence[str]]:
    """Return the tensors in a file, and the names of classes that it states, none if it states none."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path), read_about(path).get("class_names", ())
        except (OSError, SafetensorError) as e:
            raise CheckpointError(f"{path}: is not a readable safetensors file: {e}") from e
    try:
        tree: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise CheckpointError(
            f"{path}: holds pickled objects beside tensors, which could run code (rejected); if you trust it, save its"
            f" tensors alone where it opens: torch.save(torch.load({path.name!r}, weights_only=False)['state_dict'],"
            f" {path.stem + '-tensors.pth'!r})"
        ) from e
    except Exception as e:  # its unpickler stumbles over a damaged file in many ways
        raise CheckpointError(f"{path}: is not a readable PyTorch file: {first_line(e)}") from e
    if isinstance(tree, Mapping) and {"student", "criterion", "optimizer"} <= tree.keys():
        raise CheckpointError(
            f"{path}: is a checkpoint from which training continues; `bpkd-search export` writes the student's weights"
        )
    meta = tree.get("meta") if isinstance(tree, Mapping) else None
    if isinstance(meta, Mapping) and (fault := preprocessing_fault(meta)):
        raise CheckpointError(f"{path}: {fault}")
    names = _class_names(meta) if isinstance(meta, Mapping) else ()
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
    if not isinstance(tree, Mapping) or not all(isinstance(v, Tensor) for v in tree.values()) or not tree:
        raise CheckpointError(f"{path}: holds no state dict (a mapping of names to tensors)")
    return {_WRAPPERS.sub("", str(name)): tensor for name, tensor in tree.items()}, names


def _class_names(meta: Mapping[str, Any]) -> Sequence[str]:
    """Return the class names in the description of a checkpoint of mmsegmentation, 0.x or 1.x."""
    found = meta.get("dataset_meta", meta)
    names = next((found[key] for key in ("classes", "CLASSES") if found.get(key)), ()) if found else ()
    return [str(name) for name in names] if isinstance(names, list | tuple) else ()


def load_segmentor(model: nn.Module, path: Path, rows: Sequence[int] | None = None) -> None:
    """Load a whole segmentor, with some `rows`. Raises `CheckpointError` as `segmentor_weights` does."""
    model.load_state_dict(segmentor_weights(model, path, rows), strict=False)


def segmentor_weights(model: nn.Module, path: Path, rows: Sequence[int] | None = None) -> Weights:
    """Return the weights in a file for a whole segmentor, by this package or mmsegmentation; `model` may be on `meta`.

    An auxiliary head in the file is left out if the model has none. `rows` are the classes of the file that the model
    has, in its order; without them, it has the same. Raises `CheckpointError` that says what another format is, and
    names missing, unknown and misshapen keys.
    """
    read = read_weights(path)
    known = network_of(read) is not None
    if (what := describe(read)) and not known:
        raise CheckpointError(f"{path}: {what}")
    weights = translate(read) if known else read
    if not any(name.startswith("auxiliary.") for name in model.state_dict()):
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("auxiliary.")}
    if rows is not None:
        weights = {name: x[list(rows)] if name in _LAST_LAYER else x for name, x in weights.items()}
    return _fitting(model, weights, path, what, allow_unknown=False)


def classes_in(path: Path) -> tuple[int | None, Sequence[str]]:
    """Return the number of classes of a whole segmentor in a file, None if it is none, and the names that it states.

    Raises `CheckpointError`.
    """
    weights, names = _read(path)
    for name in ("classifier.weight", "decode_head.conv_seg.weight"):
        if name in weights:
            return int(weights[name].shape[0]), names
    return None, ()


def load_encoder(encoder: nn.Module, path: Path) -> None:
    """Load an encoder. Raises `CheckpointError` as `encoder_weights` does."""
    encoder.load_state_dict(encoder_weights(encoder, path), strict=False)


def encoder_weights(encoder: nn.Module, path: Path) -> Weights:
    """Return the weights in a file for an encoder, with timm's or mmsegmentation's names; the rest is ignored.

    Of a whole segmentor, the encoder is taken. timm joins nested names with `_` when it cuts a network into its feature
    pyramid (`stages.0` becomes `stages_0`), or puts it under `model`, so names are normalised before they are compared.
    Raises `CheckpointError` that names the keys.
    """
    read = read_weights(path)
    for part in ("encoder.", "backbone."):
        read = {name.removeprefix(part): x for name, x in read.items() if name.startswith(part)} or read
    alike = {plain_name(name): name for name in encoder.state_dict()}
    weights = {}
    for name, tensor in read.items():
        plain = plain_name(name)
        weights[alike.get(plain) or alike.get(plain_name(encoder_name(name)), name)] = tensor
    return _fitting(encoder, weights, path, None, allow_unknown=True)


def plain_name(name: str) -> str:
    """Return a weight's name that is the same in timm's whole network and in its feature pyramid."""
    return name.removeprefix("model.").replace("_", ".")


def _fitting(model: nn.Module, weights: Weights, path: Path, what: str | None, *, allow_unknown: bool) -> Weights:
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
        classes = [state["classifier.weight"].shape[0] for state in (weights, wanted) if "classifier.weight" in state]
        counts = "has {} classes, the model {}; ".format(*classes) if len(set(classes)) == 2 else ""
        # Where only shapes differ, the file is of this kind of network.
        kind = f"{what}; " if what and (missing or unknown) else ""
        raise CheckpointError(f"{path}: {counts}{kind}does not fit the model; " + "; ".join(faults))
    return {name: tensor for name, tensor in weights.items() if name in wanted}
