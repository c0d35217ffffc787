"""What requests do to a search, without Ray: running, finished, restored and replayed."""

from __future__ import annotations

import itertools
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from bpkd_search import Leaderboard
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import load_search, parse
from bpkd_search.errors import ConfigError, ExperimentError
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.requests import keep_changes
from bpkd_search.search.backends import CurveBackend
from bpkd_search.search.engine import Engine
from bpkd_search.search.replay import replay
from bpkd_search.search.requests import (
    Change,
    Enqueue,
    Pause,
    Request,
    Retry,
    Stop,
    answer,
    effect,
    read_point,
    states_of,
    states_of_engine,
)
from bpkd_search.search.requests import parse as parse_request
from bpkd_search.search.simulate import simulate_search
from tests.driving import drive, report_of


def config_of(tiny: dict[str, Any], trials: int = 6, **search: Any) -> SearchConfig:
    tree = deepcopy(tiny)
    tree["search"] |= {"trials": trials, **search}
    return parse(SearchConfig, tree, "test")


def start(folder: Path, config: SearchConfig) -> Engine:
    if not (folder / "config.yaml").exists():
        experiment.create(folder, config)
    return Engine(experiment.read_config(folder), folder, "test")


def make(engine: Engine, folder: Path, request: Request) -> str:
    """What the driver does with a request."""
    event = effect(request, engine.config, states_of_engine(engine), engine.plan.tried, engine.plan.requested)
    said = answer(event, engine)
    engine.request({"id": "some", "request": request.model_dump(mode="json"), "answer": said, **event})
    keep_changes(folder, event.get("changes", {}))
    return said


def points(engine: Engine) -> list[Any]:
    return [trial.run.model_dump(mode="json") for trial in engine.trials.values()]


def restored(folder: Path) -> Engine:
    """An engine that another process opens on the same folder."""
    engine = Engine(experiment.read_config(folder), folder, "test")
    engine.recorder.close()
    return engine


def reports_of(engine: Engine) -> dict[int, Any]:
    added = ("event", "number", "time")
    return {
        number: {epoch: {k: v for k, v in report.items() if k not in added} for epoch, report in trial.reports.items()}
        for number, trial in engine.trials.items()
    }


def told(engine: Engine) -> list[Any]:
    """What the study of an engine knows."""
    return [(t.user_attrs.get("number"), t.state, t.params, t.values) for t in engine.study.study.trials]


def same(left: Engine, right: Engine) -> None:
    """Two engines are in the same state, and so are their studies."""
    assert points(left) == points(right) and left.states == right.states and list(left.states) == list(right.states)
    assert left.config == right.config and left.total == right.total
    assert reports_of(left) == reports_of(right)
    assert told(left) == told(right)


# More trials


def test_more_trials_of_a_finished_search_are_those_of_a_longer_one(tmp_path: Path) -> None:
    """The quickstart: 18 trials and then 20 more are the 38 of one search, in simulated time."""
    short, long = (load_search("quickstart", [f"search.trials={trials}"]) for trials in (18, 38))
    backend = CurveBackend(long)
    whole = simulate_search(long, backend, slots=1).engine
    experiment.create(tmp_path / "e", short)
    first = simulate_search(short, backend, slots=1, directory=tmp_path / "e").engine
    assert first.done and len(first.trials) == 18
    again = Engine(experiment.read_config(tmp_path / "e"), tmp_path / "e", "test", fixed=())
    assert make(again, tmp_path / "e", Change(more_trials=20)) == "search.trials: was 18, is 38"
    again.recorder.close()
    second = simulate_search(experiment.read_config(tmp_path / "e"), backend, slots=1, directory=tmp_path / "e").engine
    assert points(second) == points(whole) and len(points(whole)) == 38
    assert second.states == whole.states and second.done
    assert replay(tmp_path / "e", fixed=()) == (38, [])


