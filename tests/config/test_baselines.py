"""Which baselines a search has: plain feature KD is one more where the teacher's features are at hand."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.storages import InMemoryStorage

from bpkd_search.config import BASELINES, SearchConfig, dump
from bpkd_search.config.load import load_saved, parse
from bpkd_search.config.points import baselines_of, needs_features
from bpkd_search.errors import ConfigError
from bpkd_search.search.engine import Engine

PLAIN = ["ce", "kd", "cwd", "bpkd-paper"]


def names(tiny: dict[str, Any], **changes: Any) -> list[str]:
    tree = deepcopy(tiny)
    for key, values in changes.items():
        tree[key] = tree[key] | values if key in ("teacher", "search") else values
    return list(baselines_of(parse(SearchConfig, tree, "test")))


@pytest.mark.parametrize(
    ("changes", "feature"),
    [
        ({}, False),
        ({"teacher": {"mode": "stored"}}, False),
        ({"teacher": {"mode": "online"}}, True),
        ({"loss": {"method": "feature_mse"}, "space": {"loss.weight": {"float": [1, 9]}}}, True),
        ({"teacher": {"mode": "online"}, "search": {"feature_baseline": False}}, False),
        ({"search": {"feature_baseline": True}}, True),
        # A teacher of other software gives logits alone.
        ({"teacher": {"mode": "online", "checkpoint": "net.onnx"}}, False),
        ({"teacher": {"mode": "online", "checkpoint": "teacher.safetensors"}}, True),
    ],
)
def test_plain_feature_kd_is_a_baseline_where_features_are_at_hand(
    tiny: dict[str, Any], changes: dict[str, Any], feature: bool
) -> None:
    assert names(tiny, **changes) == PLAIN + ["feature_mse"] * feature


def test_asking_for_it_runs_the_teacher_online(tiny: dict[str, Any]) -> None:
    assert not needs_features(parse(SearchConfig, deepcopy(tiny), "test"))
    assert needs_features(parse(SearchConfig, deepcopy(tiny), "test", ["search.feature_baseline=true"]))
    with pytest.raises(ConfigError) as caught:
        parse(SearchConfig, tiny, "test", ["search.feature_baseline=true", "teacher.mode=stored"])
    said = "got true, needs the teacher's features: set teacher.mode to online or auto (got stored)"
    assert caught.value.faults == [f"search.feature_baseline: {said}"]


def test_a_search_that_began_without_it_goes_on_without(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = parse(SearchConfig, tiny, "test", ["teacher.mode=online"])
    tree = yaml.safe_load(dump(config))
    del tree["search"]["feature_baseline"]
    (tmp_path / "older.yaml").write_text(yaml.safe_dump(tree))
    older = load_saved(SearchConfig, tmp_path / "older.yaml")
    assert older.teacher.mode == "online" and list(BASELINES) == PLAIN
    for one, expected in ((older, PLAIN), (config, [*PLAIN, "feature_mse"])):
        engine = Engine(one, tmp_path / str(len(expected)), "test", storage=InMemoryStorage())
        first = [engine.ask() for _ in expected]
        engine.recorder.close()
        assert [(t.method, t.origin) for t in first if t] == [(name, "baseline") for name in expected]
        assert engine.total == len(expected) + 2
    assert first[4] is not None and first[4].run.loss.weight == 10.0
