"""What networks cost in training and evaluation: operations and memory, counted without either.

On PyTorch's meta device operations compute shapes alone; they are those of training: the same forward pass, losses and
windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeGuard

import torch
from torch.utils.flop_counter import FlopCounterMode

from bpkd_search.config.data import Eval
from bpkd_search.config.loss import terms_of
from bpkd_search.config.models import RunConfig
from bpkd_search.config.networks import Model, Teacher
from bpkd_search.config.optimisation import Optimisation
from bpkd_search.data.base import IGNORE_INDEX
from bpkd_search.data.geometry import Size, windows
from bpkd_search.losses import Criterion
from bpkd_search.models import Network, count_parameters
from bpkd_search.models.cost import cost_of
from bpkd_search.models.inference import input_sizes
from bpkd_search.models.memory import LiveBytes
from bpkd_search.training.check import plain, without_memory
from bpkd_search.training.forward import forward
from bpkd_search.training.probe import is_foreign, probe

# Bytes of a number in float32.
FLOAT = 4


@dataclass(frozen=True)
class Step:
    """One training step: floating-point operations, parameters, and bytes of memory.

    `activations` is what the forward pass of the network holds for the backward one, `peak` the most that is held at
    once beside weights and state of the optimizer; both in float32.
    """

    flops: int
    parameters: int
    activations: int
    peak: int

    def memory(self, settings: Optimisation, *, half: bool) -> dict[str, int]:
        """Return bytes by content; with `half`, activations are in half precision, the losses in float32."""
        held = self.peak - (self.activations // 2 if half else 0)
        weights = FLOAT * self.parameters
        return {"weights": weights, "optimizer": states(settings) * weights, "activations and gradients": held}


def train_step(
    model: Model, run: RunConfig, classes: int, batch: int, *, teacher: Network | tuple[int, ...] | None = None
) -> Step:
    """Count one training step of a network on crops of a run; with `teacher`, with the run's losses on its outputs.

    `teacher` is a network, or (C, h, w) of logits. The teacher's own work and memory are not in it.
    """
    student = without_memory(plain(model), classes).to("meta").train()
    criterion = None
    with torch.device("meta"):
        images = torch.zeros(batch, 3, *run.data.crop, dtype=torch.uint8)
        labels = torch.zeros(batch, *run.data.crop, dtype=torch.uint8)
        if teacher is not None:
            terms = [term.model_dump() for term in terms_of(run.loss)]
            if isinstance(teacher, tuple):
                channels, seen = None, (torch.zeros(batch, *teacher), None)
            else:
                channels = teacher.channels
                with torch.no_grad():
                    seen = teacher(images, return_features=True)
            criterion = Criterion(terms, student_channels=student.channels, teacher_channels=channels)
        with FlopCounterMode(display=False) as counter, LiveBytes() as memory:
            logits, features, loss = forward(student, images, labels, IGNORE_INDEX)
            activations = memory.live
            if criterion is not None and criterion.needs_teacher:
                # A loss that looks at values cannot be counted; it is small beside the network.
                with suppress(NotImplementedError, RuntimeError):
                    terms = criterion(logits, seen[0], labels, student_features=features, teacher_features=seen[1])
                    loss = loss + torch.stack(list(terms.values())).sum()
                    del terms
            loss.backward()  # type: ignore[no-untyped-call]
            del logits, features, loss
    learned = 0 if criterion is None else sum(weight.numel() for weight in criterion.parameters())
    return Step(counter.get_total_flops(), count_parameters(student) + learned, activations, memory.peak)


def pass_memory(model: Model, classes: int, images: int, size: Sequence[int]) -> int:
    """Return the bytes that a network's prediction of so many images of a size holds at once, without its weights."""
    if _is_foreign(model):
        height, width = size
        return int(probe(model).run(height, width, images, LiveBytes)[1].peak)
    network = without_memory(plain(model), classes).to("meta").eval()
    with torch.inference_mode(False), torch.no_grad(), LiveBytes() as memory:
        network(torch.zeros(images, 3, *size, dtype=torch.uint8, device="meta"))
    return int(memory.peak)


@lru_cache(256)
def _pass_flops(model: Model, classes: int, height: int, width: int) -> int:
    """Return the floating-point operations of one pass of an image."""
    if _is_foreign(model):
        counter = partial(FlopCounterMode, display=False)
        return int(probe(model).run(height, width, 1, counter)[1].get_total_flops())
    return 2 * cost_of(plain(model), classes, height, width).multiply_adds


def pass_flops(model: Model, classes: int, size: Size, evaluation: Eval) -> int:
    """Return the floating-point operations of one image of a size as `data.eval` segments it."""
    passes = (1 + evaluation.flip) * len(evaluation.scales)
    if evaluation.mode == "slide":
        crop, stride = evaluation.windows()
        padded = (max(size[0], crop[0]), max(size[1], crop[1]))
        return _pass_flops(model, classes, *crop) * len(list(windows(padded, crop, stride))) * passes
    seen = input_sizes(size, evaluation)
    return sum(_pass_flops(model, classes, *each) for each in seen) * (1 + evaluation.flip)


def _is_foreign(model: Model) -> TypeGuard[Teacher]:
    """Return whether a network is a finished teacher of other software."""
    return isinstance(model, Teacher) and is_foreign(model)


@lru_cache(64)
def parameters(model: Model, classes: int) -> int:
    """Return the number of parameters of a network, its auxiliary head included."""
    return count_parameters(without_memory(plain(model), classes))


def states(settings: Optimisation) -> int:
    """Return how many numbers the optimizer keeps for each weight."""
    return 2 if settings.optimizer == "adamw" else int(settings.momentum > 0)