def test_more_trials_while_the_search_runs_are_those_of_a_longer_one(tiny: dict[str, Any], tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", config_of(tiny, 10))
    drive(whole)
    engine = start(tmp_path / "e", config_of(tiny, 4))
    drive(engine, stop_after=20)
    running = [number for number in engine.trials if number not in engine.states]
    assert running and len(engine.trials) < engine.total == 8
    engine.recorder.close()
    engine = start(tmp_path / "e", config_of(tiny, 4))  # as a test of the loop alone, its own trials come back first
    make(engine, tmp_path / "e", Change(settings=("search.trials=10",)))
    drive(engine)
    engine.recorder.close()
    assert len(engine.trials) == 14 and engine.done
    assert points(engine)[:4] == points(whole)[:4]
    same(engine, restored(tmp_path / "e"))
    assert replay(tmp_path / "e") == (14, [])


def test_fewer_trials_end_a_search_and_a_spent_budget_is_raised(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 10, budget={"gpu_hours": 40 / 3600}))
    drive(engine)
    count = len(engine.trials)
    assert engine.closed is not None and engine.done and count < 14
    said = make(engine, tmp_path / "e", Change(settings=("search.budget.gpu_hours=100", "search.trials=7")))
    assert said == f"search.trials: was 10, is 7; search.budget.gpu_hours: was {40 / 3600}, is 100.0"
    drive(engine)
    engine.recorder.close()
    assert len(engine.trials) == 11 and engine.done
    same(engine, restored(tmp_path / "e"))
    assert replay(tmp_path / "e") == (11, [])


def test_a_configuration_edited_by_hand_later_counts(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 2))
    make(engine, tmp_path / "e", Change(more_trials=2))
    engine.recorder.close()
    file = tmp_path / "e" / "config.yaml"
    file.write_text(file.read_text().replace("trials: 4", "trials: 9"))
    assert restored(tmp_path / "e").total == 13


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.lr=0.1"], "train.lr: cannot change in a search that has begun; valid: search.trials, search.budget,"),
        (["search.seed=7"], "search.seed: cannot change in a search that has begun"),
        (["enqueue=[{loss.edge_weight: 1}]"], "enqueue: cannot change in a search that has begun"),
        (["search.trials=0"], "search.trials: got 0, must be"),
        (["search.trails=9"], "search.trails: unknown key; did you mean trials?"),
        (["search.trials"], "--set search.trials: must be KEY.SUBKEY=VALUE"),
        (["space.loss.edge_width={float: [3, 7]}"], "space.loss.edge_width: was {'int': [3, 7]"),
        (["space.loss.edge_weight={choice: [0.1, 1.0]}"], "space.loss.edge_weight: was {'float': [0.05, 50.0]"),
        (["space.loss.body_weight={float: [1, 2]}"], "space.loss.body_weight: is no parameter of this search; start"),
        (["space={loss.edge_weight: {float: [1, 2]}}"], "space.loss.edge_width: cannot be removed; start a new"),
        (["train={}"], "train.epochs: cannot change in a search that has begun"),
        (["search={trials: 9}"], "search.scheduler.grace: cannot change in a search that has begun"),
        (["search.concurrent=0"], "search.concurrent: got 0"),
        (["search.budget.hours=-1"], "search.budget.hours: got -1"),
        (["space.loss.edge_weight.float=[9, 2]"], "low must not exceed high"),
        (["space.loss.edge_width.int=[4, 8]"], "must be an odd integer from 3 to 63"),
    ],
)
def test_what_may_not_change_is_refused_by_name(tiny: dict[str, Any], settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        effect(Change(settings=tuple(settings)), config_of(tiny), {})
    assert said in str(caught.value)


def test_so_many_more_and_so_many_in_all_are_not_both_given(tiny: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"--set search.trials=9: is given beside 2 more trials; one of the two"):
        effect(Change(settings=("search.trials=9",), more_trials=2), config_of(tiny), {})


# Another space


@pytest.mark.parametrize("moment", [None, 30])
def test_a_narrowed_space_keeps_what_lies_in_it(tiny: dict[str, Any], tmp_path: Path, moment: int | None) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 12))
    drive(engine, stop_after=moment)
    before = len(engine.trials)
    said = make(engine, tmp_path / "e", Change(settings=("space.loss.edge_weight.float=[0.5, 5]", "search.trials=16")))
    inside = [
        n for n, t in engine.trials.items()
        if (t.origin == "sampled" or t.method == "bpkd-paper") and 0.5 <= t.run.loss.edge_weight <= 5
    ]  # fmt: skip
    known = before - 3  # ce, kd and cwd have no point in the space
    assert 0 < len(inside) < known
    assert said.startswith(
        "search.trials: was 12, is 16; space.loss.edge_weight.float: was [0.05, 50.0], is [0.5, 5.0]; of "
    )
    assert said.endswith(
        f"of {known} trials that the sampler knew it goes on with the {len(inside)} that lie in the new space;"
        " all keep their results"
    )
    assert sorted(number for number, *_ in told(engine)) == inside
    assert (tmp_path / "e" / "study.journal.old-1").is_file()
    engine.recorder.close()
    engine = start(tmp_path / "e", engine.config)  # ends what has had its last report
    same(engine, restored(tmp_path / "e"))
    drive(engine)
    engine.recorder.close()
    new = [t for n, t in engine.trials.items() if n >= before]
    assert len(engine.trials) == 20 and all(0.5 <= t.run.loss.edge_weight <= 5 for t in new)
    assert len(Leaderboard(tmp_path / "e").trials()) == 20
    same(engine, restored(tmp_path / "e"))
    assert replay(tmp_path / "e") == (20, [])
    # Without the journal, the log alone gives the same study. An engine that is open cannot read a new journal.
    expected = told(engine)
    (tmp_path / "e" / "study.journal").unlink()
    assert told(restored(tmp_path / "e")) == expected


