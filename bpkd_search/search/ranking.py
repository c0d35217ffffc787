"""What ranks a search: which full-budget trials are best, and which constraints a trial breaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bpkd_search.config.points import PLAIN_BASELINES
from bpkd_search.config.search import Search
from bpkd_search.experiment.schema import BASELINE, COMPLETE
from bpkd_search.experiment.trial import Trial


def ranked(trials: Iterable[Trial], metric: str) -> list[Trial]:
    """The trials that ran their full budget, best first: highest `metric`, ties by number.

    Trials that break a constraint come after all others. `Leaderboard.trials` orders the rows of its tables alike.
    """
    full = [trial for trial in trials if trial.state == COMPLETE]
    return sorted(full, key=lambda trial: (trial.feasible is False, -trial.last()[metric], trial.number))


def violations(search: Search, report: Mapping[str, Any], trials: Iterable[Trial]) -> dict[str, float]:
    """By how much a report breaks each constraint that can be judged: above zero where it does.

    `trials` are those of the search so far; `baseline` in a constraint is the best plain baseline among them.
    """
    known, found = list(trials), {}
    for text, (metric, relation, bound) in zip(search.constraints, search.limits(), strict=True):
        limit = best_plain_baseline(known, metric) if bound == "baseline" else float(bound)
        value = report.get(metric)
        if limit is not None and value is not None:
            found[text] = value - limit if relation == "<=" else limit - value
    return found


def best_plain_baseline(trials: Iterable[Trial], metric: str) -> float | None:
    """The highest `metric` that a plain baseline reached at full budget; None before the first has."""
    reached = [
        trial.last()[metric]
        for trial in trials
        if trial.origin == BASELINE and trial.method in PLAIN_BASELINES and trial.state == COMPLETE
    ]
    return max(reached, default=None)
