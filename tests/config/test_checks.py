"""Errors of `space:` and `enqueue:`: each with its place, the value and what is valid."""

from __future__ import annotations

from typing import Any

import pytest

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import load_saved, parse
from bpkd_search.config.yaml_text import to_text
from bpkd_search.errors import ConfigError

SPACE: dict[str, Any] = {
    "loss.edge_width": {"int": [3, 9], "step": 2},
    "loss.edge_weight": {"float": [0.1, 50], "log": True},
    "loss.alpha": {"float": [0, 1], "step": 0.25},
    "loss.pre_mask": {"choice": [True, False]},
    "train.batch_size": {"choice": [4, 8]},
    "train.optimizer": {"choice": ["sgd", "adamw"]},
}
POINT = {
    "loss.edge_width": 5, "loss.edge_weight": 2, "loss.alpha": 0.5, "loss.pre_mask": False, "train.batch_size": 4,
    "train.optimizer": "sgd",
}  # fmt: skip
REFUSED = [
    ("loss.edge_width", 11, "got 11, must be a whole number from 3 to 9 in steps of 2"),
    ("loss.edge_width", 4, "got 4, must be a whole number from 3 to 9 in steps of 2"),
    ("loss.edge_width", 5.5, "got 5.5, must be a whole number"),
    ("loss.edge_width", "5", "got '5', must be a whole number"),
    ("loss.edge_width", True, "got True, must be a whole number"),
    ("loss.edge_weight", 51, "got 51, must be a number from 0.1 to 50.0"),
    ("loss.edge_weight", [1], "got [1], must be a number from 0.1 to 50.0"),
    ("loss.edge_weight", None, "got None, must be a number from 0.1 to 50.0"),
    ("loss.alpha", 0.3, "got 0.3, must be a number from 0.0 to 1.0 in steps of 0.25"),
    ("loss.pre_mask", 1, "got 1, valid: True, False"),
    ("train.batch_size", 16, "got 16, valid: 4, 8"),
    ("train.optimizer", "adam", "got 'adam', valid: sgd, adamw"),
    ("train.optimizer", {"a": 1}, "got {'a': 1}, valid: sgd, adamw"),
]


@pytest.mark.parametrize(("path", "value", "message"), REFUSED)
def test_an_enqueued_value_that_the_study_cannot_hold_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(SearchConfig, {"space": SPACE, "enqueue": [POINT, {**POINT, path: value}]}, "test")
    assert [fault for fault in caught.value.faults if fault.startswith(f"enqueue.1.{path}: {message}")]
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    "change", [{}, {"loss.edge_width": 9}, {"loss.edge_width": 3.0}, {"loss.alpha": 1}, {"train.batch_size": 8.0}]
)
def test_values_of_the_space_may_be_enqueued(change: dict[str, Any]) -> None:
    config = parse(SearchConfig, {"space": SPACE, "enqueue": [{**POINT, **change}]}, "test")
    assert config.enqueue == ({**POINT, **change},)


def test_an_older_search_with_a_value_outside_its_range_still_opens(tmp_path) -> None:
    config = SearchConfig.model_validate({"space": SPACE, "enqueue": [{**POINT, "loss.edge_width": 11}]})
    (tmp_path / "config.yaml").write_text(to_text({"space": SPACE, "enqueue": [dict(config.enqueue[0])]}))
    assert load_saved(SearchConfig, tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("space", "keys"),
    [
        # The first method is laid with every other parameter, and its faults are its own.
        ({"train.lr": {"float": [0.1, 1]}, "loss.method": {"choice": ["mix", "kd"]}}, ["loss.method"]),
        ({"loss.weight": {"float": [1, 2]}, "loss.method": {"choice": ["mix", "kd"]}}, ["loss.method", "loss.weight"]),
        # `end` is missing because `start` is searched.
        (
            {
                "train.lr": {"float": [0.1, 1]},
                "loss.method": {"choice": ["kd"]},
                "loss.weight.start": {"float": [1, 2]},
            },
            ["loss.weight.start"],
        ),
    ],
)
def test_an_error_names_the_parameter_of_the_space_that_causes_it(space: dict[str, Any], keys: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(SearchConfig, {"space": space}, "test")
    assert sorted({fault.partition(":")[0] for fault in caught.value.faults}) == [f"space.{key}" for key in keys]


def test_a_condition_on_a_parameter_that_has_one_itself_is_checked_with_both() -> None:
    space = {
        "loss.method": {"choice": ["kd", "bpkd"]},
        "loss.edge_width": {"choice": [3, 5], "when": {"loss.method": "bpkd"}},
        "loss.edge_weight": {"float": [0.1, 2], "when": {"loss.edge_width": 3}},
    }
    assert list(parse(SearchConfig, {"space": space}, "test").space) == list(space)


@pytest.mark.parametrize("kind", ["folder", "huggingface"])
def test_names_of_classes_are_distinct_but_older_searches_still_open(tmp_path, kind: str) -> None:
    tree: dict[str, Any] = {"data": {"kind": kind, kind: {"class_names": ["car", "road", "car"]}}, "space": SPACE}
    with pytest.raises(ConfigError, match=rf"data\.{kind}\.class_names: got car more than once, must be distinct"):
        parse(SearchConfig, tree, "test")
    (tmp_path / "config.yaml").write_text(to_text(tree))
    assert load_saved(SearchConfig, tmp_path / "config.yaml").data.kind == kind