def test_a_widened_choice_goes_on(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Optuna refuses a study whose choices change."""
    tiny["space"]["loss.edge_width"] = {"choice": [3, 5]}
    engine = start(tmp_path / "e", config_of(tiny, 5))
    drive(engine)
    make(engine, tmp_path / "e", Change(settings=("space.loss.edge_width.choice=[3, 5, 9]",), more_trials=12))
    drive(engine)
    engine.recorder.close()
    assert {t.run.loss.edge_width for n, t in engine.trials.items() if n > 8} == {3, 5, 9}
    same(engine, restored(tmp_path / "e"))
    assert replay(tmp_path / "e") == (21, [])


def test_points_that_are_still_to_be_tried_must_lie_in_a_new_space(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["enqueue"] = [{"loss.edge_weight": 20.0}, {"loss.edge_weight": 30.0}]
    engine = start(tmp_path / "e", config_of(tiny))
    narrow = Change(settings=("space.loss.edge_weight.float=[0.05, 25]",))
    with pytest.raises(ConfigError, match=r"enqueue.1.loss.edge_weight: got 30.0, must be a number from 0.05 to 25.0"):
        make(engine, tmp_path / "e", narrow)
    for _ in range(6):
        engine.ask()
    make(engine, tmp_path / "e", narrow)
    assert engine.config.enqueue[1] == {"loss.edge_weight": 30.0}
    engine.recorder.close()


def test_a_space_in_which_no_old_trial_lies_begins_anew(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["search"]["sampler"] = {"name": "tpe", "startup": 2}
    engine = start(tmp_path / "e", config_of(tiny, 6))
    drive(engine)
    weights = [t.run.loss.edge_weight for t in engine.trials.values() if t.origin == "sampled"] + [50.0]
    low, high = next((a, b) for a, b in itertools.pairwise(sorted(weights)) if b > 1.2 * a)
    inside = f"space.loss.edge_weight.float=[{low * 1.05}, {high / 1.05}]"
    said = make(engine, tmp_path / "e", Change(settings=(inside,), more_trials=4))
    assert said.endswith("it goes on with the 0 that lie in the new space; all keep their results")
    assert engine.study.study.trials == []
    drive(engine)
    engine.recorder.close()
    new = [t for n, t in engine.trials.items() if n >= 10]
    assert len(new) == 4 and all(low * 1.05 <= t.run.loss.edge_weight <= high / 1.05 for t in new)
    same(engine, restored(tmp_path / "e"))
    assert replay(tmp_path / "e") == (14, [])


def test_a_point_that_waits_must_lie_in_a_new_space(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny))
    make(engine, tmp_path / "e", Enqueue(point={"loss.edge_weight": 30.0}))
    narrow = Change(settings=("space.loss.edge_weight.float=[0.05, 25]",))
    with pytest.raises(ConfigError, match=r"a point that waits: loss.edge_weight: got 30.0, must be a number"):
        make(engine, tmp_path / "e", narrow)
    while engine.plan.requested:
        engine.ask()
    make(engine, tmp_path / "e", narrow)
    drive(engine)
    engine.recorder.close()
    assert replay(tmp_path / "e") == (11, [])


# Points, stops, retries, a pause


def test_a_point_that_is_asked_for_twice_runs_twice_with_other_seeds(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 2))
    for _ in range(2):
        make(engine, tmp_path / "e", Enqueue(point={"loss.edge_weight": 0.3, "loss.edge_width": 5}))
    drive(engine)
    engine.recorder.close()
    pair = [trial.run for trial in engine.trials.values() if trial.origin == "enqueued"]
    assert [run.train.seed for run in pair] == [0, 1]
    assert pair[0].loss == pair[1].loss and len(engine.trials) == 8
    assert replay(tmp_path / "e") == (8, [])


def test_a_trial_that_the_scheduler_stopped_runs_again_to_its_end(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Its reports would be the same, so that the scheduler would only stop it again."""
    engine = start(tmp_path / "e", config_of(tiny, 9))
    drive(engine)
    number = next(n for n, state in engine.states.items() if state == "PRUNED")
    make(engine, tmp_path / "e", Retry(trials=(number,)))
    drive(engine)
    engine.recorder.close()
    assert engine.states[number] == "COMPLETE" and engine.trials[number].epoch == 4
    same(engine, restored(tmp_path / "e"))
    assert replay(tmp_path / "e") == (13, [])


def test_a_baseline_that_is_stopped_leaves_the_others_to_be_judged(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 4, constraints=["miou >= baseline"]))
    for _ in range(2):
        engine.ask()
    make(engine, tmp_path / "e", Stop(trials=(0, 1)))
    for number in (0, 1):
        engine.end(number)
    drive(engine)
    engine.recorder.close()
    assert [engine.states[n] for n in range(4)] == ["PRUNED", "PRUNED", "COMPLETE", "COMPLETE"]
    assert all(trial.state.is_finished() for trial in engine.study.study.trials)
    assert Leaderboard(tmp_path / "e").best(1)["miou"].iloc[0] > 0
    assert replay(tmp_path / "e") == (8, [])


