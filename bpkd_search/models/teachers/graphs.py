"""Networks as graphs: files of TorchScript, torch.export and ONNX."""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bpkd_search.config.networks import Input, Teacher
from bpkd_search.errors import CheckpointError
from bpkd_search.imports import require
from bpkd_search.models.teachers.opened import Opened, sentence

# What `bpkd-search export` writes reads images in 0..255, and names its classes in this file or property.
ABOUT = "bpkd_search"
OURS = Input(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), range=255)
# Parts of a .pt2 archive that are loaded as objects or as machine code.
_CODE = re.compile(r"/(opaque_obj|custom_obj)|/aotinductor/|\.(so|o|py|cubin)$")


def open_torchscript(teacher: Teacher, path: Path, device: torch.device) -> Opened:
    """Open a file of `torch.jit.save`. Its code runs in TorchScript's own interpreter. Raises `CheckpointError`."""
    try:
        with warnings.catch_warnings():
            # That PyTorch prefers torch.export is no news to those who have such a file.
            warnings.simplefilter("ignore")
            net = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    except Exception as e:
        raise CheckpointError(f"{path}: TorchScript cannot load it: {sentence(e)}") from e
    kinds = [x.dtype for x in net.parameters() if x.is_floating_point()]
    return Opened(net.eval(), teacher.input or Input(), teacher.classes, dtype=kinds[0] if kinds else torch.float32)


def open_export(teacher: Teacher, path: Path, device: torch.device) -> Opened:
    """Open a file of `torch.export.save` that holds tensors alone beside its graph.

    Raises `CheckpointError` for one with pickled objects or machine code, which PyTorch would run.
    """
    _require_harmless(path)
    extra = {f"{ABOUT}.json": ""}
    try:
        program = torch.export.load(path, extra_files=extra)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(device))
        net = program.module()
        net.to(device)
    except Exception as e:
        raise CheckpointError(f"{path}: torch.export {torch.__version__} cannot load it: {sentence(e)}") from e
    takes = next(node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    size, batch = _fixed([side if isinstance(side, int) else None for side in takes.shape], path)
    return _ours(teacher, Opened(net, Input(), None, size, batch, takes.dtype), extra[f"{ABOUT}.json"])


def open_onnx(teacher: Teacher, path: Path, device: torch.device) -> Opened:
    """Open an ONNX file, on a GPU if ONNX Runtime has one. Raises `CheckpointError`."""
    runtime = require("onnxruntime", "export", "teacher.checkpoint")
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in runtime.get_available_providers()]
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    if device.type == "cpu":
        options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as e:
        raise CheckpointError(f"{path}: ONNX Runtime cannot load it: {sentence(e)}") from e
    inputs = session.get_inputs()
    kinds = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(uint8)": torch.uint8}
    if len(inputs) != 1 or inputs[0].type not in kinds:
        given = ", ".join(f"{each.name} {each.type}" for each in inputs)
        raise CheckpointError(f"{path}: takes {given}; must take one tensor of images of float, float16 or uint8")
    size, batch = _fixed([side if isinstance(side, int) else None for side in inputs[0].shape], path)

    def network(images: Tensor) -> Tensor:
        (logits,) = session.run([session.get_outputs()[0].name], {inputs[0].name: np.ascontiguousarray(images.cpu())})
        return torch.from_numpy(logits).to(images.device)

    about = session.get_modelmeta().custom_metadata_map.get(ABOUT, "")
    return _ours(teacher, Opened(network, Input(), None, size, batch, kinds[inputs[0].type]), about)


def _ours(teacher: Teacher, opened: Opened, about: str) -> Opened:
    """Return a graph with what its file, or else the configuration, says of its input and classes."""
    told = json.loads(about) if about else {}
    usual, names = (OURS, tuple(told["class_names"])) if "class_names" in told else (Input(), None)
    return Opened(
        opened.network,
        teacher.input or usual,
        teacher.classes or names,
        opened.size,
        opened.batch,
        opened.dtype,
    )


def _fixed(shape: list[int | None], path: Path) -> tuple[tuple[int, int] | None, int | None]:
    """Return the only size and the only batch that an input [B, 3, H, W] takes, None for any."""
    if len(shape) != 4 or shape[1] not in (3, None):
        raise CheckpointError(f"{path}: takes a tensor of shape {shape}, must take images [B, 3, H, W]")
    batch, _, height, width = shape
    return (height, width) if height is not None and width is not None else None, batch


def _require_harmless(path: Path) -> None:
    """Raise `CheckpointError` unless every pickle in a .pt2 archive holds plain tensors and values alone."""
    what = None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) < len(names) or any(_CODE.search(name) for name in names):
                what = next((name for name in names if _CODE.search(name)), "a name twice")
            pickles = {name for name in names if name.endswith((".pt", ".pkl"))}
            for name in names:
                if name.endswith("_config.json"):
                    entries = json.loads(archive.read(name)).get("config", {}).values()
                    folder = name.rpartition("/")[0]
                    pickles |= {f"{folder}/{entry['path_name']}" for entry in entries if entry.get("use_pickle")}
            for name in sorted(pickles):
                data = archive.read(name)
                if data:
                    try:
                        torch.load(io.BytesIO(data), weights_only=True)
                    except Exception:
                        what = name
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, AttributeError) as e:
        raise CheckpointError(f"{path}: is not a readable file of torch.export: {sentence(e)}") from e
    if what is not None:
        raise CheckpointError(
            f"{path}: holds objects or machine code beside its graph and tensors ({what}), which could run code"
            " (rejected); export the network again without them, or give a function that builds it"
        )
