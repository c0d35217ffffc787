"""What a trial's early reports say about its end: learned from the trials of the same search that ran in full."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
# Strengths of the ridge among which the held-out error chooses.
_STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class Message(NamedTuple):
    """An observation of a trial's final value that its early reports amount to: a value and its variance."""

    value: float
    variance: float


class Forecast:
    """A ridge regression from the measures reported early to the final value.

    `early` are the measures of n full trials at one place of their budget, float64 [n, measures], `final` their
    values, float64 [n]. How strongly measures are trusted is chosen by leave-one-out error, which is also how sure
    the forecast then is. Needs three trials.
    """

    def __init__(self, early: Values, final: Values) -> None:
        self._middle, self._spread = early.mean(0), early.std(0)
        self._spread = np.where(self._spread > 0, self._spread, np.inf)  # a measure that never moves says nothing
        self._mean, self._variance = float(final.mean()), float(final.var(ddof=1))
        residual = final - self._mean
        left, singular, right = np.linalg.svd((early - self._middle) / self._spread, full_matrices=False)
        self.error, self._weights = np.inf, np.zeros(early.shape[1])
        for strength in _STRENGTHS:
            shrunk = singular**2 / (singular**2 + strength)
            fitted = (left * shrunk) @ (left.T @ residual)
            leverage = (left**2) @ shrunk + 1 / len(final)
            error = float(np.sqrt(np.mean(((residual - fitted) / (1 - np.minimum(leverage, 0.99))) ** 2)))
            if error < self.error:
                self.error = error
                self._weights = right.T @ (singular / (singular**2 + strength) * (left.T @ residual))

    def message(self, early: Values) -> Message | None:
        """What the measures of one trial, float64 [measures], add to what was known of it; None if that is nothing.

        The forecast is a posterior whose prior was the spread of all final values, and the observation is what led
        from that one to this.
        """
        if self.error**2 >= self._variance:
            return None
        forecast = self._mean + float((early - self._middle) / self._spread @ self._weights)
        precision = 1 / max(self.error**2, 1e-6 * self._variance) - 1 / self._variance
        value = (forecast / max(self.error**2, 1e-6 * self._variance) - self._mean / self._variance) / precision
        return Message(value, 1 / precision)
