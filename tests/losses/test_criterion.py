"""Schedules, the registry's parameter lists, and the criterion against the functions it sums."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bpkd_search.errors import ConfigError
from bpkd_search.losses import METHODS, BPKDLoss, Criterion, bpkd_loss, kd_loss, loss_method, parameters, scheduled

RAMP = {"shape": "linear", "start": 2.0, "end": 6.0, "until": 0.5}


@pytest.fixture
def maps() -> tuple[Tensor, Tensor, Tensor]:
    student, teacher = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return student, teacher, torch.arange(32).view(2, 4, 4) // 5 % 3


@pytest.mark.parametrize(("progress", "value"), [(-1, 2), (0, 2), (0.125, 3), (0.25, 4), (0.5, 6), (1, 6)])
def test_linear_schedule(progress: float, value: float) -> None:
    assert scheduled(RAMP, progress) == value


def test_cosine_schedule_and_constants() -> None:
    cosine = {"shape": "cosine", "start": 1.0, "end": 0.0}
    values = [scheduled(cosine, p) for p in (0.0, 0.25, 0.5, 1.0)]
    assert values == pytest.approx([1.0, (1 + math.sqrt(0.5)) / 2, 0.5, 0.0])
    assert scheduled({"shape": "constant", "start": 3}, 0.7) == 3.0
    assert scheduled(4, 0.7) == 4.0


def test_schedule_faults_come_all_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        scheduled({"shape": "step", "start": "x", "until": 0, "ende": 1}, 0.0)
    assert [fault.split(":")[0] for fault in error.value.faults] == ["ende", "shape", "start", "end", "until"]


def test_parameters_come_from_the_signatures() -> None:
    assert parameters("bpkd") == {
        "edge_width": 7,
        "edge_weight": 50.0,
        "body_weight": 20.0,
        "alpha": 2.0,
        "edge_temperature": 1.0,
        "body_temperature": 1.0,
        "pre_mask": True,
        "post_mask": True,
    }
    assert parameters("ce") == {}
    assert parameters("kd") == {"weight": 1.0, "temperature": 1.0}
    assert parameters("cwd") == {"weight": 3.0, "temperature": 4.0}
    assert parameters("dist") == {"weight": 1.0, "inter_weight": 1.0, "intra_weight": 1.0, "temperature": 1.0}
    assert parameters("dkd") == {"weight": 1.0, "alpha": 1.0, "beta": 8.0, "temperature": 4.0}
    assert parameters("feature_mse") == {"weight": 10.0}
    assert parameters("cirkd") == {"weight": 1.0, "temperature": 0.1}


def test_published_weights_name_parameters_and_sources() -> None:
    for method in METHODS.values():
        assert {weight.parameter for weight in method.published} <= set(parameters(method.name))
        assert method.name == "ce" or method.source.startswith("arXiv ")


def test_published_weights_convert_to_ours(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    """Each codebase's reduction, restated on full labels, against ours with the converted weight."""
    student, teacher, labels = maps
    divergence = torch.nn.functional.kl_div(
        student.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True
    )
    theirs = {
        "winycg/CIRKD": divergence.sum() / labels.numel(),
        "irfanICMLL/structure_knowledge_distillation": divergence.sum() / 16,
        "irfanICMLL/TorchDistiller": divergence.mean(),
    }
    assert set(theirs) == {weight.codebase for weight in METHODS["kd"].published}
    for published in METHODS["kd"].published:
        ours = kd_loss(student, teacher, labels, weight=published.converted(batch_size=2, num_classes=3))
        torch.testing.assert_close(ours, published.weight * theirs[published.codebase])


def test_unknown_method_lists_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="got 'bkpd', must be one of ce, bpkd, kd"):
        loss_method("bkpd")


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


@pytest.mark.parametrize(
    ("method", "teacher", "features"), [("ce", False, False), ("dkd", True, False), ("cirkd", True, True)]
)
def test_needs(method: str, teacher: bool, features: bool) -> None:
    criterion = Criterion([{"method": method}])
    assert (criterion.needs_teacher, criterion.needs_features) == (teacher, features)


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


def test_faults_of_all_terms_come_at_once() -> None:
    bad: list[dict[str, Any]] = [
        {"method": "kd", "tau": 1.0, "weight": {"shape": "linear", "start": 1.0}},
        {"method": "nope"},
        {"method": "bpkd", "edge_width": RAMP},
    ]
    with pytest.raises(ConfigError) as error:
        Criterion(bad)
    assert [fault.split(":")[0] for fault in error.value.faults] == [
        "terms.0.tau",
        "terms.0.weight.end",
        "terms.1.method",
        "terms.2.edge_width",
    ]
    with pytest.raises(ConfigError, match="needs student_channels and teacher_channels"):
        Criterion([{"method": "feature_mse"}])


def test_unknown_setting_of_the_module_is_an_error() -> None:
    with pytest.raises(TypeError, match="edge_wdth"):
        BPKDLoss(edge_wdth=3)