def test_a_point_comes_next_and_beside_the_others(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["enqueue"] = [{"loss.edge_weight": 1.0}]
    engine = start(tmp_path / "e", config_of(tiny, 3))
    make(engine, tmp_path / "e", Enqueue(point={"loss.edge_weight": 0.3}))
    drive(engine)
    assert len(engine.trials) == 8 and engine.done
    assert [engine.trials[n].run.loss.edge_weight for n in (4, 5)] == [0.3, 1.0]
    # The search has ended, and the same point comes again as a replicate.
    make(engine, tmp_path / "e", Enqueue(point={"loss.edge_weight": 0.3, "loss.edge_width": 3}))
    assert not engine.done
    engine.recorder.close()
    engine = start(tmp_path / "e", engine.config)
    drive(engine)
    engine.recorder.close()
    last = engine.trials[8]
    assert len(engine.trials) == 9 and last.origin == "enqueued" and last.run.train.seed == 1
    assert [t.origin for t in engine.trials.values()] == ["baseline"] * 4 + ["enqueued"] * 2 + ["sampled"] * 2 + [
        "enqueued"
    ]
    same(engine, restored(tmp_path / "e"))
    assert replay(tmp_path / "e") == (9, [])


def test_a_point_is_tried_although_the_budget_is_spent(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 9, budget={"gpu_hours": 1e-6}))
    drive(engine)
    assert len(engine.trials) == 4 and engine.done
    make(engine, tmp_path / "e", Enqueue(point={"loss.edge_weight": 0.3}))
    drive(engine)
    engine.recorder.close()
    assert len(engine.trials) == 5 and engine.done
    assert replay(tmp_path / "e") == (5, [])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["loss.edge_weight=900"], "loss.edge_weight: got 900, must be a number from 0.05 to 50.0, as in the space"),
        (["loss.edge_widht=3"], "loss.edge_widht: is no parameter of the space; valid: loss.edge_weight, loss.edge_w"),
        (["loss.edge_width=4"], "loss.edge_width: got 4, must be a whole number from 3 to 7 in steps of 2"),
        (["loss.edge_weight"], "got 'loss.edge_weight', must be PARAMETER=VALUE, as in loss.edge_weight=0.3"),
        (["loss.edge_weight=1", "loss.edge_weight=2"], "loss.edge_weight: is given twice; another point is another"),
        (["loss.edge_weight=["], "loss.edge_weight: is not valid YAML"),
    ],
)
def test_a_point_that_cannot_be_is_refused(tiny: dict[str, Any], given: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        effect(Enqueue(point=read_point(given)), config_of(tiny), {})
    assert str(caught.value).startswith("enqueue: 1 error(s)\n  ") and said in str(caught.value)


@pytest.mark.parametrize("reports", [0, 2])
def test_a_stopped_trial_is_stopped_early_everywhere(tiny: dict[str, Any], tmp_path: Path, reports: int) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 2, scheduler={"name": "none"}))
    drive(engine, slots=1, stop_after=16)
    engine.end(3)
    trial = engine.ask()
    assert trial is not None and trial.number == 4
    for epoch in range(1, reports + 1):
        assert engine.report(4, report_of(trial, epoch, 0.2))
    assert make(engine, tmp_path / "e", Stop(trials=(4,))) == "trial 4 will be stopped"
    engine.end(4)  # as its end comes from Ray
    assert engine.states[4] == "PRUNED"
    drive(engine)
    engine.recorder.close()
    row = Leaderboard(tmp_path / "e").trials().set_index("number").loc[4]
    assert (row["state"], row["epochs"], row["message"]) == ("PRUNED", reports, "stopped by request")
    same(engine, restored(tmp_path / "e"))
    assert replay(tmp_path / "e") == (6, [])


