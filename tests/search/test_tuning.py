"""Equal tuning of methods, in simulated time: shares, samplers and rungs of their own, restarts, requests."""

from __future__ import annotations

import random
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from scipy.stats import qmc

from bpkd_search.config import SearchConfig
from bpkd_search.config.distributions import distance
from bpkd_search.config.load import parse
from bpkd_search.config.methods import METHOD, parts
from bpkd_search.config.points import to_tree
from bpkd_search.errors import ConfigError
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.engine import Engine
from bpkd_search.search.replay import replay
from bpkd_search.search.requests import Change, Enqueue
from bpkd_search.search.stopping import Asha
from bpkd_search.search.turns import next_method
from tests.conftest import _tiny_search
from tests.driving import drive, report_of
from tests.search.test_requests import make

METHODS = ("bpkd", "kd", "cwd")


def config_of(methods: tuple[str, ...] = METHODS, trials: int = 12, **search: Any) -> SearchConfig:
    tree = deepcopy(_tiny_search())
    tree.pop("space")
    enqueue = search.pop("enqueue", [])
    tree["train"]["epochs"] = 6
    rules = {"sampler": {"name": "random"}, "scheduler": {"name": "asha", "grace": 1, "reduction": 2}}
    tree["search"] = {"methods": list(methods), "trials": trials, **rules, **search}
    return parse(SearchConfig, {**tree, "enqueue": enqueue}, "test")


def start(folder: Path, config: SearchConfig) -> Engine:
    if not (folder / "config.yaml").exists():
        experiment.create(folder, config)
    return Engine(config, folder, "test")


def score(trial: Trial, epoch: int) -> float:
    """Fixed by trial and epoch, so that rungs stop many; of the lowest method and the highest with a gap between."""
    base = {"bpkd": 0.6, "kd": 0.1, "cwd": 0.3}.get(trial.run.loss.method, 0.2)
    return base + 0.1 * random.Random(f"{trial.run.loss.model_dump_json()} {epoch}").random()


def shares(engine: Engine) -> Counter[str]:
    return Counter(t.method for t in engine.trials.values() if t.origin not in ("baseline", "replicate"))


def story(engine: Engine) -> list[Any]:
    return [(to_tree(t.run), engine.states.get(n), sorted(t.reports)) for n, t in engine.trials.items()]


