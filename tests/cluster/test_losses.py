"""Trials that are lost: what Ray's errors say, the limit of a node, and real processes and nodes that die."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError

from bpkd_search import Leaderboard
from bpkd_search.cluster import placement as placements
from bpkd_search.cluster import tune as adapters
from bpkd_search.cluster.connection import connect_ray
from bpkd_search.cluster.driver import run_on_ray
from bpkd_search.cluster.losses import UNKNOWN, LossLimit, loss_of
from bpkd_search.cluster.nodes import Node
from bpkd_search.cluster.slots import Slots
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.errors import ResourceError
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.engine import Engine
from bpkd_search.search.replay import replay
from tests.driving import curve, drive, report_of
from tests.machines import nodes_of
from tests.trainables import Mortal

DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: DistillationTrial
\tpid: 12
\tip: 10.0.0.7
"""
KILLED = DIED + "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR End of file."
GONE = DIED + "The actor died because its node has died. Node Id: 12"
FULL = DIED + "Task was killed due to the node running low on memory."


@pytest.mark.parametrize(
    ("error", "cause", "address"),
    [
        (RayActorError("a", KILLED), "process", "10.0.0.7"),
        (RayActorError("a", GONE), "node", "10.0.0.7"),
        (RayActorError("a", FULL), "memory", "10.0.0.7"),
        (NodeDiedError("the node is dead"), "node", None),
        (OutOfMemoryError("evicted"), "memory", None),
        (None, "process", None),
    ],
)
def test_the_cause_is_read_from_rays_error(error: Exception | None, cause: str, address: str | None) -> None:
    loss = loss_of(error)
    assert loss is not None and (loss.cause, loss.node.address or None) == (cause, address)
    assert address is None or address in loss.message


@pytest.mark.parametrize(
    "error",
    [
        RayTaskError("f", "trace", ValueError("x")),
        RayActorError("a", "raised in its creation task", True),
        ValueError("x"),
    ],
)
def test_an_error_of_the_trials_own_code_is_no_loss(error: Exception) -> None:
    assert loss_of(error) is None


def test_a_node_over_the_limit_is_named_and_avoided_and_all_of_them_stop_the_search() -> None:
    now, said, (a, b) = [0.0], list[str](), nodes_of((2, 0), (2, 0))
    limit = LossLimit(said.append, most=2, clock=lambda: now[0])
    for _ in range(3):
        assert limit.over() == []
        limit.lost(a)
    (line,) = said
    assert line.startswith("warning: a has lost 3 trials within an hour and gets no more until the hour is over")
    limit.check([a, b])
    now[0] = 1800.0
    limit.lost(b)
    limit.lost(b)
    assert limit.over() == [a]
    limit.lost(b)
    with pytest.raises(ResourceError, match=r"^a, b lost more than 2 trials within an hour"):
        limit.check([a, b])
    now[0] = 3700.0  # an hour after the losses of `a`
    assert limit.over() == [b]
    limit.check([a, b])
    with pytest.raises(ResourceError, match=r"^b lost more than 2 trials"):
        limit.check([b])
    limit.check([])  # none to judge: one may still join


def test_losses_on_no_node_in_particular_stop_the_search_too() -> None:
    limit = LossLimit(most=0)
    limit.lost(UNKNOWN)
    with pytest.raises(ResourceError, match=r"^an unknown node lost more than 0 trials"):
        limit.check(nodes_of((2, 0)))


def config_of(tiny: dict[str, Any], trials: int, epochs: int, **search: Any) -> SearchConfig:
    tiny["train"]["epochs"] = epochs
    tiny["search"] = {"trials": trials, "scheduler": {"name": "none"}, **search}
    return parse(SearchConfig, tiny, "test")


def test_a_lost_trial_stays_running_and_is_asked_again(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny, 2, 4)
    experiment.create(tmp_path / "e", config)
    engine = Engine(config, tmp_path / "e", "test")
    trial = engine.ask()
    assert trial is not None
    engine.report(0, report_of(trial, 1, curve(trial, 1)))
    engine.lost(0, "node", "the trial's node is gone", "a")
    assert engine.states == {} and engine.ask() is trial and trial.epoch == 1
    engine.interrupted = True
    engine.lost(0, "process", "died after Ctrl-C", "a")
    engine.recorder.close()

    again = Engine(config, tmp_path / "e", "test")
    assert again.trials[0].retries == 1
    drive(again)
    again.recorder.close()
    assert set(again.states.values()) == {"COMPLETE"}
    row = Leaderboard(tmp_path / "e").trials().set_index("number").loc[0]
    assert (row["state"], row["retries"], row["message"]) == ("COMPLETE", 1, "the trial's node is gone")
    assert [e["cause"] for e in read_events(tmp_path / "e") if e["event"] == "lost"] == ["node"]
    assert replay(tmp_path / "e") == (6, [])


