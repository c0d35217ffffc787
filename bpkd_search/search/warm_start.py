"""Trials of other experiments that a search can learn from, once they agree with its own."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bpkd_search.config.models import RunConfig, SearchConfig
from bpkd_search.config.optimisation import LENGTH
from bpkd_search.config.points import Point, coordinates
from bpkd_search.errors import ConfigError
from bpkd_search.experiment.schema import COMPLETE, PRUNED, REPLICATE
from bpkd_search.experiment.trial import Trial
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.search.agreement import agreement, on_scale, predict

# Own trials that judge the others. Guesses get 2 in 3 of the pairs of eight trials right in 14 % of cases, of the pairs
# of six in 23 %.
ENOUGH = 8
# Of all pairs of own trials, the share that a source must order as they came out.
AGREES = 2 / 3
# The samplers that learn from trials that they have not proposed.
LEARNING = ("tpe", "gp", "model")

Found = list[dict[str, Any]]


class Verdict(NamedTuple):
    """What became of the sources: trials for the study, the agreement of each source, and a line for each."""

    trials: Found
    agreement: dict[str, float]
    notes: list[str]


def find_sources(config: SearchConfig) -> tuple[dict[str, Found], list[str]]:
    """The trials of each experiment of `search.warm_start` that lie in this search's space, and notes on the others.

    A trial matches when its run, apart from data, teacher, seed and budget, is this search's run at a point of
    the space, and when it has every objective. Each comes as `source`, `point`, `ranks`: by each objective among those
    of its experiment, from 0, the worst, to 1. Raises `ConfigError` for an experiment that searched none of this
    search's parameters, and where the search has constraints or a sampler that learns from its own points alone;
    `ExperimentError` for a folder that is no experiment.
    """
    search, given = config.search, config.search.warm_start
    got = f"search.warm_start: got {len(given)} experiment(s), must be empty with"
    faults = []
    if given and search.constraints:
        faults.append(f"{got} search.constraints: whether trials of others would keep them here is unknown")
    if given and search.sampler.name not in LEARNING:
        faults.append(f"{got} sampler {search.sampler.name}; valid: {', '.join(LEARNING)}")
    boards = {str(source): Leaderboard(source) for source in given}
    for source, board in boards.items():
        if not set(board.parameters) & set(config.space):
            faults.append(
                f"search.warm_start: {source} searched {', '.join(board.parameters)}, must share a parameter with this"
                f" search: {', '.join(config.space)}"
            )
    if faults:
        raise ConfigError(faults, config.name)
    sources: dict[str, Found] = {}
    notes: list[str] = []
    for source, board in boards.items():
        found, left_out = collect(board.trials().to_dict("records"), source, config, _same_run(config))
        notes.append(f"warm start: {len(found)} trials of {source}")
        notes += [f"warm start: {count} trials of {source} left out: they {why}" for why, count in left_out.items()]
        if found:
            sources[source] = found
    return sources, notes


def judge(
    config: SearchConfig,
    sources: Mapping[str, Found],
    points: Mapping[int, Point],
    trials: Mapping[int, Trial],
    weighed: Container[str] = (),
) -> Verdict | None:
    """Which sources order this search's own trials as they came out; None before there are enough to tell.

    `points` are those of own trials by number. The scores of a source that agrees in every objective come as
    quantiles of the own full-budget ones. The ranks of those in `weighed` are first drawn towards the middle by as much
    as they disagree, as a regression on them would: by the share of pairs in order less that out of order.
    """
    numbers = [number for number in sorted(points) if trials[number].state in (COMPLETE, PRUNED)]
    full = [trials[number].last() for number in numbers if trials[number].state == COMPLETE]
    if len(numbers) < ENOUGH or len(full) < 2:
        return None
    own = [points[number] for number in numbers]
    signs = {goal: _sign(direction) for goal, direction in config.search.goals.items()}
    verdict = Verdict([], {}, [])
    for source, found in sources.items():
        there = [trial["point"] for trial in found]
        shares = []
        for place, (goal, sign) in enumerate(signs.items()):
            ranks = [trial["ranks"][place] for trial in found]
            curves = [_curve(trials[number], goal, sign) for number in numbers]
            shares.append(agreement(predict(config.space, there, ranks, own), curves))
        share = min((s for s in shares if s is not None), default=0.0)
        verdict.agreement[source] = share
        says = f"warm start: {source} orders {share:.0%} of the pairs of {len(numbers)} own trials as they came out"
        if share < AGREES:
            verdict.notes.append(f"{says}, less than {AGREES:.0%}: it is dropped")
        else:
            weight = 2 * share - 1 if source in weighed else 1.0
            how = f", with weight {weight:.2f}" if source in weighed else ""
            verdict.notes.append(f"{says}: its {len(found)} trials are used, as ranks{how}")
            columns = []
            for place, (goal, sign) in enumerate(signs.items()):
                ranks = [0.5 + weight * (trial["ranks"][place] - 0.5) for trial in found]
                columns.append([sign * value for value in on_scale(ranks, [sign * report[goal] for report in full])])
            learned = zip(found, *columns, strict=True)
            verdict.trials.extend({"source": t["source"], "point": t["point"], "values": list(v)} for t, *v in learned)
    return verdict


def collect(
    rows: Iterable[Mapping[Any, Any]], source: str, config: SearchConfig, place: Callable[[RunConfig], Point | None]
) -> tuple[Found, Counter[str]]:
    """The trials of a table that a search can learn from, as `find_sources` gives them, and why others were left out.

    `place` gives the point of the search's space that a trial ran at, None for one outside.
    """
    goals = config.search.goals
    found: list[tuple[Mapping[Any, Any], Point]] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        if row.get("origin") == REPLICATE:
            continue  # its trial is among them
        if row["state"] not in (COMPLETE, PRUNED):
            left_out["have no result"] += 1
            continue
        try:
            point = place(RunConfig.model_validate(json.loads(row["config"])))
        except ValueError:
            left_out["are of a version with other settings"] += 1
            continue
        if point is None:
            left_out["lie outside the space"] += 1
        elif not all(_is_number(row.get(goal)) for goal in goals):
            left_out[f"have no {' or '.join(goals)}"] += 1
        else:
            found.append((row, point))
    ranks = [_ranks([row for row, _ in found], goal, direction) for goal, direction in goals.items()]
    return [
        {"source": f"{source}/{int(row['number'])}", "point": point, "ranks": list(places)}
        for (row, point), *places in zip(found, *ranks, strict=True)
    ], left_out


def _same_run(config: SearchConfig) -> Callable[[RunConfig], Point | None]:
    """Places those runs that are the search's own at a point, apart from data, teacher, seed and budget."""
    base = config.run()

    def place(run: RunConfig) -> Point | None:
        # The same settings on other data may still be worth knowing.
        same = {"data": base.data, "teacher": base.teacher, "provenance": base.provenance}
        budget = {key: getattr(base.train, key) for key in (*LENGTH, "seed", "device")}
        run = run.model_copy(update={**same, "train": run.train.model_copy(update=budget)})
        return coordinates(config.space, base, run)

    return place


def _ranks(rows: Sequence[Mapping[Any, Any]], goal: str, direction: str) -> list[float]:
    """Ranks by one objective from 0, the worst, to 1; a trial that was stopped early is behind one that went on."""
    full = [row["state"] == COMPLETE for row in rows]
    keys = [
        (ended, 0 if ended else row["epochs"], _sign(direction) * row[goal])
        for ended, row in zip(full, rows, strict=True)
    ]
    order = {key: place for place, key in enumerate(sorted(set(keys)))}
    return [order[key] / max(1, len(order) - 1) for key in keys]


def _curve(trial: Trial, goal: str, sign: int) -> dict[int, float]:
    """An objective by epoch, higher is better."""
    return {epoch: sign * report[goal] for epoch, report in trial.reports.items() if _is_number(report.get(goal))}


def _sign(direction: str) -> int:
    return 1 if direction == "max" else -1


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)
