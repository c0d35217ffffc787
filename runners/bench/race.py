"""What racing over seeds (`search.replicates: auto`) is worth: false winners, intervals, and cost against `confirm`.

    python runners/bench/race.py false       # winners named where all settings are equal, at any look
    python runners/bench/race.py coverage    # how often the stated intervals cover the true means, after whole races
    python runners/bench/race.py tables      # GPU-seconds against search + confirm, on recorded tables
    python runners/bench/race.py own         # how much of what the model does not explain is a setting's own

`false` and `coverage` draw scores as `winners.py` does: a true mean, what all settings share in a seed (deviation 0.5;
in `coverage` also 1.3, the most of the recorded tables), and noise, whose deviation is the unit. In `false` all
settings but one are of one method, the hardest case, all have the same seeds, and a winner counts at any number of them
up to the last. In `coverage` the race itself chooses, for as many runs as if each setting got so many seeds; "equal"
are equal settings, "apart" draws of deviation 1, "far" equal ones and three rivals 5 below, "tuned" the same, but with
a quarter of the settings of another method in place of a baseline. A winner is false if any setting that it should be
better than, in the race or not, is as good.

`tables` runs whole searches in simulated time beside four fixed rivals, recorded settings at the quantiles 0.5, 0.7,
0.85 and 0.95 of the true means. A recorded seed is the same for all settings; a further one is the setting's mean, plus
a draw of what seeds share and of noise, both as recorded. "good" is how often the setting handed over is within 0.5
points of the best mean of the table, "named" how often a winner is named that is truly better than its rivals, "false"
one that is not. `own` takes searches of 24 trials, and regresses what the settings reached beyond the model's estimates
in the mean of the other two recorded seeds on what they did in the seed of the search.

Prints a table, and writes it as JSON to the file given by --json; rows that are there already are not computed again.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from winners import draw, show

from bpkd_search.config import RunConfig, SearchConfig, load_search
from bpkd_search.config.points import BASELINES, run_at
from bpkd_search.experiment.schema import BASELINE, COMPLETE, REPLICATE
from bpkd_search.experiment.trial import Trial
from bpkd_search.results.expectation import Expected
from bpkd_search.results.race import LOOKS, MOST_SEEDS, all_leads, best_of_methods, rivals_of, standing
from bpkd_search.results.selection import leads
from bpkd_search.search.backends import Report, TableBackend, read_table
from bpkd_search.search.contenders import Known, contenders
from bpkd_search.search.racing import Setting, next_replicate
from bpkd_search.search.simulate import Outcome, simulate_search

Array = np.ndarray[Any, Any]
HERE = Path(__file__).parent


def false_winners(settings: int, seeds: int, noise: str, repeats: int) -> dict[str, Any]:
    """How often one of `settings` - 1 equal settings beats the last one at any look up to `seeds`, or it beats all."""
    rng = np.random.default_rng([settings, seeds, len(noise)])
    methods = ["a"] * (settings - 1) + ["b"]
    named = 0
    for scores in draw(rng, np.zeros(settings), seeds, repeats, noise):
        for look in range(LOOKS[0], seeds + 1):
            low, _ = all_leads(scores[:, :look], methods)
            if (low[:-1, -1] > 0).any() or (low[-1, :-1] > 0).all():
                named += 1
                break
    return {"false": named / repeats}


def coverage(settings: int, seeds: int, kind: str, repeats: int) -> dict[str, Any]:
    """How often intervals cover the truth after races of `settings` x `seeds` runs; also false winners."""
    rng = np.random.default_rng([settings, seeds, len(kind)])
    covered, of_leader, false, runs = [], [], [], []
    for _ in range(repeats):
        means = rng.normal(0, 1, settings) if kind == "apart" else np.zeros(settings)
        if kind in ("far", "tuned"):
            means = np.concatenate([means, [-5.0, -5.0, -5.0]])
        count = len(means)
        truth = (
            means[:, None]
            + rng.normal(0, rng.choice([0.5, 1.3]), MOST_SEEDS + 1)
            + rng.normal(0, 1, (count, MOST_SEEDS + 1))
        )
        # The last setting is a baseline, or a quarter are those of another method; those far below are baselines too.
        own = settings - max(settings // 4, 1)
        drawn = np.arange(count) < (settings if kind == "tuned" else settings - 1)
        methods = ["a" if i < (own if kind == "tuned" else settings - 1) else "b" for i in range(count)]
        done: list[dict[int, float]] = [{} for _ in means]
        expected = Expected(truth[:, 0], np.eye(count), 1.0)
        for _ in range(count * seeds):
            known = [Setting(i, methods[i], bool(d), True, done[i], frozenset(done[i])) for i, d in enumerate(drawn)]
            if (chosen := next_replicate(known, expected)) is None:
                break
            number, seed = chosen
            done[number][seed] = float(truth[number, seed])
        scores = np.array([[mine.get(seed, np.nan) for seed in range(1, MOST_SEEDS + 1)] for mine in done])
        mean = expected.after((i, seed, value) for i, mine in enumerate(done) for seed, value in mine.items()).mean
        racing = np.isfinite(scores).any(1) | ~drawn
        racing[best_of_methods(mean, methods, np.ones(count, dtype=bool))] = True
        names = [methods[i] for i in np.flatnonzero(racing)]
        found = standing(scores[racing], names, drawn[racing], np.ones(racing.sum(), dtype=bool), mean[racing])
        inside = (found.means.low <= means[racing]) & (means[racing] <= found.means.high)
        ran = np.isfinite(found.means.low)
        if found.leader is None or not ran.any():
            continue  # a baseline is so far ahead that nothing was to be decided
        covered.append(float(inside[ran].mean()))
        of_leader.append(float(inside[found.leader]))
        winner = None if found.winner is None else np.flatnonzero(racing)[found.winner]
        false.append(float(winner is not None and means[winner] <= means[rivals_of(int(winner), methods)].max()))
        runs.append(float(np.isfinite(scores).sum()))
    return {
        "means": fmean(covered),
        "leader": fmean(of_leader),
        "false": fmean(false),
        "runs": fmean(runs),
        "repeats": len(covered),
    }


class Seeds(TableBackend):
    """Recorded settings with any number of seeds, which are the same for all settings."""

    @cached_property
    def _parts(self) -> tuple[dict[int, float], Array, Array]:
        """True means by setting, what the recorded seeds share, and noise as recorded."""
        metric = self.config.search.ranked_by
        ends = np.array([[curve[-1][metric] for curve in curves] for curves in self.curves.values() if len(curves) > 2])
        count = ends.shape[1]
        shared = ends.mean(0) - ends.mean()
        noise = (ends - ends.mean(1, keepdims=True) - shared) * np.sqrt(count / (count - 1))
        means = {setting: self.mean(setting, metric) for setting in self.curves}
        return means, shared, noise.ravel()

    def report(self, trial: Trial, epoch: int) -> Report:
        """The recorded report of that seed, or of another one moved to a drawn end."""
        metric, seed, setting = self.config.search.ranked_by, trial.run.train.seed, self.nearest(trial)
        curves = self.curves[setting]
        row = dict(curves[seed % len(curves)][epoch - 1])
        if seed >= len(curves):
            means, shared, noise = self._parts
            end = means[setting] + np.random.default_rng(seed).normal(0, shared.std(ddof=1))
            end += np.random.default_rng([seed, setting]).choice(noise)
            row[metric] += end - curves[seed % len(curves)][-1][metric]
        return {
            metric: float(row[metric]),
            "gpu_seconds": row["gpu_seconds"],
            "epoch": epoch,
            "final": epoch >= self.epochs,
        }


def with_seed(trial: Trial, seed: int) -> RunConfig:
    return trial.run.model_copy(update={"train": trial.run.train.model_copy(update={"seed": seed})})


class Rivals:
    """The searches of one table: their configuration, reports, and the fixed rivals."""

    def __init__(self, name: str, sampler: str, scheduler: str) -> None:
        self.strategy = sampler, scheduler
        self.table = read_table(HERE / "tables" / f"{name}.parquet")
        self.config = load_search(HERE / "tables" / f"{name}.yaml")
        self.backend = Seeds(self.table, self.config)
        self.metric = self.config.search.ranked_by
        ordered = sorted(self.backend.curves, key=lambda n: self.backend.mean(n, self.metric))
        self.fixed = []
        for number, (label, share) in enumerate(zip(BASELINES, (0.5, 0.7, 0.85, 0.95), strict=True)):
            setting = ordered[int(share * (len(ordered) - 1))]
            point = {path: value for path, value in self.backend._points[setting].items() if value is not None}
            self.fixed.append(Trial(number, label, BASELINE, run_at(self.config.run(), point)))

    def worth(self, trial: Trial) -> float:
        return self.backend.mean(self.backend.nearest(trial), self.metric)

    def search(self, trials: int, seed: int, replicates: str | None) -> Outcome:
        """A search with one of the three recorded seeds; `seed` is the sampler's."""
        sampler, scheduler = ({"name": name} for name in self.strategy)
        changes: dict[str, Any] = {"trials": trials, "seed": seed, "replicates": replicates}
        changes |= {"sampler": sampler, "scheduler": scheduler}
        tree = self.config.model_dump(mode="json", by_alias=True)
        tree["search"] |= changes
        tree["train"]["seed"] = seed % 3
        fixed = [replace(trial, run=with_seed(trial, seed % 3)) for trial in self.fixed]
        return simulate_search(SearchConfig.model_validate(tree), self.backend, slots=4, fixed=fixed)

    def race(self, trials: int, seed: int) -> tuple[float, Trial, bool]:
        """GPU-seconds, the setting handed over, and whether it is named the winner."""
        outcome = self.search(trials, seed, "auto")
        known = outcome.engine.trials
        engine = outcome.engine
        race = contenders(
            Known(known, seed % 3, self.metric, 1.0, engine.tried, engine.model),
            [trial for trial in known.values() if trial.origin == REPLICATE],
        )
        if race is None:
            return outcome.curve[-1][0], outcome.best_score(), False
        settings, expected = race
        runs = [(i, seed, value) for i, mine in enumerate(settings) for seed, value in mine.scores.items()]
        scores = np.full((len(settings), MOST_SEEDS), np.nan)
        for i, seed, value in runs:
            scores[i, seed - 1] = value
        means = expected.after(runs).mean
        ahead = int(means.argmax())
        methods = [mine.method for mine in settings]
        best = best_of_methods(means, methods, np.ones(len(means), dtype=bool))
        racing = [i for i, mine in enumerate(settings) if mine.scores or not mine.searched or i in best]
        found = standing(
            scores[racing],
            [methods[i] for i in racing],
            np.array([settings[i].searched for i in racing]),
            np.ones(len(racing), dtype=bool),
            means[racing],
        )
        chosen = ahead if found.winner is None else racing[found.winner]
        return outcome.curve[-1][0], known[settings[chosen].number], found.winner is not None

    def confirm(self, trials: int, seed: int) -> tuple[float, Trial, bool]:
        """The same of a search and a confirmation of the three best settings and the rivals over three seeds."""
        outcome = self.search(trials, seed, None)
        best = [t for t in outcome.engine.ranked() if t.origin != BASELINE][:3]
        runs, cost = [*best, *self.fixed], outcome.curve[-1][0]
        scores = np.empty((len(runs), 3))
        for row, trial in enumerate(runs):
            for again in range(3):
                run = Trial(0, "", "", with_seed(trial, seed % 3 + again + 1))
                report = self.backend.report(run, self.backend.epochs)
                scores[row, again] = report[self.metric]
                cost += report["gpu_seconds"]
        first = int(scores[: len(best)].mean(1).argmax())
        low, _ = leads(scores, range(len(best)))
        return cost, runs[first], bool((low[first, len(best) :] > 0).all())

    def own(self, repeats: int) -> dict[str, Any]:
        """The share of what the model does not explain in one seed that is there in the other two as well."""
        both = squares = 0.0
        for seed in range(repeats):
            engine = self.search(24, seed, None).engine
            points = {trial.number: trial.point for trial in engine.tried()}
            full = [t for t in engine.trials.values() if t.state == COMPLETE and t.origin != BASELINE]
            ends = [
                [curve[-1][self.metric] for curve in self.backend.curves[self.backend.nearest(trial)][:3]]
                for trial in full
            ]
            told, _ = engine.model().predict_together([points[trial.number] for trial in full])
            rest = np.array(ends) - told[:, None]
            rest -= rest.mean(0)
            here, others = rest[:, seed % 3], np.delete(rest, seed % 3, axis=1).mean(1)
            both, squares = both + float(here @ others), squares + float(here @ here)
        return {"own": both / squares, "repeats": repeats}

    def figures(self, how: str, trials: int, repeats: int) -> dict[str, Any]:
        """What `repeats` searches came to."""
        one: Callable[[int, int], tuple[float, Trial, bool]] = self.race if how == "race" else self.confirm
        found = [one(trials, seed) for seed in range(repeats)]
        best, rival = self.backend.best(self.metric), max(map(self.worth, self.fixed))
        worths = [self.worth(trial) for _, trial, _ in found]
        won = [named and worth > rival for (*_, named), worth in zip(found, worths, strict=True)]
        return {
            "GPU-seconds": fmean(cost for cost, *_ in found),
            "good": fmean(float(worth >= best - 0.005) for worth in worths),
            "regret": best - fmean(worths),
            "named": fmean(map(float, won)),
            "false": fmean(float(named) for *_, named in found) - fmean(map(float, won)),
            "repeats": repeats,
        }