def test_a_trial_whose_last_report_came_before_its_process_died_has_ended(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny, 2, 4)
    experiment.create(tmp_path / "e", config)
    engine = Engine(config, tmp_path / "e", "test")
    trial = engine.ask()
    assert trial is not None
    engine.report(0, report_of(trial, 4, 0.5))
    engine.lost(0, "process", "died", "a")
    assert engine.states == {0: "COMPLETE"} and engine.trials[0].retries == 0
    engine.recorder.close()


def run(tiny: dict[str, Any], folder: Path) -> tuple[Engine, list[str]]:
    """Four baselines and two trials on real Ray; baseline 1 dies twice, the last trial of all once."""
    config, said = config_of(tiny, 2, 3, concurrent=1), list[str]()
    experiment.create(folder / "e", config)
    dies_at = {1: [1, 2], 5: [3]}

    def task(trial: Trial) -> dict[str, Any]:
        reports = [json.dumps(report_of(trial, epoch, 0.1 * epoch)) for epoch in (1, 2, 3)]
        marks = {epoch: str(folder / f"{trial.number}-{epoch}") for epoch in dies_at.get(trial.number, [])}
        return {"epoch": trial.epoch, "reports": reports, "dies_at": marks}

    engine = Engine(config, folder / "e", "test")
    with connect_ray(None, False):
        run_on_ray(engine, folder / "e", Slots(1, 1, 0), Mortal, task, said.append)
    engine.recorder.close()
    return engine, said


def test_killed_processes_cost_no_trial_not_even_the_last_one(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine, _ = run(tiny, tmp_path)
    assert engine.done and engine.fatal is None
    table = Leaderboard(tmp_path / "e").trials().set_index("number").sort_index()
    assert set(table["state"]) == {"COMPLETE"} and (table["epochs"] == 3).all()
    assert table["retries"].tolist() == [0, 2, 0, 0, 0, 1]
    assert "was killed or crashed" in table.loc[1, "message"]
    reports = Leaderboard(tmp_path / "e").reports()
    assert len(reports) == 18 and not reports.duplicated(["number", "epoch"]).any()
    assert replay(tmp_path / "e") == (6, [])


def test_a_trial_that_always_dies_stops_the_search_with_a_message(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPKD_SEARCH_LOSSES_PER_HOUR", "1")
    monkeypatch.setattr(placements, "live_nodes", lambda: [Node("n", "host (10.0.0.7)", 1, 0, "10.0.0.7")])
    config, said = config_of(tiny, 2, 3), list[str]()
    experiment.create(tmp_path / "e", config)
    engine = Engine(config, tmp_path / "e", "test")
    placement = placements.Placement(Slots(2, 1, 0), said.append)
    searcher = adapters.EngineSearcher(engine, lambda trial: {"number": trial.number}, placement)
    for attempt in ("a", "b"):
        assert searcher.suggest(attempt) == {"number": 0, "place": {"cpus": 1, "gpus": 0, "avoided": []}}
        searcher.errors[attempt] = RayActorError("actor", KILLED)
        searcher.on_trial_complete(attempt, error=True)
    assert searcher.suggest("c") == adapters.Searcher.FINISHED
    assert isinstance(engine.fatal, ResourceError)
    assert str(engine.fatal).startswith("host (10.0.0.7) lost more than 1 trials within an hour")
    assert [line.split(" and gets")[0] for line in said] == [
        "warning: host (10.0.0.7) has lost 2 trials within an hour"
    ]
    assert engine.states == {} and engine.trials[0].retries == 2
    engine.recorder.close()


def test_ray_is_told_to_wait_while_a_running_trial_may_still_be_lost(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny, 1, 3)
    experiment.create(tmp_path / "e", config)
    engine = Engine(config, tmp_path / "e", "test", fixed=(), sampled=1)
    placement = placements.Placement(Slots(2, 1, 0))
    searcher = adapters.EngineSearcher(engine, lambda trial: {"number": trial.number}, placement)
    assert searcher.suggest("a") is not None
    assert searcher.suggest("b") is None
    searcher.errors["a"] = RayTaskError("setup", "trace", ValueError("x"))
    searcher.on_trial_complete("a", error=True)
    assert (engine.trials[0].state, engine.trials[0].reason) == ("FAILED", "error")
    assert searcher.suggest("b") == adapters.Searcher.FINISHED
    engine.recorder.close()
