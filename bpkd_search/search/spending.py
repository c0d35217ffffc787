"""What a search has spent of its budget: hours over several sessions, GPU-hours, patience."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bpkd_search.config.search import Budget
from bpkd_search.experiment.events import Event
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.stopping import Values, since_improvement


class Spending:
    """Counts the seconds of the driver's time until its newest event; pauses between sessions are not counted."""

    def __init__(self, budget: Budget, clock: Callable[[], float]) -> None:
        self.budget, self.clock = budget, clock
        self._seconds, self._seen_at = 0.0, math.nan

    def passed(self, event: Event) -> None:
        """Count the time until an event of an earlier session; a `session` event ends a pause."""
        if event["event"] != "session" and not math.isnan(self._seen_at):
            self._seconds += event["time"] - self._seen_at
        self._seen_at = event["time"]

    def go_on(self) -> None:
        """Count from now on."""
        self._seen_at = self.clock()

    def closed(self, trials: Iterable[Trial], ends: Iterable[Values | None]) -> str | None:
        """Why nothing more is to be asked; None while there is budget left.

        `ends` are the results of ended trials in the order of their ends, None where there is none.
        """
        seconds = self._seconds + self.clock() - self._seen_at
        if self.budget.hours is not None and seconds >= self.budget.hours * 3600:
            return f"{self.budget.hours:g} hours are over"
        if self.budget.gpu_hours is not None and gpu_seconds(trials) >= self.budget.gpu_hours * 3600:
            return f"{self.budget.gpu_hours:g} GPU-hours are used up"
        if self.budget.patience is not None and since_improvement(ends) >= self.budget.patience:
            return f"{self.budget.patience} trials in a row were no improvement"
        return None


def comparable_seconds(report: Mapping[str, Any]) -> float:
    """Seconds until a report as they compare between kinds of GPUs; older reports have only one kind's."""
    seconds = report.get("calibrated_seconds")
    return float(report["gpu_seconds"] if seconds is None else seconds)


def gpu_seconds(trials: Iterable[Trial]) -> float:
    """Seconds inside training, over all trials."""
    return sum(float(trial.last().get("gpu_seconds", 0.0)) + trial.retried_seconds for trial in trials)
