"""What the search itself costs, and what its strategies are worth on recorded trials.

    python runners/bench/strategies.py ray --trials 1000        # trials that do nothing, through Ray Tune
    python runners/bench/strategies.py simulated --trials 1000  # the same in simulated time
    python runners/bench/strategies.py slots --trials 3000      # 1,024 slots, asks and reports at their real cost
    python runners/bench/strategies.py costs --trials 1000 --sampler model  # what an ask and a report cost
    python runners/bench/strategies.py table --trials 64        # strategies on 64 recorded CamVid trials, and Ray's
                                                                # own OptunaSearch + ASHAScheduler beside them
    python runners/bench/strategies.py warm_start --trials 30 --seeds 100  # other searches as sources, made-up scores

Each prints one JSON object, and writes it to the file given by --json. The recorded trials come from
`bpkd-search run search_spaces/camvid.yaml` at 96x128 with the student mobilenetv3_small_050 from scratch, the teacher
tf_efficientnet_lite0, 6 epochs, random sampling and no early stopping. Their ranks after 1, 2, 3 epochs correlate
0.21, 0.13, 0.91 with those at the end, so the first rung stands at 3.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from ray import tune
from rivals import play

from bpkd_search import Leaderboard
from bpkd_search.cluster.connection import connect_ray
from bpkd_search.cluster.driver import run_on_ray
from bpkd_search.cluster.slots import Slots
from bpkd_search.config import SearchConfig, load_search
from bpkd_search.config.distributions import distance
from bpkd_search.config.load import parse
from bpkd_search.config.paths import find
from bpkd_search.config.points import to_tree
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.recorder import Recorder
from bpkd_search.experiment.schema import COMPLETE
from bpkd_search.experiment.trial import Trial
from bpkd_search.metrics.table import SCORES
from bpkd_search.search.backends import CurveBackend, TableBackend, read_table
from bpkd_search.search.engine import Engine, parameter_kinds
from bpkd_search.search.simulate import simulate, simulate_search, target, with_strategy
from bpkd_search.search.warm_start import find_sources

SPACE = {
    "loss.edge_width": {"int": [3, 11], "step": 2},
    "loss.edge_weight": {"float": [0.05, 50], "log": True},
    "loss.body_weight": {"float": [0.02, 20], "log": True},
    "loss.edge_temperature": {"float": [0.5, 8], "log": True},
    "loss.body_temperature": {"float": [0.5, 8], "log": True},
}


def config_of(trials: int, sampler: str, epochs: int = 9, **search: Any) -> SearchConfig:
    search |= {"trials": trials, "sampler": {"name": sampler}, "scheduler": {"grace": 1, "reduction": 3}}
    return parse(SearchConfig, {"space": SPACE, "search": search, "train": {"epochs": epochs}}, "bench")


class Nothing(tune.Trainable):
    """A trial without work: what is left is the cost of the search."""

    def setup(self, config: dict[str, Any]) -> None:
        self.number = config["number"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.number = new_config["number"]
        return True

    def step(self) -> dict[str, Any]:
        value = np.random.default_rng(self.number).random()
        return {"report": json.dumps({"epoch": 1, "miou": value, "gpu_seconds": 0.0, "final": True}), "done": True}


def through_ray(trials: int, sampler: str) -> dict[str, Any]:
    config = config_of(trials, sampler, epochs=1, concurrent=8)
    with tempfile.TemporaryDirectory() as folder, connect_ray(None, False):
        ends: list[tuple[float, float]] = []

        def listen(event: str, trial: Trial) -> None:
            if event == "end":
                ends.append((time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))

        engine = Engine(config, Path(folder), "bench", listen, fixed=())
        start = time.perf_counter()
        run_on_ray(engine, Path(folder), Slots(8, 0.2, 0), Nothing, lambda trial: {"number": trial.number})
        total = time.perf_counter() - start
        engine.recorder.close()
    tenth = ends[len(ends) // 10]
    return {
        "trials": len(engine.states),
        "ms_a_trial": 1000 * total / trials,
        "ms_a_trial_without_start_up": 1000 * (ends[-1][0] - tenth[0]) / (len(ends) - len(ends) // 10),
        "driver_memory_mb_after_a_tenth": tenth[1],
        "driver_memory_mb_at_the_end": ends[-1][1],
    }


def in_simulated_time(trials: int, sampler: str, slots: int, charge: bool) -> dict[str, Any]:
    config = config_of(trials, sampler)
    start, cpu = time.perf_counter(), time.process_time()
    outcome = simulate_search(config, CurveBackend(config), slots=slots, charge=charge)
    return {
        "trials": len(outcome.engine.states),
        "slots": slots,
        "ms_a_trial": 1000 * (time.perf_counter() - start) / trials,
        "cpu_ms_a_trial": 1000 * (time.process_time() - cpu) / trials,
        "busy": outcome.busy,
        "best": outcome.curve[-1][1],
    }


def costs(trials: int, sampler: str, scheduler: str, slots: int) -> dict[str, Any]:
    """CPU seconds of asks and reports, logging included: of all, and of the last tenth, when most trials are known."""
    spent: dict[str, list[float]] = {"ask": [], "report": []}

    def timed(name: str) -> Callable[..., Any]:
        step = getattr(Engine, name)

        def call(*given: Any) -> Any:
            start = time.process_time()
            result = step(*given)
            spent[name].append(time.process_time() - start)
            return result

        return call

    config = with_strategy(config_of(trials, sampler), sampler, scheduler, 0)
    with patch.multiple(Engine, ask=timed("ask"), report=timed("report")):
        outcome = simulate_search(config, CurveBackend(config), slots=slots)
    figures: dict[str, Any] = {"trials": len(outcome.engine.states), "slots": slots}
    for name, times in spent.items():
        figures |= {f"cpu_seconds_{name}": float(np.mean(times)), f"cpu_seconds_{name}_most": float(np.max(times))}
        figures[f"cpu_seconds_{name}_at_the_end"] = float(np.mean(times[-len(times) // 10 :]))
    return figures


def on_table(table: Path, space: Path, seeds: int, slots: int, trials: int) -> dict[str, Any]:
    recorded = read_table(table)
    epochs = int(recorded["epoch"].max())
    config = load_search(space, [f"search.trials={trials}", f"train.epochs={epochs}", "search.scheduler.grace=3"])
    backend = TableBackend(recorded, config)
    strategies = [("random", "none"), ("tpe", "none"), ("random", "asha"), ("tpe", "asha"), ("tpe", "hyperband"),
                  ("gp", "asha")]  # fmt: skip
    rows, _ = simulate(config, recorded, strategies, seeds=seeds, slots=slots)
    result = {row["strategy"]: {k: v for k, v in row.items() if k != "strategy"} for row in rows.to_dict("records")}
    name, goal = "Ray OptunaSearch + ASHAScheduler", target(config, recorded)
    theirs = [play(name, with_strategy(config, "random", "asha", seed), backend, slots, goal) for seed in range(seeds)]
    low, middle, high = np.quantile([run["seconds_to_target"] for run in theirs], [0.25, 0.5, 0.75], method="nearest")
    result[name] = {
        "seconds_to_target": middle,
        "seconds_to_target_q1": low,
        "seconds_to_target_q3": high,
        "reached": float(np.mean([np.isfinite(run["seconds_to_target"]) for run in theirs])),
        "best": float(np.median([run["best"] for run in theirs])),
        "gpu_seconds": float(np.median([run["gpu_seconds"] for run in theirs])),
    }
    return {"recorded_trials": len(backend.curves), "epochs": backend.epochs, "target": goal,
            "seeds": seeds, "slots": slots, "strategies": result}  # fmt: skip


class Peak:
    """Made-up scores with one peak, drawn by `seed`; `shift` moves it, `flip` makes it the worst point instead.

    A score is minus the squared distance from the peak, with a weight for each parameter and a mean of 1 over the
    space, times `scale`, plus `offset`. Reports approach it epoch by epoch, with noise.
    """

    def __init__(self, config: SearchConfig, seed: int, shift: float = 0.0, flip: bool = False, scale: float = 0.05,
                 offset: float = 0.5) -> None:  # fmt: skip
        draws = np.random.default_rng(seed)
        self.config, self.flip, self.scale, self.offset = config, flip, scale, offset
        self.peak, self.weights = draws.uniform(size=len(config.space)), draws.dirichlet(np.ones(len(config.space)))
        self.peak = np.clip(self.peak + shift * draws.normal(size=len(self.peak)), 0, 1)
        points = draws.uniform(size=(4096, len(self.peak)))
        self.mean = float(((points - self.peak) ** 2 @ self.weights).mean())

    def regret(self, trial: Trial) -> float:
        """What a trial's setting lacks to the best one: 1 is what a random setting lacks on average."""
        tree, space = to_tree(trial.run), self.config.space
        here = np.array([distance(d, find(tree, path), d.bounds[0]) for path, d in space.items()])
        return float((here - self.peak) ** 2 @ self.weights) / self.mean

    def report(self, trial: Trial, epoch: int) -> dict[str, Any]:
        noise = 0.1 * np.random.default_rng([self.config.search.seed, trial.number, epoch]).normal()
        quality = noise - self.regret(trial) * (-1 if self.flip else 1)
        value = (self.offset + self.scale * quality) * (1 - 0.6**epoch)
        final = epoch >= self.config.train.epochs
        return {"epoch": epoch, **dict.fromkeys(SCORES, value), "gpu_seconds": 30.0 * epoch, "final": final}