def cells(options: argparse.Namespace) -> list[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """The rows of a part by what names them, and how each is computed."""
    made: list[tuple[dict[str, Any], Callable[[], dict[str, Any]]]] = []
    if options.part == "tables":
        for name in options.tables:
            rivals = Rivals(name, options.sampler, options.scheduler)
            grid = [("confirm", n) for n in options.trials] + [("race", n) for n in options.raced]
            for how, trials in grid:
                made.append((
                    {"table": name, "by": options.sampler, "how": how, "trials": trials},
                    lambda r=rivals, h=how, t=trials: r.figures(h, t, options.repeats or 80),
                ))  # fmt: skip
        return made
    if options.part == "own":
        for name in options.tables:
            rivals = Rivals(name, options.sampler, options.scheduler)
            made.append(({"table": name, "by": options.sampler}, lambda r=rivals: r.own(options.repeats or 60)))
        return made
    kinds = ("normal", "unequal", "heavy") if options.part == "false" else ("equal", "apart", "far", "tuned")
    part, usual = (false_winners, 4000) if options.part == "false" else (coverage, 200)
    for settings, seeds, kind in itertools.product(options.settings, options.seeds, kinds):
        made.append((
            {"settings": settings, "seeds": seeds, "kind": kind},
            lambda s=settings, n=seeds, k=kind: part(s, n, k, options.repeats or usual),
        ))  # fmt: skip
    return made


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["false", "coverage", "tables", "own"])
    parser.add_argument("--settings", type=int, nargs="+", default=[2, 3, 5, 10, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--tables", nargs="+", default=["scenes", "camvid", "methods"])
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--scheduler", default="asha")
    parser.add_argument("--trials", type=int, nargs="+", default=[16, 24, 40], help="trials of searches with `confirm`")
    parser.add_argument("--raced", type=int, nargs="+", default=[22, 32, 48], help="trials of the raced searches")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--json", type=Path, help="also write the figures to this file, and go on with those in it")
    options = parser.parse_args(arguments)
    rows = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    wanted = []
    for names, compute in cells(options):
        row = next((row for row in rows if row.items() >= names.items()), None)
        if row is None:
            row = names | compute()
            rows.append(row)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
        wanted.append(row)
    show(wanted)


if __name__ == "__main__":
    main()
