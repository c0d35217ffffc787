"""The entries: their parameters are the functions', and their published weights convert."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

import pytest
import torch

from bpkd_search import losses
from bpkd_search.blocks import Schedule
from bpkd_search.errors import ConfigError
from bpkd_search.losses import METHODS, kd_loss, loss_method, parameters
from bpkd_search.losses.methods import Bpkd, Dkd

DISTILLING = [name for name in METHODS if name != "ce"]


def test_the_parameters() -> None:
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
    assert parameters("kd") == {"weight": 1.0, "temperature": 1.0, "standardise": False}
    assert parameters("cwd") == {"weight": 3.0, "temperature": 4.0}
    assert parameters("dist") == {"weight": 1.0, "inter_weight": 1.0, "intra_weight": 1.0, "temperature": 1.0}
    assert parameters("dkd") == {"weight": 1.0, "alpha": 1.0, "beta": 8.0, "temperature": 4.0}
    fading = {"shape": "linear", "start": 1.0, "end": 0.0, "until": 1.0}
    assert parameters("aicsd") == {"ics_weight": fading, "pixel_weight": fading, "temperature": 1.0}
    assert parameters("feature_mse") == {"weight": 10.0}
    assert parameters("cirkd") == {"weight": 1.0, "temperature": 0.1}


@pytest.mark.parametrize("name", DISTILLING)
def test_entries_and_functions_have_the_same_parameters_and_defaults(name: str) -> None:
    function = resolve_name(METHODS[name].function)
    called = function.forward if METHODS[name].learned else function
    defaults = {p.name: p.default for p in inspect.signature(called).parameters.values() if p.kind == p.KEYWORD_ONLY}
    assert defaults.pop("ignore_index") == 255
    assert METHODS[name](method=name).at(0.0) == defaults
    assert {type(value) for value in METHODS[name](method=name).at(0.0).values()} <= {int, float, bool}


def test_every_fact_of_an_entry_is_there() -> None:
    for name, method in METHODS.items():
        assert (method.name, method.model_fields["method"].annotation) == (name, Literal[name])
        assert method.summary and not method.summary.endswith(".")
        assert all(field.description for key, field in method.model_fields.items() if key != "method")
        assert {*method.parts.values(), *(weight.parameter for weight in method.published)} <= set(parameters(name))
        assert name == "ce" or method.source.startswith("arXiv ")


def test_published_weights_convert_to_ours() -> None:
    """Each codebase's reduction, restated on full labels, against ours with the converted weight."""
    student, teacher = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(32).view(2, 4, 4) // 5 % 3
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


def test_parameters_follow_their_schedules() -> None:
    weight = Schedule(shape="linear", start=2.0, end=6.0, until=0.5)
    assert Dkd(weight=weight).at(0.25) == {"weight": 4.0, "alpha": 1.0, "beta": 8.0, "temperature": 4.0}


@pytest.mark.parametrize(("alpha", "faulty"), [(2.0, False), ((2.0,), False), ((1.0, 2.0, 3.0), False), ((1, 2), True)])
def test_what_is_given_per_class_fits_the_classes(alpha: Any, faulty: bool) -> None:
    expected = ["alpha: got 2 numbers, must be one, or one for each of 3 classes"] * faulty
    assert Bpkd(alpha=alpha).class_faults(3) == expected
    assert Dkd(alpha=2.0).class_faults(3) == []


def test_every_public_name_loads_from_where_type_checkers_look() -> None:
    tree = ast.parse(Path(losses.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    homes = {node.names[0].name: node.module for node in block.body if isinstance(node, ast.ImportFrom)}
    assert sorted(homes) == sorted(losses.__all__)
    for name, home in homes.items():
        assert getattr(losses, name) is getattr(import_module(str(home)), name)
