"""`search.methods`: the space that it stands for, and what it cannot be with."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import yaml

from bpkd_search.config import SearchConfig, dump
from bpkd_search.config.load import load_saved, parse
from bpkd_search.config.methods import parts
from bpkd_search.config.points import probe_values
from bpkd_search.config.space import Choice
from bpkd_search.errors import ConfigError
from bpkd_search.losses.methods import METHODS


def tree_of(*methods: str, **changes: Any) -> dict[str, Any]:
    return {"search": {"methods": list(methods), "trials": 8}, **deepcopy(changes)}


def load(*methods: str, overrides: tuple[str, ...] = (), **changes: Any) -> SearchConfig:
    return parse(SearchConfig, tree_of(*methods, **changes), "test", overrides)


WEIGHT = {"float": [0.05, 50], "log": True}
TEMPERATURE = {"float": [0.5, 8], "log": True}


def test_methods_stand_for_a_space_with_a_condition_for_each() -> None:
    by_hand = {
        "loss.method": {"choice": ["kd", "bpkd", "dist"]},
        "loss.weight": {**WEIGHT, "when": {"loss.method": ["kd", "dist"]}},
        "loss.temperature": {**TEMPERATURE, "when": {"loss.method": ["kd", "dist"]}},
        "loss.edge_width": {"int": [3, 11], "step": 2, "when": {"loss.method": "bpkd"}},
        "loss.edge_weight": {**WEIGHT, "when": {"loss.method": "bpkd"}},
        "loss.body_weight": {"float": [0.02, 20], "log": True, "when": {"loss.method": "bpkd"}},
        "loss.edge_temperature": {**TEMPERATURE, "when": {"loss.method": "bpkd"}},
        "loss.body_temperature": {**TEMPERATURE, "when": {"loss.method": "bpkd"}},
        "loss.intra_weight": {"float": [0.1, 10], "log": True, "when": {"loss.method": "dist"}},
    }
    config = load("kd", "bpkd", "dist")
    assert config.space == parse(SearchConfig, {"space": by_hand}, "test").space
    assert list(config.space) == list(by_hand)


def test_every_entry_can_be_searched_at_the_ends_of_its_ranges_and_equal_names_agree() -> None:
    """`parse` tries every parameter at its ends; a space by name has one range for a name."""
    named: dict[str, Any] = {}
    for name, entry in METHODS.items():
        if name != "ce":
            assert entry.ranges, name
            config = load(name, teacher={"mode": "online"})
            assert all(probe_values(distribution) for distribution in config.space.values())
        for key, distribution in entry.ranges.items():
            assert named.setdefault(key, distribution) == distribution, (name, key)


def test_parameters_of_the_file_take_the_place_of_the_entry_and_get_its_condition() -> None:
    space = {
        "loss.weight": {"float": [1, 2]},
        "loss.alpha": {"choice": [1.0, 2.0]},
        "loss.edge_width": {"int": [3, 31], "step": 2, "when": {"train.optimizer": "adamw"}},
        "train.lr": {"float": [0.001, 0.1]},
    }
    config = load("bpkd", "kd", "cwd", space=space, train={"optimizer": "adamw"})
    when = {path: distribution.when for path, distribution in config.space.items()}
    assert config.space["loss.weight"].bounds == (1, 2)
    assert when["loss.weight"] == {"loss.method": ["kd", "cwd"]}
    assert when["loss.alpha"] == {"loss.method": "bpkd"}
    assert when["loss.edge_width"] == {"loss.method": "bpkd", "train.optimizer": "adamw"}
    assert when["train.lr"] == {}
    apart = parts(config)
    assert set(apart["kd"].space) == {"loss.weight", "loss.temperature", "train.lr"}
    assert apart["kd"].loss.method == "kd" and apart["bpkd"].space["loss.edge_width"].when == {
        "train.optimizer": "adamw"
    }


def test_settings_change_a_range_that_a_method_stands_for_in_any_order() -> None:
    for overrides in (
        ("search.methods=[kd,cwd]", "space.loss.temperature.float=[1,4]"),
        ("space.loss.temperature.float=[1,4]", "search.methods=[kd,cwd]"),
    ):
        config = parse(SearchConfig, {}, "test", overrides)
        assert config.space["loss.temperature"].bounds == (1, 4)
        assert config.space["loss.temperature"].log  # the entry's own
        assert set(config.space) == {"loss.method", "loss.weight", "loss.temperature"}


def test_a_written_configuration_reads_back_and_is_not_expanded_again(tmp_path: Any) -> None:
    config = load("bpkd", "kd")
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load_saved(SearchConfig, tmp_path / "config.yaml") == config
    assert parse(SearchConfig, yaml.safe_load(dump(config)), "test") == config
    # One that a version with fewer ranges wrote has the space that it had.
    tree = yaml.safe_load(dump(config))
    del tree["space"]["loss.body_temperature"]
    (tmp_path / "older.yaml").write_text(yaml.safe_dump(tree))
    assert set(load_saved(SearchConfig, tmp_path / "older.yaml").space) == set(config.space) - {"loss.body_temperature"}


def test_a_function_of_the_user_is_a_method_with_ranges_of_its_own() -> None:
    loss = {"method": "custom", "function": "json:dumps"}
    config = load("custom", "kd", loss=loss, space={"loss.arguments.tau": {"float": [1, 4]}})
    assert config.space["loss.arguments.tau"].when == {"loss.method": "custom"}
    assert set(parts(config)["custom"].space) == {"loss.arguments.tau"}
    functions = {"loss.function": {"choice": ["json:dumps", "json:loads"]}}
    assert parts(load("kd", "custom", space=functions))["custom"].loss.function == "json:dumps"
    with pytest.raises(ConfigError, match=r"search\.methods\.0: got custom, which has no ranges to search"):
        load("custom", "kd", loss=loss)


@pytest.mark.parametrize(
    ("methods", "changes", "said"),
    [
        (("kd", "kdd"), {}, "search.methods.1: got 'kdd', must be 'ce', 'bpkd', 'kd'"),
        (("kd", "cwd", "kd"), {}, "search.methods: got ['kd', 'cwd', 'kd'], names kd more than once"),
        (("ce", "kd"), {}, "search.methods.0: got ce, which has no ranges to search"),
        (
            ("kd", "feature_mse"),
            {"teacher": {"mode": "stored"}},
            "search.methods: loss.method: got feature_mse, needs the teacher's features: set teacher.mode to online or",
        ),
        (
            ("kd", "cwd"),
            {"space": {"loss.method": {"choice": ["kd"]}}},
            "space.loss.method: is given by search.methods",
        ),
        (
            tuple(name for name in METHODS if name != "ce"),
            {"search": 7},
            "search.trials: got 7, must be at least 8, one",
        ),
        (
            ("bpkd", "kd"),
            {"enqueue": [{"loss.edge_weight": 0.1 * n} for n in range(1, 6)]},
            "search.trials: got 8, must be at least 10: enqueue gives bpkd 5, and each of 2 search.methods gets as",
        ),
        (("kd", "cwd"), {"enqueue": [{"loss.weight": 1.0}]}, "enqueue.0: no value for loss.method"),
        (
            ("kd", "cwd"),
            {"warm_start": ["runs/a"]},
            "search.warm_start: got 1 experiment(s), must be empty with search.methods",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(methods: tuple[str, ...], changes: dict[str, Any], said: str) -> None:
    tree = tree_of(*methods)
    trials, started = changes.pop("search", 8), changes.pop("warm_start", [])
    tree["search"] |= {"trials": trials, "warm_start": started}
    with pytest.raises(ConfigError) as caught:
        parse(SearchConfig, tree | changes, "test")
    assert said in str(caught.value)
    assert len(caught.value.faults) == 1, caught.value.faults


def test_parts_of_a_search_are_searches_of_one_method() -> None:
    config = load("bpkd", "kd", loss={"method": "bpkd", "alpha": 3.0})
    bpkd, kd = parts(config).values()
    assert bpkd.loss.alpha == 3.0 and kd.loss.method == "kd"
    assert (bpkd.name, kd.name) == ("search-bpkd", "search-kd")
    assert not any(d.when for part in (bpkd, kd) for d in part.space.values())
    assert not any(isinstance(d, Choice) for d in kd.space.values())
    plain = parse(SearchConfig, {"space": {"loss.edge_weight": WEIGHT}}, "test")
    assert parts(plain) == {"": plain}
