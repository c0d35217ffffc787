"""One update of a student's weights on what is on its device already: the part of a step that can be recorded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from bpkd_search.config.optimisation import Optimisation
from bpkd_search.data.base import IGNORE_INDEX
from bpkd_search.losses import Criterion
from bpkd_search.models import Network
from bpkd_search.models.build import autocast
from bpkd_search.training.forward import Forward

# A teacher's logits and features of a part of a batch.
Maps = tuple[Tensor | None, Tensor | None]


class Trained(Protocol):
    """What is updated, and how; `amp` says whether in mixed precision."""

    student: Network
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    settings: Optimisation
    device: torch.device
    forward: Forward
    amp: bool


def update(
    run: Trained, images: Tensor, labels: Tensor, teacher: Iterable[Maps], *, progress: float
) -> dict[str, Tensor]:
    """Update the weights once; returns the loss terms, scalars on the device.

    Images are [N, 3, H, W] and labels [N, H, W]; they are taken in parts of a batch, each with its share of the
    labelled pixels as its weight, and `teacher` gives the maps of each part.
    """
    run.optimizer.zero_grad(set_to_none=True)
    size, several = run.settings.batch_size, len(images) > run.settings.batch_size
    terms: dict[str, Tensor] = {}
    for part, known, maps in zip(torch.split(images, size), torch.split(labels, size), teacher, strict=True):
        losses = loss_terms(run, channels_last(part), known, maps, progress)
        if several:
            share = _labelled(known) / _labelled(labels)
            losses = {name: value * share for name, value in losses.items()}
        total = torch.stack(list(losses.values())).sum()
        run.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        terms = {name: terms[name] + value.detach() if terms else value.detach() for name, value in losses.items()}
    if run.settings.grad_clip is not None:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_([*run.student.parameters(), *run.criterion.parameters()], run.settings.grad_clip)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    return terms


def channels_last(images: Tensor) -> Tensor:
    """Return images with their channels last in memory, as networks take them."""
    return images.contiguous(memory_format=torch.channels_last)


def loss_terms(run: Trained, images: Tensor, labels: Tensor, maps: Maps, progress: float) -> dict[str, Tensor]:
    """Return cross-entropy and distillation of images, channels last, as scalars to be differentiated."""
    with autocast(run.device, run.amp):
        logits, features, ce = run.forward(run.student, images, labels, IGNORE_INDEX)
        # A batch with only ignored pixels has no mean; its loss is zero.
        losses = {"ce": ce / _labelled(labels)}
        losses |= run.criterion(
            logits,
            maps[0],
            labels,
            progress=progress,
            student_features=features,
            teacher_features=maps[1],
        )
    return losses


def _labelled(labels: Tensor) -> Tensor:
    """Return the number of labelled pixels, at least 1."""
    return (labels != IGNORE_INDEX).sum().clamp(min=1)
