"""How well a search's rungs know the end: the ranks of its trials there against those at full budget."""

from __future__ import annotations

import math
from collections.abc import Iterable

from bpkd_search.config.search import Scheduler
from bpkd_search.experiment.schema import COMPLETE
from bpkd_search.experiment.trial import Trial
from bpkd_search.results.analysis import rank_correlation


def milestones(scheduler: Scheduler, trials: Iterable[Trial]) -> list[float]:
    """Where the scheduler judges trials, up to the farthest that any of them has come."""
    reached = [trial.last().get(_position(scheduler), 0.0) for trial in trials]
    found, rung = [], float(scheduler.grace)
    while rung < max(reached, default=0):
        found.append(rung)
        rung *= scheduler.reduction
    return found


def rung_correlation(scheduler: Scheduler, trials: Iterable[Trial], metric: str, position: float) -> tuple[float, int]:
    """Spearman's correlation of the metric at `position` with that at full budget, and over how many trials.

    `position` is on the scheduler's axis. Only trials that ran in full can be compared, baselines among them;
    those that were stopped are missing, which makes the figure a cautious one.
    """
    axis = _position(scheduler)
    pairs = []
    for trial in trials:
        early = next((r for r in trial.reports.values() if r.get(axis, 0) >= position), None)
        if trial.state == COMPLETE and early is not None and early.get(metric) is not None:
            pairs.append((early[metric], trial.last()[metric]))
    if len(pairs) < 2:
        return math.nan, len(pairs)
    return rank_correlation([a for a, _ in pairs], [b for _, b in pairs]), len(pairs)


def _position(scheduler: Scheduler) -> str:
    return "epoch" if scheduler.axis == "epochs" else "gpu_seconds"
