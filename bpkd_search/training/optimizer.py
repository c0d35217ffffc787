"""The optimizer of a run: which weights it updates, and at which share of the learning rate."""

from __future__ import annotations

import torch

from bpkd_search.config.optimisation import Optimisation
from bpkd_search.losses import Criterion
from bpkd_search.models import Network


def make_optimizer(
    settings: Optimisation, student: Network, criterion: Criterion
) -> tuple[torch.optim.Optimizer, list[float]]:
    """Return the optimizer of a run, and the factor of the learning rate of each of its groups of weights."""
    heads = student.heads() if settings.head_lr != 1 else ()
    head = [weight for part in heads for weight in part.parameters()]
    in_head = {id(weight) for weight in head}
    rest = [w for w in (*student.parameters(), *criterion.parameters()) if id(w) not in in_head]
    groups = [{"params": weights} for weights in (rest, head) if weights]
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    else:
        optimizer = torch.optim.SGD(
            groups, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=True
        )
        if settings.momentum:
            # PyTorch leaves it as uninitialised memory if a gradient scaler skips the first step.
            for weight in (weight for group in groups for weight in group["params"]):
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer, [1.0, settings.head_lr][: len(groups)]
