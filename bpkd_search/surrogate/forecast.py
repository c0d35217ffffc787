"""What a trial's early reports say about its end: learned from the trials of the same search that have ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Curve = Mapping[int, Mapping[str, float]]
# Full trials without which nothing is forecast.
ENOUGH = 4
# Strengths of the ridge among which the held-out error chooses.
_STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class Message(NamedTuple):
    """An observation of a trial's final value that its early reports amount to: a value and its variance."""

    value: float
    variance: float


class Ended(NamedTuple):
    """A trial that has ended: the scores of its reports by epoch, and its value if it ran in full."""

    reports: Curve
    value: float | None


class Forecast:
    """A ridge regression from the measures reported early to the final value.

    `early` are the measures of n trials at one place of their budget, float64 [n, measures], `final` their values,
    float64 [n], and `variance` how unsure each of these is, float64 [n]. How strongly measures are trusted is chosen
    by leave-one-out error, which is also how sure the forecast then is. Needs three trials.
    """

    def __init__(self, early: Values, final: Values, variance: Values) -> None:
        self._middle, self._spread = early.mean(0), early.std(0)
        self._spread = np.where(self._spread > 0, self._spread, np.inf)  # a measure that never moves says nothing
        unsure = float(variance.mean())
        self.mean, self.variance = float(final.mean()), float(final.var(ddof=1)) + unsure
        residual = final - self.mean
        left, singular, right = np.linalg.svd((early - self._middle) / self._spread, full_matrices=False)
        least, self._weights = np.inf, np.zeros(early.shape[1])
        for strength in _STRENGTHS:
            shrunk = singular**2 / (singular**2 + strength)
            fitted = (left * shrunk) @ (left.T @ residual)
            leverage = (left**2) @ shrunk + 1 / len(final)
            error = float(np.mean(((residual - fitted) / (1 - np.minimum(leverage, 0.99))) ** 2))
            if error < least:
                least = error
                self._weights = right.T @ (singular / (singular**2 + strength) * (left.T @ residual))
        self.error = float(np.sqrt(least + unsure))

    def final(self, early: Values) -> Message:
        """The final value of a trial with these measures, float64 [measures], and the squared error of that."""
        value = self.mean + float((early - self._middle) / self._spread @ self._weights)
        return Message(value, max(self.error**2, 1e-6 * self.variance))

    def message(self, early: Values) -> Message | None:
        """What the measures of one trial, float64 [measures], add to what was known of it; None if that is nothing.

        The forecast is a posterior whose prior was the spread of all final values, and the observation is what led
        from that one to this.
        """
        if self.error**2 >= self.variance:
            return None
        value, variance = self.final(early)
        precision = 1 / variance - 1 / self.variance
        return Message((value / variance - self.mean / self.variance) / precision, 1 / precision)


class Forecasts:
    """Forecasts from every epoch, from the last one backwards, learned from trials that have ended.

    Those that were stopped count with what their last reports forecast: stopped trials are not like those that ran in
    full, and a forecast learned from the latter alone would be one of survivors.
    """

    def __init__(self, ended: Sequence[Ended], measures: Sequence[str]) -> None:
        self._ended, self._measures = ended, measures
        self._last = [max(trial.reports, default=0) for trial in ended]
        self._made: dict[int, tuple[list[str], Forecast] | None] = {}
        self._ready = sum(trial.value is not None for trial in ended) >= ENOUGH

    def message(self, reports: Curve) -> Message | None:
        """What the reports of a trial add to what was known of its final value; None if that is nothing."""
        epoch = max(reports, default=0)
        made = self._at(epoch)
        early = None if made is None else _row(reports[epoch], made[0])
        return None if made is None or early is None else made[1].message(early)

    def at(self, reports: Curve) -> Message | None:
        """The final value that the reports of a trial forecast, and the squared error of that; None if nothing does."""
        epoch = max(reports, default=0)
        made = self._at(epoch)
        early = None if made is None else _row(reports[epoch], made[0])
        return None if made is None or early is None else made[1].final(early)

    def _at(self, epoch: int) -> tuple[list[str], Forecast] | None:
        if not self._ready or epoch < 1:
            return None
        if epoch not in self._made:
            self._made[epoch] = self._learn(epoch)
        return self._made[epoch]

    def _learn(self, epoch: int) -> tuple[list[str], Forecast] | None:
        known = [
            (trial.reports[epoch], final)
            for trial, last in zip(self._ended, self._last, strict=True)
            if epoch in trial.reports
            and (trial.value is not None or last > epoch)
            and (final := self.at(trial.reports) if trial.value is None else Message(trial.value, 0.0)) is not None
        ]
        names = [name for name in self._measures if known and all(name in report for report, _ in known)]
        if len(known) < ENOUGH or not names:
            return None
        early = np.array([[report[name] for name in names] for report, _ in known])
        finals = np.array([final for _, final in known])
        return names, Forecast(early, finals[:, 0], finals[:, 1])


def _row(report: Mapping[str, float], names: Iterable[str]) -> Values | None:
    names = list(names)
    return np.array([report[name] for name in names]) if all(name in report for name in names) else None
