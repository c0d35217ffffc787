"""Searches in simulated time: samplers, schedulers, budgets, several objectives, kills, replays."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from bpkd_search import Leaderboard
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.errors import ConfigError, ExperimentError, MissingPackageError
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.backends import CurveBackend, TableBackend, read_table
from bpkd_search.search.engine import Engine
from bpkd_search.search.replay import replay
from bpkd_search.search.rungs import rung_correlation
from bpkd_search.search.simulate import simulate, simulate_search
from tests.driving import drive


def config_of(
    tiny: dict[str, Any], *, epochs: int = 9, space: dict[str, Any] | None = None, **search: Any
) -> SearchConfig:
    tree = deepcopy(tiny)
    tree["train"]["epochs"] = epochs
    tree["search"] = {"trials": 30, "scheduler": {"grace": 1, "reduction": 3}, **search}
    if space:
        tree["space"] = space
    return parse(SearchConfig, tree, "test")


def run(config: SearchConfig, slots: int = 4, **options: Any):
    return simulate_search(config, CurveBackend(config), slots=slots, **options)


@pytest.mark.parametrize("name", ["random", "qmc", "tpe", "gp", "cmaes", "nsga2"])
def test_every_sampler_searches_and_is_the_same_again(tiny: dict[str, Any], name: str) -> None:
    config = config_of(tiny, trials=14, sampler={"name": name})
    first, second = run(config), run(config)
    points = [[t.run.loss.model_dump() for t in o.engine.trials.values()] for o in (first, second)]
    assert points[0] == points[1]
    assert len({json.dumps(p, sort_keys=True) for p in points[0]}) == 14
    assert first.engine.done


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (
            {"sampler": {"name": "tbe"}},
            "search.sampler.name: got 'tbe', valid: random, qmc, tpe, gp, model, cmaes, nsga2",
        ),
        ({"sampler": {"name": "gp", "population": 3}}, "search.sampler.population: unknown key; valid: name, startup"),
        ({"sampler": {"name": "cmaes"}, "constraints": ["parameters <= 9"]}, "sampler cmaes takes one objective"),
        ({"objectives": {"miou": "max"}}, "must name at least two"),
        ({"objectives": {"miou": "max", "speed": "max"}}, "no such metric: speed; valid: miou, edge_miou"),
        ({"objectives": {"parameters": "min", "miou": "max"}}, "the first objective ranks"),
        ({"constraints": ["latency_ms < 30"]}, "must be METRIC <= NUMBER"),
        ({"scheduler": {"name": "bohb"}}, "search.scheduler.name: got 'bohb', must be 'asha', 'hyperband'"),
    ],
)
def test_settings_that_cannot_be_are_said(tiny: dict[str, Any], search: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(tiny, **search)
    assert said in str(caught.value)


def test_a_sampler_that_is_not_installed_names_the_extra(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(MissingPackageError, match=r"cmaes: needs cmaes.*bpkd-search\[samplers\]"):
        run(config_of(tiny, sampler={"name": "cmaes"}))


@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_early_stopping_saves_time_and_keeps_most_of_the_best(tiny: dict[str, Any], name: str) -> None:
    full = run(config_of(tiny, scheduler={"name": "none"}))
    stopped = run(config_of(tiny, scheduler={"name": name, "grace": 1, "reduction": 3}))
    assert stopped.curve[-1][0] < 0.85 * full.curve[-1][0]
    assert stopped.curve[-1][1] > full.curve[-1][1] - 0.03
    assert "PRUNED" in stopped.engine.states.values()


def test_a_search_of_iterations_counts_validations(tiny: dict[str, Any]) -> None:
    epochs = run(config_of(tiny))
    tiny = deepcopy(tiny)
    tiny["train"] = {"iterations": 860, "validate_every": 100}
    tiny["search"] = {"trials": 30, "scheduler": {"grace": 1, "reduction": 3}}
    found = run(parse(SearchConfig, tiny, "test"))
    assert found.engine.max_epochs == 9
    assert {t.epoch for n, t in found.engine.trials.items() if found.engine.states[n] == "COMPLETE"} == {9}
    assert found.engine.states == epochs.engine.states and "PRUNED" in found.engine.states.values()
    assert found.curve == epochs.curve


def test_rungs_in_seconds(tiny: dict[str, Any]) -> None:
    config = config_of(tiny, scheduler={"name": "asha", "axis": "gpu_seconds", "grace": 100, "reduction": 2})
    outcome = run(config)
    stopped = [
        t.last()["gpu_seconds"] for n, t in outcome.engine.trials.items() if outcome.engine.states[n] == "PRUNED"
    ]
    assert stopped and min(stopped) >= 100


def test_parallel_asking_proposes_no_near_duplicates(tiny: dict[str, Any]) -> None:
    config = config_of(tiny, trials=60, sampler={"name": "tpe", "startup": 5}, scheduler={"name": "none"})
    engine = run(config, slots=16).engine
    points = [(math.log(t.run.loss.edge_weight), t.run.loss.edge_width) for t in engine.trials.values()]
    span = math.log(50 / 0.05)
    for i, (weight, width) in enumerate(points):
        for other, other_width in points[max(0, i - 15) : i]:
            assert abs(weight - other) / span >= 1e-3 or width != other_width


@pytest.mark.parametrize(
    ("budget", "why"),
    [
        ({"gpu_hours": 1.0}, "1 GPU-hours are used up"),
        ({"hours": 0.25}, "0.25 hours are over"),
        ({"patience": 5}, "5 trials in a row were no improvement"),
    ],
)
def test_a_search_ends_when_its_budget_is_spent(tiny: dict[str, Any], budget: dict[str, Any], why: str) -> None:
    outcome = run(config_of(tiny, trials=500, budget=budget, scheduler={"name": "none"}))
    engine = outcome.engine
    assert engine.done and engine.closed == why
    assert 0 < len(engine.trials) < 500
    if "gpu_hours" in budget:
        assert 3600 <= outcome.curve[-1][0] < 3600 + 4 * 60 * 9  # the running ones finish
    if "hours" in budget:
        assert 900 <= outcome.wall_seconds < 900 + 60 * 9


def test_hours_go_on_after_a_resume_and_pauses_are_not_counted(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny, budget={"hours": 0.5})
    experiment.create(tmp_path / "e", config)
    now = [1000.0]

    def start() -> Engine:
        return Engine(config, tmp_path / "e", "t", fixed=(), clock=lambda: now[0])

    first = start()
    assert first.ask() is not None
    now[0] += 1200  # twenty minutes of work
    assert first.ask() is not None
    first.recorder.close()
    now[0] += 86_400  # a night's pause
    second = start()
    assert second.ask() is not None and second.ask() is not None  # the two unfinished ones
    assert second.ask() is not None
    now[0] += 660  # over half an hour in all
    assert second.ask() is None
    assert second.closed == "0.5 hours are over"


def test_several_objectives_give_a_front(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(
        tiny, trials=40, objectives={"miou": "max", "gpu_seconds": "min"}, sampler={"name": "nsga2", "population": 8}
    )
    experiment.create(tmp_path / "e", config)
    outcome = run(config, directory=tmp_path / "e")
    study = optuna.load_study(
        study_name=None, storage=JournalStorage(JournalFileBackend(str(tmp_path / "e" / "study.journal")))
    )
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    states = outcome.engine.states
    assert "PRUNED" in states.values()
    for trial in study.trials:
        last = outcome.engine.trials[trial.user_attrs["number"]].last()
        if trial.state.name == "COMPLETE":
            assert trial.values == [last["miou"], last["gpu_seconds"]]
    front = {t.user_attrs["number"] for t in study.best_trials}
    mine = [t.last() for n, t in outcome.engine.trials.items() if states[n] == "COMPLETE"]
    for number in front:
        last = outcome.engine.trials[number].last()
        assert not any(
            o["miou"] >= last["miou"] and o["gpu_seconds"] <= last["gpu_seconds"] and o["miou"] > last["miou"]
            for o in mine
        )


def test_constraints_reach_the_study_and_steer_it(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(
        tiny,
        trials=40,
        constraints=["gpu_seconds <= 400"],
        sampler={"name": "tpe", "startup": 8},
        scheduler={"name": "none"},
    )
    experiment.create(tmp_path / "e", config)

    class Dear(CurveBackend):
        def report(self, trial, epoch):  # dear above the middle of the range
            weight = trial.run.loss.edge_weight
            return {**super().report(trial, epoch), "gpu_seconds": epoch * (30.0 + 40.0 * (weight > 1.0))}

    outcome = simulate_search(config, Dear(config), slots=2, directory=tmp_path / "e")
    study = optuna.load_study(
        study_name=None, storage=JournalStorage(JournalFileBackend(str(tmp_path / "e" / "study.journal")))
    )
    for trial in study.trials:
        last = outcome.engine.trials[trial.user_attrs["number"]].last()
        assert trial.constraints == {"gpu_seconds <= 400": pytest.approx(last["gpu_seconds"] - 400)}
    board = Leaderboard(tmp_path / "e").trials()
    feasible = (board["gpu_seconds"] <= 400).tolist()
    assert board["feasible"].tolist() == feasible == sorted(feasible, reverse=True)
    late = [t.run.loss.edge_weight <= 1.0 for n, t in outcome.engine.trials.items() if n >= 20]
    assert sum(late) / len(late) > 0.6  # 43 % of the range are cheap


def test_a_constraint_on_the_baseline_takes_the_best_plain_one(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny, trials=3, constraints=["miou >= baseline"], scheduler={"name": "none"})
    experiment.create(tmp_path / "e", config)
    engine = Engine(config, tmp_path / "e", "t")
    drive(engine, slots=1)
    engine.recorder.close()
    plain = max(engine.trials[n].last()["miou"] for n in range(3))
    told = {t.user_attrs["number"]: t for t in engine.study.study.trials}
    assert told[4].constraints["miou >= baseline"] == pytest.approx(plain - engine.trials[4].last()["miou"])


def test_rung_correlation_is_that_of_the_reports(tiny: dict[str, Any]) -> None:
    from scipy import stats

    engine = run(config_of(tiny, scheduler={"name": "none"})).engine
    early = [t.reports[1]["miou"] for t in engine.trials.values()]
    late = [t.reports[9]["miou"] for t in engine.trials.values()]
    rho, count = rung_correlation(engine.config.search.scheduler, engine.trials.values(), "miou", 1)
    assert count == 30
    assert rho == pytest.approx(stats.spearmanr(early, late).statistic)


def story(engine: Engine) -> dict[int, Any]:
    return {
        n: (t.run.model_dump(mode="json"), engine.states.get(n), {e: r["miou"] for e, r in t.reports.items()})
        for n, t in engine.trials.items()
    }


class Died(Exception):
    """The end of a driver that nothing expects."""


def run_and_die(config: SearchConfig, folder: Path, moment: int, slots: int) -> None:
    """The search in this process, which ends at its report number `moment`: nothing is closed or flushed."""
    seen = 0

    def listen(event: str, trial: Trial) -> None:
        nonlocal seen
        seen += event == "report"
        if seen == moment:
            raise Died

    with pytest.raises(Died):
        run(config, slots=slots, directory=folder, listen=listen)


def run_and_be_killed(config: SearchConfig, folder: Path, moment: int) -> None:
    """The search in a process of its own, which SIGKILL ends at its report number `moment`."""
    child = os.fork()
    if child == 0:
        seen = 0

        def listen(event: str, trial: Trial) -> None:
            nonlocal seen
            seen += event == "report"
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        run(config, slots=1, directory=folder, listen=listen)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_killed_at_random_moments_it_ends_as_if_undisturbed(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny, trials=12, epochs=5, sampler={"name": "tpe", "startup": 4})
    whole = run(config, slots=1)
    total = sum(len(t.reports) for t in whole.engine.trials.values())
    for seed in range(8):
        moment = random.Random(seed).randrange(1, total)
        folder = tmp_path / str(seed)
        experiment.create(folder, config)
        run_and_be_killed(config, folder, moment)
        resumed = run(config, slots=1, directory=folder)
        assert story(resumed.engine) == story(whole.engine), f"killed at report {moment} of {total}"
        table = Leaderboard(folder).trials().set_index("number")["state"]
        assert table.to_dict() == resumed.engine.states


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp"])
def test_with_many_slots_killed_and_resumed_replays_exactly(tiny: dict[str, Any], tmp_path: Path, sampler: str) -> None:
    config = config_of(tiny, trials=24, sampler={"name": sampler})
    experiment.create(tmp_path / "e", config)
    for moment in (17, 30):
        run_and_die(config, tmp_path / "e", moment, slots=5)
    outcome = run(config, slots=5, directory=tmp_path / "e")
    assert outcome.engine.done
    reports = pd.read_parquet(tmp_path / "e" / "reports")
    assert not reports.duplicated(["number", "epoch"]).any()
    assert sorted(outcome.engine.trials) == list(range(24))
    assert replay(tmp_path / "e", fixed=()) == (24, [])


def test_replay_says_where_a_record_differs(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny, trials=8)
    experiment.create(tmp_path / "e", config)
    engine = Engine(config, tmp_path / "e", "t")
    drive(engine, slots=2)
    engine.recorder.close()
    assert replay(tmp_path / "e") == (12, [])
    log = tmp_path / "e" / "events.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    asked = [e for e in events if e["event"] == "ask" and e["number"] == 9]
    asked[0]["config"]["loss"]["edge_width"] = 63
    log.write_text("".join(json.dumps(e) + "\n" for e in events))
    count, differences = replay(tmp_path / "e")
    assert count == 12
    assert len(differences) == 1
    assert differences[0].startswith("trial 9: loss.edge_width was 63, is ")


def table_of(tiny: dict[str, Any], folder: Path) -> tuple[SearchConfig, pd.DataFrame]:
    config = config_of(tiny, trials=60, sampler={"name": "random"}, scheduler={"name": "none"})
    experiment.create(folder, config)
    run(config, directory=folder)
    return config, read_table(folder)


def test_a_table_gives_back_its_own_curves(tiny: dict[str, Any], tmp_path: Path) -> None:
    config, table = table_of(tiny, tmp_path / "e")
    table.to_parquet(tmp_path / "table.parquet")
    backend = TableBackend(read_table(tmp_path / "table.parquet"), config)
    engine = Engine(config, tmp_path / "e", "t", fixed=())
    for number in (0, 7, 59):
        assert backend.nearest(engine.trials[number]) == number
        for epoch in (1, 9):
            assert backend.report(engine.trials[number], epoch)["miou"] == engine.trials[number].reports[epoch]["miou"]
    assert backend.best("miou") == max(t.last()["miou"] for t in engine.trials.values())


def test_a_table_without_a_column_is_refused(tiny: dict[str, Any]) -> None:
    with pytest.raises(ExperimentError, match=r"has no column setting, seed, gpu_seconds, miou, loss\.edge_weight"):
        TableBackend(pd.DataFrame({"epoch": [1], "loss.edge_width": [3]}), config_of(tiny))


def test_strategies_compared_on_a_table(tiny: dict[str, Any], tmp_path: Path) -> None:
    config, table = table_of(tiny, tmp_path / "e")
    rows, outcomes = simulate(config, table, [("random", "none"), ("tpe", "asha")], seeds=3, slots=4)
    assert rows["strategy"].tolist() == ["random + none", "tpe + asha"]
    assert rows["gpu_seconds"][1] < rows["gpu_seconds"][0]
    for name, runs in outcomes.items():
        row = rows.set_index("strategy").loc[name]
        assert sorted(o.curve[-1][1] for o in runs)[1] == row["best"]


def test_hundreds_of_trials_are_simulated_in_seconds(tiny: dict[str, Any]) -> None:
    config = config_of(tiny, trials=400, sampler={"name": "random"})
    engine = run(config, slots=64).engine
    assert len(engine.states) == 400 and engine.done