@settings(max_examples=8, deadline=None)
@given(
    slots=st.integers(1, 7),
    trials=st.integers(3, 20),
    failing=st.sets(st.sampled_from(METHODS)),
    seed=st.integers(0, 99),
)
def test_shares_are_equal_to_one_trial_whatever_runs_and_fails(
    slots: int, trials: int, failing: set[str], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random ends, failures, losses, and new engines on the same folder, at any time."""
    folder, order, config = tmp_path_factory.mktemp("e"), random.Random(seed), config_of(trials=trials)
    config = config.model_copy(update={"search": config.search.model_copy(update={"seed": seed})})
    engine, running = start(folder / "e", config), list[Trial]()
    while True:
        while len(running) < slots and (trial := engine.ask()) is not None:
            running.append(trial)
            count = shares(engine)
            assert max(count.values(), default=0) - min(count[m] for m in METHODS) <= 1
        if not running:
            break
        trial = running.pop(order.randrange(len(running)))
        if trial.run.loss.method in failing and trial.origin != "baseline":
            engine.end(trial.number, ("error", "boom"))
        elif order.random() < 0.1:
            engine.recorder.close()
            engine, running = start(folder / "e", config), []
        elif order.random() < 0.1:
            engine.lost(trial.number, "error", "gone")
        elif engine.report(trial.number, report_of(trial, trial.epoch + 1, score(trial, trial.epoch + 1))) and (
            trial.epoch < engine.max_epochs
        ):
            running.append(trial)
        else:
            engine.end(trial.number)
    engine.recorder.close()
    assert engine.done and sum(shares(engine).values()) == trials
    assert sorted(shares(engine).values()) == sorted(trials // 3 + (n < trials % 3) for n in range(3))


@pytest.mark.parametrize("slots", [1, pytest.param(3, marks=pytest.mark.long)])
def test_under_a_budget_of_gpu_hours_methods_get_equal_seconds(slots: int, tmp_path: Path) -> None:
    config = config_of(trials=10_000, budget={"gpu_hours": 360 / 3600}, sampler={"name": "random"})
    seconds = {"bpkd": 5.0, "kd": 1.0, "cwd": 2.0}

    def costs(trial: Trial, epoch: int) -> dict[str, Any]:
        return {"gpu_seconds": seconds.get(trial.run.loss.method, 1.0) * epoch}

    engine = start(tmp_path / "e", config)
    drive(engine, slots=slots, curve=score, scores=costs)
    engine.recorder.close()
    spent = Counter[str]()
    for trial in engine.trials.values():
        if trial.origin != "baseline":
            spent[trial.method] += trial.last()["gpu_seconds"]
    # The dearest trial takes 30 seconds; with several slots, as many may be on their way.
    assert max(spent.values()) - min(spent.values()) <= 30 * (1 if slots == 1 else 2)
    assert shares(engine)["kd"] > 2 * shares(engine)["bpkd"]
    assert replay(tmp_path / "e") == (len(engine.trials), [])


def test_a_method_that_only_fails_does_not_get_all_trials_under_a_budget_of_gpu_hours(tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(trials=60, budget={"gpu_hours": 100}))
    while (trial := engine.ask()) is not None:
        if trial.run.loss.method == "kd" and trial.origin != "baseline":
            engine.end(trial.number, ("error", "boom"))
            continue
        while engine.report(trial.number, report_of(trial, trial.epoch + 1, score(trial, trial.epoch + 1))):
            if trial.epoch == engine.max_epochs:
                break
        engine.end(trial.number)
    engine.recorder.close()
    assert len(engine.states) == engine.total
    assert max(shares(engine).values()) - min(shares(engine).values()) <= 6
    assert shares(engine)["kd"] >= 15


def test_turns_by_hand(tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(trials=3))
    drive(engine, curve=score)
    engine.recorder.close()
    bpkd, kd, cwd = [trial for trial in engine.trials.values() if trial.origin != "baseline"]

    def turn(*trials: Trial, by_seconds: bool) -> str:
        return next_method(METHODS, trials, by_seconds=by_seconds)

    assert turn(by_seconds=False) == turn(by_seconds=True) == "bpkd"
    assert turn(bpkd, by_seconds=False) == turn(bpkd, by_seconds=True) == "kd"
    assert turn(bpkd, kd, cwd, by_seconds=False) == "bpkd"
    for trial, spent in ((bpkd, 30.0), (kd, 10.0), (cwd, 25.0)):
        trial.reports, trial.state = {1: {"gpu_seconds": spent}}, "COMPLETE"
    assert turn(bpkd, kd, cwd, by_seconds=True) == "kd"
    # One that runs counts with what trials of its method take.
    running = Trial(9, "kd", "sampled", kd.run)
    assert turn(bpkd, kd, cwd, running, by_seconds=True) == "kd"
    assert turn(bpkd, kd, cwd, running, running, by_seconds=True) == "cwd"
    # Seconds that compare between kinds of GPUs count where they are known.
    kd.reports = {1: {"gpu_seconds": 10.0, "calibrated_seconds": 40.0}}
    assert turn(bpkd, kd, cwd, by_seconds=True) == "cwd"


def test_a_method_is_stopped_by_its_own_trials_alone(tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(trials=36, sampler={"name": "random"}))
    drive(engine, slots=3, curve=score)
    engine.recorder.close()
    # Every kd trial is worse than every bpkd trial; rules that see one method each, told the log, decide the same.
    rules = {method: Asha(1, 2, 6) for method in METHODS}
    stopped = set()
    for event in read_events(tmp_path / "e"):
        trial = engine.trials[event["number"]] if event["number"] >= 0 else None
        judged = event["event"] == "report" and trial is not None and trial.origin != "baseline" and event["epoch"] < 6
        if judged and not rules[trial.method].report(trial.number, event["epoch"], (event["miou"],)):
            stopped.add(trial.number)
    assert {number for number, state in engine.states.items() if state == "PRUNED"} == stopped
    for method in METHODS:
        states = Counter(engine.states[n] for n, t in engine.trials.items() if t.method == method and n > 3)
        assert states["COMPLETE"] >= 1 and states["PRUNED"] >= 3, method


@pytest.mark.parametrize(
    "sampler", ["tpe", "model", *(pytest.param(name, marks=pytest.mark.long) for name in ("gp", "cmaes", "nsga2"))]
)
def test_a_sampler_knows_nothing_of_other_methods(sampler: str, tmp_path: Path) -> None:
    """Whatever cwd scores, kd is asked for the same points; not so if kd scores otherwise."""
    options = {"startup": 2} if sampler in ("tpe", "gp", "model") else {"population": 2} if sampler == "nsga2" else {}
    config = config_of(("kd", "cwd"), 20, sampler={"name": sampler, **options}, scheduler={"name": "none"})
    found = []
    for changed in (None, "cwd", "kd"):

        def curve(trial: Trial, epoch: int, changed: str | None = changed) -> float:
            loss = trial.run.loss
            value = 0.1 * (loss.weight / 50 if hasattr(loss, "weight") else 0.5)
            return 0.5 - value if trial.method == changed else 0.5 + value

        engine = start(tmp_path / f"{sampler}-{changed}", config)
        drive(engine, slots=1, curve=curve)
        engine.recorder.close()
        found.append([t.run.loss.model_dump() for t in engine.trials.values() if t.method == "kd" and t.number > 3])
    assert found[0] == found[1] and len(found[0]) == 10
    assert found[0] != found[2]


def test_a_sequence_covers_the_space_of_each_method(tmp_path: Path) -> None:
    """Every third point of a Sobol sequence would leave parts of it empty."""
    config = config_of(trials=24, sampler={"name": "qmc"}, seed=3)
    engine = Engine(config, tmp_path, "test", fixed=(), storage=InMemoryStorage())
    points: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    for _ in range(24):
        trial = engine.ask()
        assert trial is not None
        space = parts(config)[trial.method].space
        point = [distance(d, getattr(trial.run.loss, path[5:]), d.bounds[0]) for path, d in space.items()]
        points[trial.method].append(point)
        engine.end(trial.number, ("error", "boom"))
    engine.recorder.close()
    expected = qmc.Sobol(2, scramble=True, seed=3).random(8)
    assert points["kd"] == pytest.approx(expected, abs=1e-6)
    # One point in each eighth of each range.
    columns = zip(*points["cwd"], strict=True)
    assert all(sorted(int(8 * value) for value in column) == list(range(8)) for column in columns)


@pytest.mark.parametrize(
    ("sampler", "hours"),
    [
        ("tpe", None),
        ("model", 0.08),
        *(pytest.param(*way, marks=pytest.mark.long) for way in (("tpe", 0.08), ("model", None))),
    ],
)
def test_a_killed_search_goes_on_as_it_would_have(sampler: str, hours: float | None, tmp_path: Path) -> None:
    options = {"sampler": {"name": sampler, "startup": 2}, "budget": {"gpu_hours": hours}}
    if sampler == "model":
        options["scheduler"] = {"name": "model"}
    config = config_of(trials=18, **options)
    whole = start(tmp_path / "whole", config)
    reports = drive(whole, slots=1, curve=score)
    whole.recorder.close()
    assert replay(tmp_path / "whole") == (len(whole.trials), [])
    for share in (0.3, 0.6):
        folder = tmp_path / f"{share}"
        engine = start(folder, config)
        drive(engine, slots=1, stop_after=int(share * reports), curve=score)
        engine.recorder.close()
        if share == 0.6:
            (folder / "study.journal").unlink()
        engine = start(folder, config)
        assert any("rebuilt from the event log" in note for note in engine.notes) == (share == 0.6)
        drive(engine, slots=1, curve=score)
        engine.recorder.close()
        assert story(engine) == story(whole)


def test_more_trials_are_those_of_the_longer_search(tmp_path: Path) -> None:
    engine = start(tmp_path / "short", config_of(trials=7))
    drive(engine, slots=1, curve=score)
    make(engine, tmp_path / "short", Change(more_trials=5))
    drive(engine, slots=1, curve=score)
    engine.recorder.close()
    whole = start(tmp_path / "whole", config_of(trials=12))
    drive(whole, slots=1, curve=score)
    whole.recorder.close()
    assert story(engine) == story(whole)
    assert replay(tmp_path / "short") == (16, [])


def test_points_that_are_given_count_as_trials_of_their_method(tmp_path: Path) -> None:
    enqueue = [{"loss.edge_weight": 0.3}, {"loss.edge_weight": 0.4}, {METHOD: "kd", "loss.weight": 2.0}]
    enqueue[2]["loss.temperature"] = 2.0
    engine = start(tmp_path / "e", config_of(trials=9, enqueue=enqueue))
    make(engine, tmp_path / "e", Enqueue(point={METHOD: "cwd", "loss.weight": 1.0, "loss.temperature": 1.0}))
    drive(engine, slots=1, curve=score)
    engine.recorder.close()
    assert [t.method for t in engine.trials.values()][4:8] == ["cwd", "bpkd", "bpkd", "kd"]
    assert sorted(shares(engine).values()) == [3, 3, 4]
    assert replay(tmp_path / "e") == (14, [])
    with pytest.raises(ConfigError, match=r"loss\.method"):
        make(engine, tmp_path / "e", Enqueue(point={METHOD: "dist"}))


def test_methods_and_their_choice_cannot_change_and_ranges_can(tmp_path: Path) -> None:
    config = config_of(trials=9)
    engine = start(tmp_path / "e", config)
    drive(engine, slots=1, stop_after=30, curve=score)
    for setting, said in (
        ("search.methods=[bpkd,kd]", "search.methods: cannot change in a search that has begun"),
        ("space.loss.method.choice=[bpkd,kd]", "space.loss.method: is given by search.methods"),
    ):
        with pytest.raises(ConfigError) as caught:
            make(engine, tmp_path / "e", Change(settings=(setting,)))
        assert said in str(caught.value) and len(caught.value.faults) == 1
    make(engine, tmp_path / "e", Change(settings=("space.loss.weight.float=[10,20]",)))
    before = len(engine.trials)
    drive(engine, slots=1, curve=score)
    engine.recorder.close()
    late = [t.run.loss for t in engine.trials.values() if t.number >= before and t.method != "bpkd"]
    assert late and all(10 <= loss.weight <= 20 for loss in late)
    assert sorted(shares(engine).values()) == [3, 3, 3]
    assert replay(tmp_path / "e") == (13, [])
    again = Engine(experiment.read_config(tmp_path / "e"), tmp_path / "e", "test")
    again.recorder.close()
    assert again.done and not again.notes


def test_replicates_of_a_race_are_nobodys_trials(tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(trials=24, replicates="auto", scheduler={"name": "none"}))
    drive(engine, slots=1, curve=score)
    engine.recorder.close()
    again = [trial for trial in engine.trials.values() if trial.origin == "replicate"]
    assert len(again) >= 3 and len({trial.method for trial in again}) > 1
    assert sum(shares(engine).values()) == 24 - len(again)
    assert max(shares(engine).values()) - min(shares(engine).values()) <= 1
    assert replay(tmp_path / "e") == (28, [])


def test_one_method_is_a_search_as_well(tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(("kd",), 5))
    drive(engine, curve=score)
    engine.recorder.close()
    assert shares(engine) == {"kd": 5}
    assert replay(tmp_path / "e") == (9, [])
