"""Diverged trials are told to every sampler as worse than all others: it learns to stay away from the cliff."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import InMemoryStorage

from bpkd_search import Leaderboard
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.recorder import Recorder
from bpkd_search.search.engine import Engine
from bpkd_search.search.replay import replay
from tests.driving import report_of

CLIFF, BEST = 0.1, 0.04
SEVERAL = {
    "train.lr": {"float": [1e-3, 10.0], "log": True},
    "train.momentum": {"float": [0.5, 0.95]},
    "loss.edge_weight": {"float": [0.1, 10.0], "log": True},
    "loss.body_weight": {"float": [0.1, 10.0], "log": True},
}
NSGA2 = {"name": "nsga2", "population": 10}


def config_of(tiny: dict[str, Any], space: dict[str, Any] | None = None, **search: Any) -> SearchConfig:
    """A search over the learning rate: half of its range diverges, and the best is near that cliff."""
    tree = deepcopy(tiny)
    tree["train"]["epochs"] = 3
    tree["space"] = space or {"train.lr": SEVERAL["train.lr"]}
    tree["search"] = {"trials": 60, "scheduler": {"name": "none"}, **search}
    return parse(SearchConfig, tree, "test")


def run(engine: Engine, slots: int = 4, stop_after: int | None = None) -> None:
    """Drive an engine: above the cliff a trial reports once and is NaN in its second epoch."""
    running, ended = [], 0
    while True:
        while len(running) < slots and (trial := engine.ask()) is not None:
            running.append(trial)
        if not running:
            return
        trial = running.pop(0)
        lr, epoch = trial.run.train.lr, trial.epoch + 1
        if trial.origin == "sampled" and lr > CLIFF and epoch == 2:
            engine.end(trial.number, ("nan", "the loss is NaN"))
        else:
            value = 0.5 - 0.1 * abs(math.log10(lr / BEST)) + 0.002 * math.sin(37 * trial.number)
            if engine.report(trial.number, report_of(trial, epoch, value * (1 - 0.6**epoch))) and epoch < 3:
                running.append(trial)
                continue
            engine.end(trial.number)
        ended += 1
        if ended == stop_after:
            return


def diverged(engine: Engine, first: int) -> float:
    """The share of diverged trials among those sampled from `first` on."""
    late = [t for n, t in engine.trials.items() if t.origin == "sampled" and n >= first]
    return sum(t.reason == "nan" for t in late) / len(late)


@pytest.mark.parametrize(
    ("search", "seeds"),
    [
        ({"sampler": {"name": "tpe"}}, 10),
        ({"sampler": {"name": "tpe"}, "scheduler": {"name": "asha", "grace": 1, "reduction": 3}}, 10),
        ({"sampler": {"name": "tpe"}, "constraints": ["miou >= 0.3"]}, 4),
        ({"sampler": {"name": "tpe"}, "objectives": {"miou": "max", "gpu_seconds": "min"}}, 4),
        ({"sampler": {"name": "gp"}, "trials": 30}, 2),
        ({"sampler": {"name": "gp"}, "trials": 24, "constraints": ["miou >= 0.3"]}, 1),
        ({"sampler": NSGA2, "trials": 100, "space": SEVERAL}, 4),
        ({"sampler": NSGA2, "trials": 100, "space": SEVERAL, "constraints": ["miou >= 0.3"]}, 4),
    ],
)
def test_the_sampler_learns_to_stay_below_the_cliff(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: dict[str, Any], seeds: int
) -> None:
    """At random it would be half of all trials; TPE that is told they failed comes to 85 %."""
    monkeypatch.setattr(Recorder, "flush", lambda self: None)  # the tables are of no interest here
    shares = []
    for seed in range(seeds):
        folder = tmp_path / str(seed)
        folder.mkdir()
        engine = Engine(config_of(tiny, seed=seed, **search), folder, "t", storage=InMemoryStorage())
        run(engine)
        # After the baselines and the random points; a genetic sampler takes some generations.
        shares.append(diverged(engine, first=44 if search["sampler"]["name"] == "nsga2" else 14))
    mean = sum(shares) / seeds
    print(f"{search['sampler']}: {mean:.0%} of the trials diverged ({min(shares):.0%} to {max(shares):.0%})")
    assert mean <= 0.31


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "qmc", "random"])
@pytest.mark.parametrize("extra", [{}, {"objectives": {"miou": "max", "gpu_seconds": "min"}}])
def test_killed_and_resumed_it_is_told_the_same(
    tiny: dict[str, Any], tmp_path: Path, sampler: str, extra: dict[str, Any]
) -> None:
    config = config_of(tiny, trials=16, sampler={"name": sampler}, **extra)
    engines = []
    for name, moments in (("whole", ()), ("cut", (2, 7, 5))):
        experiment.create(tmp_path / name, config)
        for moment in (*moments, None):
            engine = Engine(config, tmp_path / name, "t")
            run(engine, slots=1, stop_after=moment)
        engine.recorder.close()
        engines.append(engine)
    whole, cut = (
        [(t.state, t.values, t.params, t.constraints, t.user_attrs) for t in engine.study.study.trials]
        for engine in engines
    )
    assert whole == cut
    assert replay(tmp_path / "cut") == (20, [])
    table = Leaderboard(tmp_path / "cut").trials().set_index("number")
    failed = table[table["state"] == "FAILED"]
    assert len(failed) and set(failed["reason"]) == {"nan"}
    # In the study they are complete, marked by their reason, and worse than everything that finished.
    told = {t.user_attrs["number"]: t for t in engines[1].study.study.trials}
    for number in failed.index:
        assert told[number].state.name == "COMPLETE" and told[number].user_attrs["reason"] == "nan"
        before = [t for n, t in told.items() if n < number and t.state.name == "COMPLETE"]
        assert all(told[number].values[0] <= t.values[0] for t in before if "reason" not in t.user_attrs)


def test_one_that_diverges_before_anything_finished_waits_to_be_told(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = Engine(config_of(tiny), tmp_path, "t", fixed=())
    first, second = engine.ask(), engine.ask()
    assert first is not None and second is not None
    engine.end(0, ("nan", "the loss is NaN"))
    assert engine.study.study.trials[0].state.name == "RUNNING"
    for epoch in range(1, 4):
        engine.report(1, report_of(second, epoch, 0.4))
    engine.end(1)
    assert [(t.state.name, t.values) for t in engine.study.study.trials] == [("COMPLETE", [0.4]), ("COMPLETE", [0.4])]