def test_a_trial_that_waits_to_go_on_is_stopped_at_once(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 2))
    drive(engine, slots=2, stop_after=3)
    engine.recorder.close()
    engine = start(tmp_path / "e", engine.config)
    make(engine, tmp_path / "e", Stop(trials=(1,)))
    assert engine.states == {1: "PRUNED"}
    drive(engine)
    engine.recorder.close()
    assert len(engine.states) == 6
    assert replay(tmp_path / "e") == (6, [])


@pytest.mark.parametrize("reason", ["nan", "error"])
def test_a_failed_trial_runs_again_under_its_number(tiny: dict[str, Any], tmp_path: Path, reason: str) -> None:
    """A baseline and a sampled trial; the study has been told of a failure, or of a result worse than all others."""
    engine = start(tmp_path / "e", config_of(tiny, 4, constraints=["miou >= baseline"]))
    for number in range(6):
        trial = engine.ask()
        assert trial is not None
        for epoch in range(1, 5):
            if number in (1, 5) and epoch == 3:
                engine.end(number, (reason, "out of luck"))
                break
            engine.report(number, report_of(trial, epoch, 0.3 + 0.01 * number))
        engine.end(number)
    drive(engine)
    assert engine.done and list(engine.states.values()).count("FAILED") == 2
    spent = engine.gpu_seconds
    said = make(engine, tmp_path / "e", Retry())
    assert said == "trials 1, 5 will run again, from the beginning" and not engine.done
    engine.recorder.flush()
    row = Leaderboard(tmp_path / "e").trials().set_index("number").loc[5]
    assert (row["state"], row["epochs"], row["retries"]) == ("RUNNING", 0, 1) and row[["miou", "ended"]].isna().all()
    assert engine.gpu_seconds == spent  # of the failed attempts too
    engine.recorder.close()
    same(engine, restored(tmp_path / "e"))
    engine = start(tmp_path / "e", engine.config)
    assert [trial.number for trial in (engine.ask(), engine.ask()) if trial] == [1, 5]
    for number in (1, 5):
        for epoch in range(1, 5):
            engine.report(number, report_of(engine.trials[number], epoch, 0.3 + 0.01 * number))
        engine.end(number)
    assert engine.done and set(engine.states.values()) <= {"COMPLETE", "PRUNED"}
    engine.recorder.close()
    row = Leaderboard(tmp_path / "e").trials().set_index("number").loc[5]
    assert (row["state"], row["epochs"], row["message"]) == ("COMPLETE", 4, "out of luck")
    reports = Leaderboard(tmp_path / "e").reports()
    assert reports[reports["number"] == 5]["epoch"].tolist() == [1, 2, 3, 4]
    same(engine, restored(tmp_path / "e"))
    assert replay(tmp_path / "e") == (8, [])
    expected = told(engine)
    (tmp_path / "e" / "study.journal").unlink()
    assert told(restored(tmp_path / "e")) == expected


