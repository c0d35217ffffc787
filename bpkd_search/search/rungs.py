"""How well a search's rungs know the end: the ranks of its trials there against those at full budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from bpkd_search.config.search import Scheduler
from bpkd_search.experiment.schema import COMPLETE
from bpkd_search.experiment.trial import Trial
from bpkd_search.results.analysis import rank_correlation
from bpkd_search.search.spending import comparable_seconds


def milestones(scheduler: Scheduler, trials: Iterable[Trial]) -> list[float]:
    """Where the scheduler judges trials, up to the farthest that any of them has come."""
    reached = [position(scheduler, trial.last()) for trial in trials if trial.reports]
    found, rung = [], float(scheduler.grace)
    while rung < max(reached, default=0):
        found.append(rung)
        rung *= scheduler.reduction
    return found


def rung_correlation(scheduler: Scheduler, trials: Iterable[Trial], metric: str, rung: float) -> tuple[float, int]:
    """Spearman's correlation of the metric at a rung with that at full budget, and over how many trials.

    `rung` is on the scheduler's axis. Only trials that ran in full can be compared, baselines among them;
    those that were stopped are missing, which makes the figure a cautious one.
    """
    pairs = []
    for trial in trials:
        early = next((r for r in trial.reports.values() if position(scheduler, r) >= rung), None)
        if trial.state == COMPLETE and early is not None and early.get(metric) is not None:
            pairs.append((early[metric], trial.last()[metric]))
    if len(pairs) < 2:
        return math.nan, len(pairs)
    return rank_correlation([a for a, _ in pairs], [b for _, b in pairs]), len(pairs)


def position(scheduler: Scheduler, report: Mapping[str, Any]) -> float:
    """Where a report stands on the scheduler's axis: its epoch, or seconds that compare between kinds of GPUs."""
    return float(report["epoch"]) if scheduler.axis == "epochs" else comparable_seconds(report)
