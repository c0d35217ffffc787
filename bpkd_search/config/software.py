"""Which software a teacher is of, told from its configuration and its file; nothing is opened."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from bpkd_search.config.networks import Teacher
from bpkd_search.errors import CheckpointError

Software = Literal["own", "huggingface", "smp", "torchscript", "export", "onnx", "factory", "logits"]

# What a teacher is called in messages.
WORDS: dict[Software, str] = {
    "own": "this package or mmsegmentation",
    "huggingface": "Hugging Face transformers",
    "smp": "segmentation_models_pytorch",
    "torchscript": "TorchScript",
    "export": "torch.export",
    "onnx": "ONNX",
    "factory": "teacher.factory",
    "logits": "a folder of logits",
}
HUB = "hf:"
LOGIT_SUFFIXES = (".npy", ".npz")


def software_of(teacher: Teacher, path: Path | None = None) -> Software:
    """Return which software a teacher is of; one without a file is this package's own.

    `path` is where `checkpoint` is on this machine, if that is elsewhere.
    Raises `CheckpointError` for a folder that holds no teacher.
    """
    if teacher.factory is not None:
        return "factory"
    if teacher.checkpoint is None:
        return "own"
    if teacher.smp is not None:
        return "smp"
    if path is None and str(teacher.checkpoint).startswith(HUB):
        return "huggingface"
    path = path or teacher.checkpoint.expanduser()
    if path.is_dir():
        return _of_folder(path)
    by_suffix: dict[str, Software] = {".onnx": "onnx", ".pt2": "export"}
    return by_suffix.get(path.suffix) or ("torchscript" if is_torchscript(path) else "own")


def is_torchscript(path: Path) -> bool:
    """Return whether a file is an archive of TorchScript, which has code beside its weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())


def teacher_title(tree: Mapping[str, Any]) -> str:
    """Return a short name of the teacher of a `teacher` block, which may be of an older version."""
    if tree.get("factory"):
        return str(tree["factory"])
    own = f"{tree.get('encoder')} + {tree.get('head')}"
    if not (checkpoint := tree.get("checkpoint")):
        return own
    try:
        software = software_of(Teacher(checkpoint=checkpoint, smp=tree.get("smp")))
    except (CheckpointError, ValueError):
        return str(checkpoint)
    if software == "own":
        return own
    name = str(checkpoint) if str(checkpoint).startswith(HUB) else Path(checkpoint).name
    return f"{name} ({WORDS[software]})"


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; empty if there is none. Raises `CheckpointError` for a damaged one."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path}: cannot be read: {e}") from e
    return tree if isinstance(tree, dict) else {}


def _of_folder(path: Path) -> Software:
    config = read_json(path / "config.json")
    if "_model_class" in config:
        return "smp"
    if config:
        return "huggingface"
    if any(file.suffix in LOGIT_SUFFIXES for file in path.rglob("*")):
        return "logits"
    raise CheckpointError(
        f"teacher.checkpoint: {path}: holds no teacher; a folder must be one of `save_pretrained`, with a config.json,"
        " or hold logits as .npy or .npz files"
    )
