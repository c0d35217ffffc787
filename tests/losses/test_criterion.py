"""The criterion against the functions it sums."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from bpkd_search.blocks import Schedule, Weight
from bpkd_search.errors import ConfigError
from bpkd_search.losses import METHODS, BPKDLoss, Criterion, LossMethod, bpkd_loss, kd_loss

RAMP = {"shape": "linear", "start": 2.0, "end": 6.0, "until": 0.5}


@pytest.fixture
def maps() -> tuple[Tensor, Tensor, Tensor]:
    student, teacher = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return student, teacher, torch.arange(32).view(2, 4, 4) // 5 % 3


def test_terms_are_named_weighted_and_scheduled(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    criterion = Criterion(
        [
            {"method": "ce"},
            {"method": "bpkd", "edge_width": 3, "edge_weight": RAMP, "body_weight": 0.5},
            {"method": "kd", "weight": 2.0},
            {"method": "kd", "temperature": RAMP},
        ]
    )
    terms = criterion(*maps, progress=0.25)
    bpkd = bpkd_loss(*maps, edge_width=3)
    expected = {
        "bpkd.edge": 4 * bpkd.edge,
        "bpkd.body": 0.5 * bpkd.body,
        "kd": kd_loss(*maps, weight=2.0),
        "kd_2": kd_loss(*maps, temperature=4.0),
    }
    assert list(terms) == list(expected)
    torch.testing.assert_close(terms, expected)
    torch.testing.assert_close(
        BPKDLoss(edge_width=3, edge_weight=4.0, body_weight=0.5)(*maps).total,
        terms["bpkd.edge"] + terms["bpkd.body"],
    )


class Fading(LossMethod):
    """A method with a part that fades."""

    method: Literal["fading"] = "fading"
    edge_width: int = 3
    edge_weight: Weight = Schedule(start=4.0, end=0.0)
    function = "bpkd_search.losses.bpkd:bpkd_loss"
    parts = {"edge": "edge_weight"}


def test_a_new_method_needs_only_its_entry(
    maps: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "fading", Fading)
    terms = Criterion([{"method": "fading"}, {"method": "fading", "edge_weight": 5}])(*maps, progress=0.25)
    edge = bpkd_loss(*maps, edge_width=3).edge
    torch.testing.assert_close(terms, {"fading.edge": 3 * edge, "fading_2.edge": 5 * edge})


@pytest.mark.parametrize(("methods", "teacher"), [((), False), (("ce",), False), (("ce", "dkd"), True)])
def test_the_teacher_is_needed_by_any_term_but_ce(methods: tuple[str, ...], teacher: bool) -> None:
    assert Criterion([{"method": method} for method in methods]).needs_teacher == teacher


def test_feature_terms_train_their_projection(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, labels = maps
    terms: list[dict[str, Any]] = [{"method": "feature_mse", "weight": RAMP}, {"method": "cirkd"}]
    criterion = Criterion(terms, student_channels=3, teacher_channels=2)
    features = {"student_features": student, "teacher_features": teacher[:, :2]}
    half, full = (criterion(student, None, labels, progress=p, **features) for p in (0.25, 0.5))
    torch.testing.assert_close(half["feature_mse"] * 1.5, full["feature_mse"])
    torch.testing.assert_close(half["cirkd"], full["cirkd"])
    half["feature_mse"].backward()
    assert [tuple(p.shape) for p in criterion.parameters() if p.grad is not None and p.grad.any()] == [(2, 3, 1, 1)]
    with pytest.raises(ValueError, match="feature_mse: needs the teacher's features, got None"):
        criterion(student, None, labels, student_features=student)


def test_what_is_learned_keeps_its_name_in_checkpoints() -> None:
    criterion = Criterion([{"method": "kd"}, {"method": "feature_mse"}], student_channels=3, teacher_channels=2)
    assert list(criterion.state_dict()) == ["_modules_by_term.feature_mse.projection.weight"]


def test_faults_of_all_terms_come_at_once() -> None:
    bad: list[dict[str, Any]] = [
        {"method": "kd", "tau": 1.0, "weight": {"shape": "linear", "start": 1.0}},
        {"method": "nope"},
        {"method": "bpkd", "edge_width": RAMP},
        {"method": "cwd", "weight": {"shape": "step", "start": "x", "until": 0, "end": 1, "ende": 1}},
        {"method": "kd", "temperature": {"start": 0, "end": 1}},
        {"method": "feature_mse"},
    ]
    with pytest.raises(ConfigError) as error:
        Criterion(bad)
    assert error.value.faults == [
        "terms.0.weight.end: is required",
        "terms.0.tau: unknown key; valid: method, weight, temperature, standardise",
        f"terms.1.method: got 'nope', must be one of {', '.join(METHODS)}, custom",
        f"terms.2.edge_width: got {RAMP}, must be a valid integer",
        "terms.3.weight.shape: got 'step', must be 'constant', 'linear' or 'cosine'",
        "terms.3.weight.start: got 'x', must be a valid number, unable to parse string as a number",
        "terms.3.weight.until: got 0, must be greater than 0",
        "terms.3.weight.ende: unknown key; did you mean end? valid: shape, start, end, until",
        "terms.4.temperature.start: got 0, must be greater than 0",
        "feature_mse: needs student_channels and teacher_channels",
    ]


def test_unknown_setting_of_the_module_is_an_error() -> None:
    with pytest.raises(TypeError, match="edge_wdth"):
        BPKDLoss(edge_wdth=3)
