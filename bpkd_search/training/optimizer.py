"""The optimizer of a run: which weights it updates, and at which share of the learning rate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bpkd_search.config.optimisation import Optimisation
from bpkd_search.losses import Criterion
from bpkd_search.models import Network


def make_optimizer(
    settings: Optimisation, student: Network, criterion: Criterion, *, recorded: bool = False
) -> tuple[torch.optim.Optimizer, list[float]]:
    """Return the optimizer of a run, and the factor of the learning rate of each of its groups of weights.

    One whose step is `recorded` has its rates as tensors, which a replay reads.
    """
    heads = student.heads() if settings.head_lr != 1 else ()
    head = [weight for part in heads for weight in part.parameters()]
    in_head = {id(weight) for weight in head}
    rest = [w for w in (*student.parameters(), *criterion.parameters()) if id(w) not in in_head]
    groups = [{"params": weights} for weights in (rest, head) if weights]
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(
            groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=True, capturable=recorded
        )
    else:
        optimizer = torch.optim.SGD(
            groups, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=True
        )
        if settings.momentum:
            # PyTorch leaves it as uninitialised memory if a gradient scaler skips the first step.
            for weight in (weight for group in groups for weight in group["params"]):
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    if recorded:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(settings.lr, device=group["params"][0].device)
    return optimizer, [1.0, settings.head_lr][: len(groups)]


def set_rate(optimizer: torch.optim.Optimizer, factors: Sequence[float], rate: float) -> None:
    """Set the learning rate of each group of weights to its factor times `rate`; on a GPU without waiting for it."""
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate * factor)
        else:
            group["lr"] = rate * factor


def state_tensors(student: Network, criterion: Criterion, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return every tensor that a step changes."""
    parts = [part for module in (student, criterion) for part in (*module.parameters(), *module.buffers())]
    kept = [value for each in optimizer.state.values() for value in each.values() if isinstance(value, Tensor)]
    return [*parts, *kept]
