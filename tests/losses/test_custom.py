"""A loss of the user as a term of the criterion."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from bpkd_search.losses import Criterion, kd_loss

OWN = """
from bpkd_search.losses import kd_loss

def softer(student, teacher, labels, *, ignore_index, temperature):
    return kd_loss(student, teacher, labels, ignore_index=ignore_index, temperature=temperature)

def small(student, teacher, labels, *, ignore_index):
    assert teacher is None
    return student.square().mean()
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_losses.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_losses", raising=False)


def test_it_is_weighted_and_its_arguments_follow_their_schedules() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 8, 8, generator=generator) for _ in range(2))
    labels = torch.randint(0, 3, (2, 16, 16), generator=generator)
    own = {"method": "custom", "function": "own_losses:softer", "weight": {"start": 4, "end": 0}}
    own["arguments"] = {"temperature": {"start": 2, "end": 4}}
    criterion = Criterion(
        [own, {"method": "kd"}, {"method": "custom", "function": "own_losses:small", "needs": "nothing"}]
    )
    student.requires_grad_()
    terms = criterion(student, teacher, labels, progress=0.5)
    assert list(terms) == ["custom", "kd", "custom_2"] and criterion.needs_teacher
    assert torch.allclose(terms["custom"], 2 * kd_loss(student, teacher, labels, temperature=3.0))
    assert torch.allclose(terms["custom_2"], student.square().mean())


def test_one_that_needs_nothing_needs_no_teacher() -> None:
    criterion = Criterion([{"method": "custom", "function": "own_losses:small", "needs": "nothing"}])
    student = torch.full((1, 3, 4, 4), 2.0, requires_grad=True)
    assert not criterion.needs_teacher
    assert criterion(student, None, torch.zeros(1, 4, 4))["custom"].item() == 4.0