def test_a_pause_starts_no_trial_and_the_next_session_goes_on(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 3))
    first, second = engine.ask(), engine.ask()
    assert first is not None and second is not None
    said = make(engine, tmp_path / "e", Pause())
    assert said == "no trial is started any more; the search stops when the 2 running ones have ended"
    assert engine.ask() is None
    engine.lost(1, "process", "was killed")
    assert engine.ask() is second  # it has begun, and comes to its end
    for trial in (first, second):
        for epoch in range(1, 5):
            engine.report(trial.number, report_of(trial, epoch, 0.3))
        engine.end(trial.number)
    assert engine.ask() is None and not engine.done and len(engine.states) == 2
    engine.recorder.close()
    engine = start(tmp_path / "e", engine.config)
    drive(engine)
    engine.recorder.close()
    assert engine.done and len(engine.trials) == 7
    assert replay(tmp_path / "e") == (7, [])


@pytest.mark.parametrize("pause_first", [True, False])
def test_a_trial_that_is_to_run_again_waits_while_the_search_is_paused(
    tiny: dict[str, Any], tmp_path: Path, pause_first: bool
) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 3))
    first, second = engine.ask(), engine.ask()
    assert first is not None and second is not None
    engine.end(0, ("error", "x"))
    for request in (Pause(), Retry()) if pause_first else (Retry(), Pause()):
        said = make(engine, tmp_path / "e", request)
        assert not isinstance(request, Pause) or "when the 1 running ones have ended" in said
    assert engine.ask() is None
    engine.lost(1, "process", "was killed")
    assert engine.ask() is second
    for epoch in range(1, 5):
        engine.report(1, report_of(second, epoch, 0.3))
    engine.end(1)
    assert engine.ask() is None and not engine.done
    engine.recorder.close()
    engine = start(tmp_path / "e", engine.config)
    drive(engine)
    engine.recorder.close()
    assert engine.done and engine.states[0] == "COMPLETE"
    assert replay(tmp_path / "e") == (7, [])


