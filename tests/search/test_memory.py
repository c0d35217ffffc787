"""Search memory: what is left and found, what a search begins with, what it learns, and what it says of bad input."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bpkd_search import Leaderboard
from bpkd_search.config import SearchConfig
from bpkd_search.errors import ExperimentError
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.memory import Memory
from bpkd_search.search.engine import Engine
from bpkd_search.search.memory import FIRST, best_points, leave, offer_of
from bpkd_search.search.replay import replay
from bpkd_search.surrogate.model import Model
from tests.other_searches import Died, finish, run, story
from tests.other_searches import config_of as config_with

Fill = Callable[[Path, float], None]


config_of = partial(config_with, grace=3, reduction=2)


def remember(config: SearchConfig, memory: Path, factor: float = 0.1, name: str = "old") -> Path:
    """Run a search of other data and leave it in a memory."""
    folder = finish(config, memory.parent / f"{name}-run", factor)
    leave(folder, Memory(memory))
    return folder


@pytest.fixture(scope="module")
def siblings(tiny_search: Any, tmp_path_factory: pytest.TempPathFactory) -> Fill:
    """Fills a memory with three finished searches of 20 trials, which are run once."""

    @cache
    def made(factor: float) -> Path:
        memory = tmp_path_factory.mktemp("siblings") / "memory"
        for i in range(3):
            remember(config_of(tiny_search(), 20, seed=7 + i), memory, factor, f"old{i}")
        return memory

    return lambda memory, factor: (shutil.copytree(made(factor), memory), None)[1]


def points(engine: Engine, origin: str) -> list[dict[str, Any]]:
    found = [engine.plan.point(trial) for trial in engine.trials.values() if trial.origin == origin]
    return [point for point in found if point is not None]


def test_a_search_begins_with_the_best_points_of_its_siblings(
    tiny: dict[str, Any], siblings: Fill, tmp_path: Path
) -> None:
    memory = tmp_path / "memory"
    siblings(memory, 0.1)
    engine = run(config_of(tiny, memory=str(memory)), tmp_path / "new")
    assert [trial.origin for trial in engine.trials.values()] == ["memory"] * FIRST + ["sampled"] * (16 - FIRST)
    # The curves have one peak, at sqrt(0.05 * 50), and the widths say nothing.
    tried = [point["loss.edge_weight"] for point in points(engine, "memory")]
    everything = np.concatenate([past.table["loss.edge_weight"] for past in Memory(memory).searches()[0]])
    away = np.abs(np.log(everything / math.sqrt(0.05 * 50)))
    assert max(abs(math.log(weight / math.sqrt(0.05 * 50))) for weight in tried) < np.quantile(away, 0.5)
    table = Leaderboard(tmp_path / "new").trials()
    assert (table["origin"] == "memory").sum() == FIRST
    (decision,) = (event for event in read_events(tmp_path / "new") if event["event"] == "warm_start")
    assert set(decision["agreement"]) == {path.stem for path in memory.iterdir()}
    # A source that agrees in a share of the pairs claims so much less than the best and the worst of the own trials.
    own = [
        engine.trials[e["number"]].last()["miou"]
        for e in read_events(tmp_path / "new")
        if e["event"] == "end" and e["state"] == "COMPLETE" and e["time"] <= decision["time"]
    ]
    for source, share in decision["agreement"].items():
        values = [
            value for trial in decision["trials"] if trial["source"].startswith(source) for value in trial["values"]
        ]
        if share < 2 / 3:
            assert not values
        else:
            ends = [0.5 - (share - 0.5), 0.5 + (share - 0.5)]
            assert [min(values), max(values)] == pytest.approx(np.quantile(own, ends))
    assert max(decision["agreement"].values()) > 2 / 3
    assert engine.notes[0] == f"memory: {memory}: 3 searches, of which 3 have trials in this space"


def test_unrelated_ones_are_dropped_and_leave_only_their_points(
    tiny: dict[str, Any], siblings: Fill, tmp_path: Path
) -> None:
    memory = tmp_path / "memory"
    siblings(memory, -0.1)
    whole = {"scheduler": {"name": "none"}}  # remembered points are never stopped, enqueued ones are
    warm = run(config_of(tiny, memory=str(memory), **whole), tmp_path / "warm")
    assert sum("it is dropped" in note for note in warm.notes) == 3
    tiny["enqueue"] = points(warm, "memory")
    cold = run(config_of(tiny, **whole), tmp_path / "cold")
    assert story(warm) == story(cold)


def test_best_points_are_those_that_all_sources_together_expect_most_of(tiny: dict[str, Any]) -> None:
    config = config_of({**tiny, "space": {"loss.edge_weight": {"float": [1, 2]}}})
    there = [[1.0, 1.3, 1.6, 2.0], [1.05, 1.35, 1.62, 1.9]]
    ranks = [[0.0, 1.0, 0.8, 0.2], [0.1, 0.2, 1.0, 0.0]]
    sources = [
        [{"source": str(w), "point": {"loss.edge_weight": w}, "ranks": [r]} for w, r in zip(*pair, strict=True)]
        for pair in zip(there, ranks, strict=True)
    ]

    def expected(at: float) -> float:
        told = [pair for each in zip(there, ranks, strict=True) for pair in zip(*each, strict=True)]
        near = [math.exp(-((at - w) ** 2) / (2 * 0.1**2)) for w, _ in told]
        return sum(n * rank for n, (_, rank) in zip(near, told, strict=True)) / sum(near)

    order = sorted([w for weights in there for w in weights], key=expected, reverse=True)
    chosen: list[float] = []
    for weight in order:
        if all(abs(weight - other) > 0.05 for other in chosen):
            chosen.append(weight)
    assert [point["loss.edge_weight"] for point in best_points(config, sources, 3)] == chosen[:3]


@pytest.mark.parametrize("factor", [0.1, -0.1])
def test_it_resumes_and_replays_exactly_without_the_memory(
    tiny: dict[str, Any], siblings: Fill, tmp_path: Path, factor: float
) -> None:
    memory = tmp_path / "memory"
    siblings(memory, factor)
    config = config_of(tiny, memory=str(memory))
    whole = run(config, tmp_path / "whole")
    shutil.rmtree(memory)
    lines = (tmp_path / "whole" / "events.jsonl").read_bytes().splitlines(keepends=True)
    kinds = [json.loads(line)["event"] for line in lines]
    second = [i for i, kind in enumerate(kinds) if kind == "ask"][1]
    for cut in (kinds.index("sources") + 1, second, kinds.index("warm_start") + 1):
        folder = tmp_path / str(cut)
        shutil.copytree(tmp_path / "whole", folder)
        (folder / "events.jsonl").write_bytes(b"".join(lines[:cut]))
        assert story(run(config, folder)) == story(whole)
        assert replay(folder, fixed=()) == (16, [])


def test_with_many_slots_and_kills_it_replays_exactly(tiny: dict[str, Any], siblings: Fill, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    siblings(memory, 0.1)
    config = config_of(tiny, 24, memory=str(memory))
    for moment in (15, 9, 2):
        seen = 0

        def listen(event: str, trial: Any, moment: int = moment) -> None:
            nonlocal seen
            seen += event == "report"
            if seen == moment:
                raise Died

        with pytest.raises(Died):
            run(config, tmp_path / "new", slots=5, listen=listen)
        shutil.rmtree(memory, ignore_errors=True)
    assert run(config, tmp_path / "new", slots=5).done
    assert replay(tmp_path / "new", fixed=()) == (24, [])


def test_points_of_the_user_come_first_and_are_not_tried_twice(
    tiny: dict[str, Any], siblings: Fill, tmp_path: Path
) -> None:
    memory = tmp_path / "memory"
    siblings(memory, 0.1)
    first = offer_of(config_of(tiny, memory=str(memory))).first
    tiny["enqueue"] = [first[0], {"loss.edge_weight": 40.0, "loss.edge_width": 7}]
    engine = run(config_of(tiny, memory=str(memory)), tmp_path / "new")
    assert [t.origin for t in engine.trials.values()][:6] == ["enqueued"] * 2 + ["memory"] * FIRST
    assert points(engine, "enqueued") == tiny["enqueue"]
    assert first[0] not in points(engine, "memory")


def test_points_outside_a_changed_space_are_passed_over(tiny: dict[str, Any], siblings: Fill, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    siblings(memory, 0.1)
    config = config_of(tiny, memory=str(memory))
    experiment.create(tmp_path / "new", config)
    engine = Engine(config, tmp_path / "new", "t", fixed=())
    tried = engine.ask()
    assert tried is not None and tried.origin == "memory"
    old, new = [{"float": [low, 50.0], "step": None, "log": True, "when": {}} for low in (0.05, 20.0)]
    engine.request({"changes": {"space.loss.edge_weight": [old, new]}})
    after = engine.ask()
    assert after is not None and after.origin == "sampled" and after.run.loss.edge_weight >= 20  # type: ignore[union-attr]
    engine.recorder.close()


def test_what_overlaps_is_found_and_what_does_not_is_left_out(tiny: dict[str, Any], tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    wide = config_of(tiny, 20)
    remember(wide, memory, name="wide")
    tiny["space"] = {"train.lr": {"float": [0.01, 0.1]}}
    remember(config_of(tiny, 6), memory, name="other")
    tiny["space"] = {"loss.edge_weight": {"float": [0.5, 50], "log": True}}
    tiny["train"]["lr"] = 0.01  # another base, on which the agreement decides
    config = config_of(tiny, memory=str(memory))
    offer = offer_of(config)
    (found,) = offer.sources.values()
    weights = Leaderboard(tmp_path / "wide-run").trials()["loss.edge_weight"]
    assert sorted(t["point"]["loss.edge_weight"] for t in found) == sorted(w for w in weights if w >= 0.5)
    assert all(t["point"].keys() == {"loss.edge_weight"} for t in found)
    assert offer.notes[0].endswith("2 searches, of which 1 have trials in this space")


def test_searches_of_the_same_data_and_networks_come_first(tiny: dict[str, Any], tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    for name, seed, channels in (("data", 3, 8), ("same", 0, 8), ("networks", 0, 12)):
        tree = deepcopy(tiny)
        tree["data"]["synthetic"]["seed"] = seed
        tree["student"]["channels"] = channels
        tree["name"] = name
        remember(config_of(tree, 6), memory, name=name)
    found = offer_of(config_of(tiny, memory=str(memory))).sources
    assert [source.rpartition("-")[0] for source in found] == ["same", "data", "networks"]


@pytest.mark.parametrize(
    ("search", "why"),
    [
        ({"sampler": {"name": "random"}}, "sampler random"),
        ({"constraints": ["edge_miou >= 0.01"]}, "search.constraints"),
    ],
)
def test_where_nothing_can_be_learned_the_points_are_tried_all_the_same(
    tiny: dict[str, Any], siblings: Fill, tmp_path: Path, search: dict[str, Any], why: str
) -> None:
    memory = tmp_path / "memory"
    siblings(memory, 0.1)
    engine = run(config_of(tiny, memory=str(memory), **search), tmp_path / "new")
    assert len(points(engine, "memory")) == FIRST
    assert engine.notes[-1] == f"memory: nothing else is learned from it with {why}"
    assert not [event for event in read_events(tmp_path / "new") if event["event"] == "warm_start"]
    assert replay(tmp_path / "new", fixed=()) == (16, [])


def test_the_model_takes_what_others_expect_of_a_point_for_one_of_its_coordinates(
    tiny: dict[str, Any], siblings: Fill, tmp_path: Path
) -> None:
    memory = tmp_path / "memory"
    siblings(memory, 0.1)
    model = {"sampler": {"name": "model"}, "scheduler": {"name": "none"}}
    engine = run(config_of(tiny, memory=str(memory), **model), tmp_path / "new")
    (decision,) = (event for event in read_events(tmp_path / "new") if event["event"] == "warm_start")
    assert decision["trials"] and engine.learned is not None
    assert engine.learned.models[0].encoding.width == len(engine.config.space) + 1
    assert replay(tmp_path / "new", fixed=()) == (16, [])
    again = Engine(engine.config, tmp_path / "new", "t", fixed=())
    assert again.learned is not None
    numbers = list(range(16))
    np.testing.assert_array_equal(*(e.learned.models[0].estimate(numbers).mean for e in (engine, again)))


def test_a_hint_that_is_true_makes_predictions_better_and_one_that_is_noise_is_passed_over(
    tiny: dict[str, Any],
) -> None:
    space = config_of({**tiny, "space": {"loss.edge_weight": {"float": [0, 10]}}}).space
    random = np.random.default_rng(0)

    def truth(points: Any) -> Any:
        return np.array([0.5 * math.sin(3 * point["loss.edge_weight"]) for point in points])

    def noise(points: Any) -> Any:
        return np.array([math.sin(1e5 * point["loss.edge_weight"]) / 2 for point in points])

    told, asked = ([{"loss.edge_weight": x} for x in random.uniform(0, 10, n)] for n in (14, 200))
    errors = {}
    for name, hint in (("none", None), ("truth", truth), ("noise", noise)):
        model = Model(space)
        if hint is not None:
            model.take_hint(hint)
        for number, (point, value) in enumerate(zip(told, truth(told), strict=True)):
            model.asked(number, point)
            model.ended(number, 0.3 + 0.02 * float(value))
        errors[name] = float(np.std(model.predict(asked).mean - 0.02 * truth(asked)))
    assert errors["truth"] < 0.3 * errors["none"] and errors["noise"] < 1.3 * errors["none"]


def test_a_search_that_goes_on_replaces_its_table(tiny: dict[str, Any], tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    folder = remember(config_of(tiny, 6), memory)
    (before,) = memory.iterdir()
    engine = Engine(experiment.read_config(folder), folder, "t", fixed=())
    engine.request({"changes": {"search.trials": [6, 9]}})
    engine.recorder.close()
    run(engine.config, folder)
    leave(folder, Memory(memory))
    assert list(memory.iterdir()) == [before]
    assert pq.read_metadata(before).num_rows == 9


def test_a_table_is_typed_and_says_what_the_search_was_without_any_path(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["data"] |= {"root": "/home/someone/data", "views_dir": "/scratch/someone/views"}
    tiny["student"]["weights"] = "/home/someone/student.safetensors"
    tiny["space"]["student.encoder"] = {"choice": ["mobilenetv3_small_050", "mobilenetv3_small_075"]}
    memory = tmp_path / "memory"
    folder = remember(config_of(tiny, 8, memory=f"{memory.as_uri()}?secret=1"), memory)
    (file,) = memory.iterdir()
    table = pq.read_table(file)
    assert table.schema.metadata[b"bpkd_search.table"] == b"memory"
    expected = {"number": "int64", "miou": "double", "loss.edge_weight": "double", "loss.edge_width": "int64"}
    assert {name: str(table.schema.field(name).type) for name in expected} == expected
    written = json.dumps(table.to_pylist()) + str(table.schema.metadata)
    assert "someone" not in written and "secret" not in written and str(tmp_path) not in written
    about = json.loads(table.schema.metadata[b"bpkd_search.search"])
    assert about["goals"] == {"miou": "max"} and about["space"].keys() == tiny["space"].keys()
    rows = Leaderboard(folder).trials().sort_values("number")
    assert table["miou"].to_pylist() == rows["miou"].tolist()
    assert table["student.encoder"].to_pylist() == rows["student.encoder"].tolist()


def test_a_memory_at_a_url_is_the_same(tiny: dict[str, Any], siblings: Fill, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    siblings(memory, 0.1)
    by_path, by_url = (offer_of(config_of(tiny, memory=where)) for where in (str(memory), memory.as_uri()))
    assert by_url.sources == by_path.sources and by_url.first == by_path.first


def test_a_memory_that_does_not_exist_is_empty(tiny: dict[str, Any], tmp_path: Path) -> None:
    offer = offer_of(config_of(tiny, memory=str(tmp_path / "none")))
    assert offer == ({}, [], [], [f"memory: {tmp_path / 'none'}: 0 searches, of which 0 have trials in this space"])


def test_what_cannot_be_used_is_a_sentence_each(tiny: dict[str, Any], tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    remember(config_of(tiny, 6), memory)
    (whole,) = memory.iterdir()
    content = whole.read_bytes()
    table = pq.read_table(whole)
    (memory / "cut.parquet").write_bytes(content[: len(content) // 2])
    pq.write_table(table.drop_columns(["loss.edge_weight"]), memory / "less.parquet")
    pq.write_table(pa.table({"a": [1]}), memory / "none.parquet")
    (memory / "notes.txt").write_text("no table")
    with pytest.raises(ExperimentError) as caught:
        offer_of(config_of(tiny, metric="edge_miou", memory=str(memory)))
    assert caught.value.exit_code == 2
    cut, less, none, metric = sorted(str(caught.value).splitlines(), key=lambda line: line.split("/")[-1])
    assert cut.startswith(f"{memory}/cut.parquet: cannot be read: ")
    assert less == f"{memory}/less.parquet: has no column loss.edge_weight, which its search had"
    assert none == f"{memory}/none.parquet: is not the table of a search; move it elsewhere"
    assert metric == (
        f"{memory}/{whole.name}: is a search for miou (max), tiny is for edge_miou (max); a memory is for one metric,"
        " choose another"
    )


def test_a_search_without_a_full_trial_leaves_nothing(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny)
    experiment.create(tmp_path / "e", config)
    engine = Engine(config, tmp_path / "e", "t", fixed=())
    engine.ask()
    engine.recorder.close()
    with pytest.raises(ExperimentError, match="no trial has run in full"):
        leave(tmp_path / "e", Memory(tmp_path / "memory"))
    assert not (tmp_path / "memory").exists()
