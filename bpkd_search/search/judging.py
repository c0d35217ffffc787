"""What a trial's results are worth: its objectives, whether it keeps the constraints, what the study is told."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bpkd_search.config.points import PLAIN_BASELINES
from bpkd_search.config.search import Search
from bpkd_search.experiment.schema import BASELINE, COMPLETE, REPLICATE
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.ranking import violations, worst
from bpkd_search.search.stopping import Values


class Judging:
    """Judges the trials of one search, which are those of the mapping `trials` at the time of each call.

    `fixed` are the trials that the search runs first: constraints may wait for the baselines among them.
    """

    def __init__(self, search: Search, fixed: Sequence[Trial], trials: Mapping[int, Trial]) -> None:
        self.search, self.trials = search, trials
        self._awaited = [number for number, trial in enumerate(fixed) if trial.method in PLAIN_BASELINES]

    def values(self, report: Mapping[str, Any]) -> Values | None:
        """The objectives with signs such that higher is better; None where one is missing or undefined."""
        goals = self.search.goals
        values = tuple(report.get(name, math.nan) for name in goals)
        if any(value is None or not math.isfinite(value) for value in values):
            return None
        return tuple(v if d == "max" else -v for v, d in zip(values, goals.values(), strict=True))

    def feasible(self, trial: Trial) -> bool | None:
        """Whether a full-budget trial keeps the constraints, as far as the baselines have ended."""
        broken = self._violations(trial)
        return max(broken.values()) <= 0 if broken else None

    def changed(self) -> Iterator[tuple[Trial, bool | None]]:
        """Trials whose feasibility is not what it was: constraints may depend on baselines that ended later."""
        for trial in self.trials.values():
            if trial.state == COMPLETE and (feasible := self.feasible(trial)) is not trial.feasible:
                yield trial, feasible

    def result(self, trial: Trial) -> Values | None:
        """What an ended trial adds to the search's progress; None without a full result."""
        return self.values(trial.last()) if trial.state == COMPLETE else None

    def counts(self, trial: Trial) -> bool:
        """Whether a trial counts for `patience`: baselines, replicates and those that break a constraint do not."""
        return trial.origin not in (BASELINE, REPLICATE) and trial.feasible is not False

    def told(self, trial: Trial) -> tuple[str, list[float] | None, str | None, dict[str, float] | None] | None:
        """What the study is told of an ended trial, as `Study.tell` takes it; None while that has to wait."""
        state, values, broken = str(trial.state), None, None
        if state == COMPLETE:
            if self._limits_may_move():
                return None
            values, broken = self._objectives(trial), self._violations(trial)
        elif trial.reason == "nan":
            # Optuna's samplers take no notice of failed trials, and would propose the like again and again.
            values = self._worst(trial)
            if values is None:
                return None
            state, broken = COMPLETE, self._all_broken()
        return state, values, trial.reason, broken

    def _objectives(self, trial: Trial) -> list[float]:
        return [trial.last()[name] for name in self.search.goals]

    def _violations(self, trial: Trial) -> dict[str, float]:
        return violations(self.search, trial.last(), self.trials.values())

    def _limits_may_move(self) -> bool:
        """Whether a constraint depends on a baseline that has not ended."""
        return any(bound == "baseline" for _, _, bound in self.search.limits()) and any(
            number not in self.trials or self.trials[number].state is None for number in self._awaited
        )

    def _worst(self, diverged: Trial) -> list[float] | None:
        """Objectives worse than those of every full-budget trial that its study has; None before the first."""
        apart = self.search.methods
        full = (
            self._objectives(trial)
            for trial in self.trials.values()
            if trial.state == COMPLETE and (not apart or trial.run.loss.method == diverged.run.loss.method)
        )
        return worst(full, self.search.goals.values())

    def _all_broken(self) -> dict[str, float]:
        """Violations for a trial that diverged."""
        broken = dict.fromkeys(self.search.constraints, 1.0)
        # TPE ranks what was stopped early behind all that was not, so that a bad value alone is not the last place.
        return broken | {"diverged": 1.0} if self.search.sampler.name == "tpe" else broken