STATES = {0: "COMPLETE", 1: "RUNNING", 2: "FAILED", 3: "PRUNED"}


@pytest.mark.parametrize(
    ("request_", "states", "said"),
    [
        (Stop(trials=(9,)), STATES, "stop: got trial 9, valid: 0 to 3"),
        (Stop(trials=(-1,)), STATES, "stop: got trial -1, valid: 0 to 3"),
        (Stop(trials=(0,)), {}, "stop: got trial 0, but no trial has begun yet"),
        (Stop(trials=(0,)), STATES, "stop: got trial 0, which has ended: it is COMPLETE"),
        (Retry(trials=(0,)), STATES, "retry: got trial 0, which is COMPLETE; `bpkd-search enqueue` tries its setting"),
        (Retry(trials=(1,)), STATES, "retry: got trial 1, which has not ended; only a trial that failed or was"),
        (Retry(trials=(7, 0)), STATES, "retry: got trial 7, valid: 0 to 3\nretry: got trial 0"),
        (Retry(), {0: "COMPLETE"}, "retry: no trial has failed"),
    ],
)
def test_trials_that_cannot_be_stopped_or_retried_are_named(request_: Request, states: Any, said: str, tiny) -> None:
    with pytest.raises(ExperimentError) as caught:
        effect(request_, config_of(tiny), states)
    assert str(caught.value).startswith(said)


def test_trials_are_taken_once_however_often_they_are_named(tiny: dict[str, Any]) -> None:
    assert effect(Retry(trials=(3, 2, 3)), config_of(tiny), STATES) == {"retry": [3, 2]}
    assert effect(Retry(), config_of(tiny), STATES) == {"retry": [2]}


def test_the_log_knows_the_states(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 3))
    drive(engine, stop_after=18)
    assert states_of(tmp_path / "e") == states_of_engine(engine)
    engine.end(5, ("error", "x"))
    make(engine, tmp_path / "e", Retry(trials=(5,)))
    assert states_of(tmp_path / "e")[5] == "RUNNING"
    engine.recorder.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no request: Invalid JSON"),
        ("[1]", "is no request"),
        ('{"kind": "explode"}', "is no request: Input tag 'explode'"),
        ('{"kind": "stop", "trials": ["1"]}', "is no request: stop.trials.0: Input should be a valid integer"),
        ('{"kind": "stop", "trials": []}', "is no request: stop.trials"),
        ('{"kind": "pause", "now": true}', "is no request: pause.now"),
        ('{"kind": "change", "more_trials": -2}', "is no request: change.more_trials"),
    ],
)
def test_garbage_is_no_request(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="is no request") as caught:
        parse_request(text)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "request_",
    [Stop(trials=(1,)), Retry(), Enqueue(point={"a": [1, None]}), Pause(), Change(settings=("a=1",), more_trials=3)],
)
def test_a_request_reads_back(request_: Request) -> None:
    assert parse_request(json.dumps(request_.model_dump(mode="json"))) == request_


def test_every_request_is_in_the_log(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 3))
    make(engine, tmp_path / "e", Change(more_trials=1))
    engine.request({"id": "b", "refused": "for a reason"})
    engine.recorder.close()
    first, second = read_events(tmp_path / "e", "request")
    assert first["request"] == {"kind": "change", "settings": [], "more_trials": 1}
    assert first["changes"] == {"search.trials": [3, 4]} and "refused" not in first
    assert (second["id"], second["refused"]) == ("b", "for a reason")
    assert yaml.safe_load((tmp_path / "e" / "config.yaml").read_text())["search"]["trials"] == 4
    same(engine, restored(tmp_path / "e"))
