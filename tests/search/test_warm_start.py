"""Other searches as sources: judged by the first own trials, taken as ranks or dropped, the same after a restart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bpkd_search import Leaderboard
from bpkd_search.config import SearchConfig
from bpkd_search.errors import ConfigError
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.recorder import Recorder
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.backends import CurveBackend
from bpkd_search.search.engine import Engine, parameter_kinds
from bpkd_search.search.replay import replay
from bpkd_search.search.simulate import simulate_search
from bpkd_search.search.warm_start import find_sources
from tests.driving import drive
from tests.other_searches import Died, config_of, finish, run, story

Report = dict[str, Any]


def source(tiny: dict[str, Any], folder: Path, factor: float = 0.1, **search: Any) -> str:
    """A finished search of 20 trials."""
    return str(finish(config_of(tiny, 20, seed=7, **search), folder, factor))


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(folder) if event["event"] == kind]


def learned(engine: Engine) -> dict[str, list[float]]:
    return {t.user_attrs["warm_start"]: t.values for t in engine.study.study.trials if "warm_start" in t.user_attrs}


def test_a_source_that_agrees_is_used_as_ranks_within_the_own_scores(tiny: dict[str, Any], tmp_path: Path) -> None:
    old = source(tiny, tmp_path / "old")
    engine = run(config_of(tiny, warm_start=[old]), tmp_path / "new")
    (decision,) = events(tmp_path / "new", "warm_start")
    assert decision["agreement"][old] > 0.8
    assert engine.notes[0] == f"warm start: 20 trials of {old}"
    judged = [
        e["number"] for e in read_events(tmp_path / "new") if e["event"] == "end" and e["time"] <= decision["time"]
    ]
    assert engine.notes[1:] == [
        f"warm start: {old} orders {decision['agreement'][old]:.0%} of the pairs of {len(judged)} own trials as they"
        " came out: its 20 trials are used, as ranks"
    ]
    values = learned(engine)
    assert len(values) == 20
    own = [engine.trials[n].last()["miou"] for n in judged if engine.states[n] == "COMPLETE"]
    assert min(v for (v,) in values.values()) == min(own) and max(v for (v,) in values.values()) == max(own)
    # The source's own order stays, trials that it stopped early last.
    table = Leaderboard(old).trials()
    scores = [values[f"{old}/{number}"][0] for number in table["number"]]
    full = (table["state"] == "COMPLETE").sum()
    assert scores[:full] == sorted(scores[:full], reverse=True)
    assert max(scores[full:]) < min(scores[:full])


def test_a_source_that_disagrees_is_dropped_and_leaves_no_trace(tiny: dict[str, Any], tmp_path: Path) -> None:
    bad = source(tiny, tmp_path / "bad", factor=-0.1)
    good = source(tiny, tmp_path / "good")
    cold = run(config_of(tiny), tmp_path / "cold")
    warm = run(config_of(tiny, warm_start=[bad]), tmp_path / "warm")
    (decision,) = events(tmp_path / "warm", "warm_start")
    assert decision["trials"] == [] and decision["agreement"][bad] < 0.4
    assert warm.notes[-1].startswith(f"warm start: {bad} orders ") and warm.notes[-1].endswith("%: it is dropped")
    assert story(warm) == story(cold)
    both = run(config_of(tiny, warm_start=[bad, good]), tmp_path / "both")
    assert {name.rpartition("/")[0] for name in learned(both)} == {good}


@pytest.mark.parametrize("factor", [0.1, -0.1])
def test_killed_around_the_decision_it_ends_as_if_undisturbed(
    tiny: dict[str, Any], tmp_path: Path, factor: float
) -> None:
    config = config_of(tiny, warm_start=[source(tiny, tmp_path / "old", factor)])
    whole = run(config, tmp_path / "whole")
    shutil.rmtree(tmp_path / "old")  # a source is only needed once
    lines = (tmp_path / "whole" / "events.jsonl").read_bytes().splitlines(keepends=True)
    kinds = [json.loads(line)["event"] for line in lines]
    decided = kinds.index("warm_start")
    for cut in (kinds.index("sources") + 1, decided, decided + 1):
        folder = tmp_path / str(cut)
        shutil.copytree(tmp_path / "whole", folder)
        (folder / "events.jsonl").write_bytes(b"".join(lines[:cut]))
        resumed = run(config, folder)
        assert story(resumed) == story(whole)
        assert learned(resumed) == learned(whole)
        assert replay(folder, fixed=()) == (16, [])


@pytest.mark.parametrize("factor", [0.1, -0.1])
def test_with_many_slots_and_kills_it_replays_exactly(tiny: dict[str, Any], tmp_path: Path, factor: float) -> None:
    config = config_of(tiny, 24, warm_start=[source(tiny, tmp_path / "old", factor)])
    for moment in (15, 12, 9):
        seen = 0

        def listen(event: str, trial: Trial, moment: int = moment) -> None:
            nonlocal seen
            seen += event == "report"
            if seen == moment:
                raise Died

        with pytest.raises(Died):
            run(config, tmp_path / "new", slots=5, listen=listen)
    engine = run(config, tmp_path / "new", slots=5)
    assert engine.done and len(events(tmp_path / "new", "warm_start")) == 1
    assert replay(tmp_path / "new", fixed=()) == (24, [])


def test_replay_says_where_a_decision_differs(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny, warm_start=[source(tiny, tmp_path / "old")])
    run(config, tmp_path / "new")
    log = tmp_path / "new" / "events.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (decision,) = (event for event in lines if event["event"] == "warm_start")
    decision["trials"].pop()
    log.write_text("".join(json.dumps(event) + "\n" for event in lines))
    assert replay(tmp_path / "new", fixed=()) == (
        16, ["warm start: 19 trials were used, 20 are now, or with other values"]
    )  # fmt: skip


def test_older_searches_keep_the_trials_that_they_took_as_they_were(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny)
    experiment.create(tmp_path / "e", config)
    taken = [
        {"source": f"old/{n}", "point": {"loss.edge_weight": 0.1 * (n + 1), "loss.edge_width": 3}, "values": [7.0 + n]}
        for n in range(5)
    ]
    recorder = Recorder(tmp_path / "e", config.name, parameter_kinds(config), "t")
    recorder.record("warm_start", -1, trials=taken)
    recorder.close()
    engine = run(config, tmp_path / "e", slots=2)
    assert learned(engine) == {trial["source"]: trial["values"] for trial in taken}
    assert [t.user_attrs.get("warm_start") for t in engine.study.study.trials][:5] == [t["source"] for t in taken]
    assert replay(tmp_path / "e", fixed=()) == (16, [])


def test_several_objectives_must_all_agree_each_in_its_direction(tiny: dict[str, Any], tmp_path: Path) -> None:
    goals = {"miou": "max", "gpu_seconds": "min"}
    tiny["space"] = {"loss.edge_weight": {"float": [0.05, 50], "log": True}}

    class Costs(CurveBackend):
        """Time falls with the weight (`sign` 1), or rises with it."""

        def __init__(self, config: SearchConfig, sign: int) -> None:
            super().__init__(config, noise=0.0)
            self.sign = sign

        def report(self, trial: Trial, epoch: int) -> Report:
            seconds = epoch * (40 - self.sign * trial.run.loss.edge_weight / 2)  # type: ignore[union-attr]
            return super().report(trial, epoch) | {"gpu_seconds": seconds}

    old = config_of(tiny, 20, seed=7, objectives=goals)
    for name, sign in (("alike", 1), ("other", -1)):
        experiment.create(tmp_path / name, old)
        simulate_search(old, Costs(old, sign), slots=3, directory=tmp_path / name)
    names = [str(tmp_path / name) for name in ("alike", "other")]
    config = config_of(tiny, objectives=goals, warm_start=names)
    experiment.create(tmp_path / "new", config)
    engine = simulate_search(config, Costs(config, 1), slots=1, directory=tmp_path / "new").engine
    (decision,) = events(tmp_path / "new", "warm_start")
    assert decision["agreement"][names[0]] > 0.7 > 0.4 > decision["agreement"][names[1]]
    values = learned(engine)
    assert {name.rpartition("/")[0] for name in values} == {names[0]}
    table = Leaderboard(names[0]).trials()
    full = table[table["state"] == "COMPLETE"].sort_values("gpu_seconds")  # the fastest first
    times = [values[f"{names[0]}/{number}"][1] for number in full["number"]]
    assert times == sorted(times) and times[0] < times[-1]
    best = table[table["state"] == "COMPLETE"].sort_values("miou")
    scores = [values[f"{names[0]}/{number}"][0] for number in best["number"]]
    assert scores == sorted(scores) and 0 < scores[0] < scores[-1] < 1


def test_trials_that_do_not_fit_are_counted_and_left_out(tiny: dict[str, Any], tmp_path: Path) -> None:
    old = source(tiny, tmp_path / "old")
    tiny["space"] |= {"loss.edge_weight": {"float": [0.5, 50], "log": True}}
    config = config_of(tiny, warm_start=[old])
    fits = [w for w in Leaderboard(old).trials()["loss.edge_weight"] if 0.5 <= w <= 50]
    sources, notes = find_sources(config)
    assert sorted(trial["point"]["loss.edge_weight"] for trial in sources[old]) == sorted(fits)
    assert notes == [
        f"warm start: {len(fits)} trials of {old}",
        f"warm start: {20 - len(fits)} trials of {old} left out: they lie outside the space",
    ]


def test_sources_of_one_name_in_two_folders_are_two(tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    names = [source(tiny, tmp_path / which / "old") for which in "ab"]
    engine = run(config_of(tiny, warm_start=names), tmp_path / "new")
    assert len(learned(engine)) == 40


@pytest.mark.parametrize(
    ("space", "search", "said"),
    [
        ({"train.lr": {"float": [0.01, 0.1]}}, {}, "old searched loss.edge_weight, loss.edge_width, must share"),
        (None, {"constraints": ["parameters <= 9"]}, "must be empty with search.constraints"),
        (None, {"sampler": {"name": "random"}}, "must be empty with sampler random; valid: tpe, gp, model"),
    ],
)
def test_what_no_source_can_help_is_an_error(
    tiny: dict[str, Any], tmp_path: Path, space: dict[str, Any] | None, search: dict[str, Any], said: str
) -> None:
    old = source(tiny, tmp_path / "old")
    tiny["space"] = space or tiny["space"]
    config = config_of(tiny, warm_start=[old], **search)
    experiment.create(tmp_path / "new", config)
    with pytest.raises(ConfigError, match=r"search\.warm_start") as caught:
        Engine(config, tmp_path / "new", "t")
    assert said in str(caught.value) and caught.value.exit_code == 2


def test_a_source_without_the_metric_is_said(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny, 20, seed=7)
    experiment.create(tmp_path / "old", config)
    engine = Engine(config, tmp_path / "old", "t", fixed=())
    drive(engine)  # whose reports hold no boundary_iou
    engine.recorder.close()
    sources, notes = find_sources(config_of(tiny, metric="boundary_iou", warm_start=[str(tmp_path / "old")]))
    assert sources == {}
    assert notes[-1] == f"warm start: 20 trials of {tmp_path / 'old'} left out: they have no boundary_iou"