def warm_started(trials: int, seeds: int, sampler: str, jobs: int | None) -> dict[str, Any]:
    """Regret cold and with each kind of source, by the present rule and the older one, which took scores as they are.

    A sibling has its peak nearby, lower scores and half the spread; an unrelated source has another peak; a reversed
    one has the worst point for a peak. The last two have higher scores, as those of an easier data set. Regret is that
    of the trial ranked first, of the first half and of all: the median over seeds, and the mean over all.
    """
    with ProcessPoolExecutor(jobs) as pool:
        found = list(pool.map(partial(warm_started_once, trials, sampler), range(seeds)))
    names = ("half", "end", "mean_end", "used")
    figures = {}
    for kind in found[0]:
        rows = [each[kind] for each in found]
        middle, mean = np.median(rows, axis=0), np.mean(rows, axis=0)
        figures[kind] = dict(zip(names, (middle[0], middle[1], mean[1], mean[2]), strict=True))
    return {"trials": trials, "seeds": seeds, "regret": figures}


def warm_started_once(trials: int, sampler: str, seed: int) -> dict[str, list[float]]:
    """`regrets` of one seed: cold, and with each kind of source."""
    other = 10_000 + seed
    config, others = (with_strategy(config_of(trials, sampler), sampler, "asha", s) for s in (seed, other))
    peak = Peak(config, seed)
    kinds: dict[str, Peak] = {
        "sibling": Peak(others, seed, shift=0.1, scale=0.025, offset=0.4),
        "unrelated": Peak(others, other, offset=0.7),
        "reversed": Peak(others, seed, flip=True, offset=0.7),
    }
    found = {"cold": regrets(config, peak)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, source in kinds.items():
            experiment.create(folder / kind, others)
            simulate_search(others, source, slots=4, directory=folder / kind)
            search = config.search.model_copy(update={"warm_start": (folder / kind,)})
            warm = config.model_copy(update={"search": search})
            found[kind] = regrets(warm, peak)
            record_as_before(warm, folder / "before" / kind)
            found[f"{kind}, older rule"] = regrets(config, peak, folder / "before" / kind)
    return found


def regrets(config: SearchConfig, peak: Peak, folder: Path | None = None) -> list[float]:
    """The regret of the trial ranked first among the first half and among all; whether a source was used."""
    engine = simulate_search(config, peak, slots=4, directory=folder).engine
    ranked = engine.ranked()
    half = next(trial for trial in ranked if trial.number < config.search.trials / 2)
    used = any("warm_start" in trial.user_attrs for trial in engine.study.study.trials)
    return [peak.regret(half), peak.regret(ranked[0]), float(used)]


def record_as_before(config: SearchConfig, folder: Path) -> None:
    """Begin a search as one that took the full trials of its source as they are."""
    sources, _ = find_sources(config)
    ((source, found),) = sources.items()
    table = Leaderboard(source).trials()
    scores = {f"{source}/{row['number']}": [row["miou"]] for _, row in table.iterrows() if row["state"] == COMPLETE}
    taken = [{**trial, "values": scores[trial["source"]]} for trial in found if trial["source"] in scores]
    experiment.create(folder, config)
    recorder = Recorder(folder, config.name, parameter_kinds(config), "bench")
    recorder.record("warm_start", -1, trials=taken)
    recorder.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["ray", "simulated", "slots", "costs", "table", "warm_start"])
    here = Path(__file__).parent
    parser.add_argument("table", nargs="?", type=Path, default=here / "camvid_trials.parquet")
    parser.add_argument("space", nargs="?", type=Path, default=here.parents[1] / "search_spaces" / "camvid.yaml")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--scheduler", help="of costs; by default the sampler's partner")
    parser.add_argument("--slots", type=int)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, help="processes of warm_start (default: one a core)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    if given.part == "ray":
        result = through_ray(given.trials, given.sampler)
    elif given.part == "simulated":
        result = in_simulated_time(given.trials, given.sampler, given.slots or 64, charge=False)
    elif given.part == "slots":
        result = in_simulated_time(given.trials, given.sampler, given.slots or 1024, charge=True)
    elif given.part == "costs":
        scheduler = given.scheduler or ("model" if given.sampler == "model" else "asha")
        result = costs(given.trials, given.sampler, scheduler, given.slots or 8)
    elif given.part == "warm_start":
        result = warm_started(given.trials, given.seeds, given.sampler, given.jobs)
    else:
        result = on_table(given.table, given.space, given.seeds, given.slots or 4, given.trials)
    figures = json.dumps({"part": given.part, **result}, indent=2)
    print(figures)
    if given.json:
        given.json.write_text(figures + "\n")


if __name__ == "__main__":
    main()
