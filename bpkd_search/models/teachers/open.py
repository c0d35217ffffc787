"""Opens a teacher of other software: the format decides how, and the result is a network of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bpkd_search.config.networks import Teacher
from bpkd_search.config.software import Software, software_of
from bpkd_search.errors import CheckpointError, ConfigError
from bpkd_search.models.teachers import function, graphs, huggingface, smp
from bpkd_search.models.teachers.classes import ClassMap, match_classes
from bpkd_search.models.teachers.foreign import ForeignTeacher
from bpkd_search.models.teachers.opened import Opened, sentence

# (C, h, w) of logits.
Shape = tuple[int, ...]
Counter = Callable[[], AbstractContextManager[Any]]
Opener = Callable[[Teacher, Path, torch.device], Opened]

OPENERS: dict[Software, Opener] = {
    "huggingface": huggingface.open_folder,
    "smp": smp.open_smp,
    "torchscript": graphs.open_torchscript,
    "export": graphs.open_export,
    "onnx": graphs.open_onnx,
    "function": function.open_function,
}
# Packages whose versions decide what a network computes.
PACKAGES: dict[Software, str] = {
    "huggingface": "transformers",
    "smp": "segmentation_models_pytorch",
    "onnx": "onnxruntime",
}


def key_of(teacher: Teacher) -> str:
    """Return the key of the configuration that gives a finished teacher."""
    return "teacher.checkpoint" if teacher.factory is None else "teacher.factory"


def open_network(
    teacher: Teacher, path: Path, device: torch.device, ours: Sequence[str] | None = None
) -> ForeignTeacher:
    """Open a teacher as a network of the data's classes `ours`, or without them of all its own.

    Raises `CheckpointError` or `ConfigError`.
    """
    if teacher.checkpoint is not None and not path.exists():
        raise CheckpointError(f"teacher.checkpoint: {path}: no such file or folder")
    try:
        opened = OPENERS[software_of(teacher, path)](teacher, path, device)
    except CheckpointError as e:
        raise CheckpointError(f"teacher.checkpoint: {e}") from e
    match = None if ours is None else partial(class_map, teacher, opened.classes, ours=tuple(ours))
    return ForeignTeacher(opened, match, len(ours or ()), teacher.stride).to(device)


def class_map(teacher: Teacher, names: Sequence[str] | None, count: int, *, ours: Sequence[str]) -> ClassMap:
    """Match a teacher's classes with the data's. Raises `CheckpointError` with the key."""
    try:
        return match_classes(names, count, ours, lowest=teacher.missing_classes == "lowest")
    except CheckpointError as e:
        raise CheckpointError(f"{key_of(teacher)}: {teacher.factory or teacher.checkpoint}: {e}") from e


class Probe:
    """What a teacher of other software gives, found by opening it once and passing zeros through it."""

    def __init__(self, teacher: Teacher, path: Path) -> None:
        self.teacher, self.path, self.net = teacher, path, open_network(teacher, path, torch.device("cpu"))
        self._shapes: dict[tuple[int, int], Shape] = {}

    def shape(self, height: int, width: int, remedy: str = "set data.crop") -> Shape:
        """Return (C, h, w) of the logits of an image, with all the teacher's classes.

        Raises `ConfigError` that names the size, and if the network takes only one, the `remedy` that brings images to
        it.
        """
        size = height, width
        if size not in self._shapes:
            try:
                self._shapes[size] = self.run(height, width)[0]
            except Exception as e:  # whatever networks raise for what they cannot read
                only = self.net.opened.size
                advice = f": {remedy} to {list(only)}" if only else ""
                what = f"{self.teacher.factory or self.teacher.checkpoint} cannot read an image of {height}x{width}"
                raise ConfigError([f"{key_of(self.teacher)}: {what}: {sentence(e)}{advice}"]) from e
        return self._shapes[size]

    def run(self, height: int, width: int, count: int = 1, counter: Counter = nullcontext) -> tuple[Shape, Any]:
        """Pass `count` images of zeros through the network, under a counter of the operations that PyTorch does.

        Return (C, h, w) of the logits and the counter. What the network raises is not caught.
        """
        images = torch.zeros(count, 3, height, width, dtype=torch.uint8)
        with torch.inference_mode(False), torch.no_grad():
            if software_of(self.teacher) in ("function", "huggingface", "smp"):
                try:  # shapes alone, which costs neither time nor memory, where the network's operations allow it
                    state = {**dict(self.net.named_parameters()), **dict(self.net.named_buffers())}
                    meta = {name: x.to("meta") for name, x in state.items()}
                    with counter() as counted:
                        shape = torch.func.functional_call(self.net, meta, (images.to("meta"),)).shape
                    return tuple(shape[1:]), counted
                except Exception:  # then for real
                    pass
            with counter() as counted:
                shape = self.net(images).shape
            return tuple(shape[1:]), counted

    @property
    def counts(self) -> bool:
        """Whether PyTorch does its operations, so that they can be counted."""
        return software_of(self.teacher) != "onnx"

    @property
    def bytes(self) -> int:
        """The bytes of the weights; of a network that PyTorch does not hold, those of its file."""
        if not self.counts:
            return self.path.stat().st_size
        return sum(x.nbytes for x in (*self.net.parameters(), *self.net.buffers()))

    def class_map(self, ours: Sequence[str], height: int, width: int) -> ClassMap:
        """Match the teacher's classes, as many as it gives for such an image, with the data's."""
        return class_map(self.teacher, self.net.opened.classes, self.shape(height, width)[0], ours=ours)
