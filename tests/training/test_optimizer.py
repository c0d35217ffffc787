"""Groups of weights and their shares of the learning rate."""

from __future__ import annotations

import pytest
import torch

from bpkd_search.config.optimisation import Optimisation
from bpkd_search.losses import Criterion
from bpkd_search.models import Segmentor
from bpkd_search.training.optimizer import make_optimizer


def parts(**train: object) -> tuple[Segmentor, Criterion, torch.optim.Optimizer, list[float]]:
    torch.manual_seed(0)
    student = Segmentor("mobilenetv3_small_050", 3, channels=8)
    criterion = Criterion([{"method": "feature_mse"}], student_channels=8, teacher_channels=8)
    optimizer, rates = make_optimizer(Optimisation(**train), student, criterion)
    return student, criterion, optimizer, rates


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("head_lr", [1.0, 10.0])
def test_every_weight_is_in_one_group(optimizer: str, head_lr: float) -> None:
    student, criterion, built, rates = parts(optimizer=optimizer, head_lr=head_lr)
    grouped = [weight for group in built.param_groups for weight in group["params"]]
    assert {id(w) for w in grouped} == {id(w) for w in (*student.parameters(), *criterion.parameters())}
    assert len(grouped) == len({id(w) for w in grouped})
    # With one rate the order is that of version 0.1.0, whose checkpoints are read on.
    assert rates == ([1.0] if head_lr == 1 else [1.0, 10.0])
    assert (type(built).__name__, built.defaults["lr"]) == ({"sgd": "SGD", "adamw": "AdamW"}[optimizer], 0.05)


def test_the_head_learns_at_its_own_rate() -> None:
    student, _, built, rates = parts(head_lr=10.0, weight_decay=0.0)
    before = {name: weight.clone() for name, weight in student.named_parameters()}
    for group, rate in zip(built.param_groups, rates, strict=True):
        group["lr"] = 0.5 * rate
    for weight in student.parameters():
        weight.grad = torch.ones_like(weight)
    built.step()
    for name, weight in student.named_parameters():
        step = 5.0 if name.startswith(("head.", "classifier.")) else 0.5
        torch.testing.assert_close(before[name] - weight, torch.full_like(weight, step), msg=name)
