"""One model of a search's space: from what trials reported, the mean over seeds at full budget of any point.

It knows trials in every state. Those that ran in full are its data; what a running or stopped one has reported
counts as far as early reports told the end of the others; a trial that only waits for its first report counts through
its point. Imports neither torch nor Ray, so that tables are read with it too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from bpkd_search.config.points import Point
from bpkd_search.config.space import Distribution
from bpkd_search.metrics.table import SCORES
from bpkd_search.surrogate.encoding import Encoding, Hint, Vectors
from bpkd_search.surrogate.forecast import Forecast, Message
from bpkd_search.surrogate.gaussian_process import Prediction, Surrogate, fit_kernel

Values = NDArray[np.float64]
# Full trials without which nothing is predicted.
ENOUGH = 4
# More trials than this are not told apart by what a model can use; those that ran last count.
_MOST = 300
# The kernel is fitted anew when this many times as many trials have ended as at the fit before.
_GROWTH = 1.2
_MOST_FITTED = 120


@dataclass
class Evidence:
    """What is known of one trial: its point, the scores of its reports by epoch, and its value at full budget."""

    point: Point
    reports: dict[int, dict[str, float]] = field(default_factory=dict)
    value: float | None = None
    # Squared error of a value that was measured elsewhere.
    variance: float = 0.0


class Model:
    """A model of one objective over a space; higher values are better.

    Every answer is a function of the evidence and its order alone, so that a search that is resumed or replayed gets
    the same ones. Values that are not finite are passed over.
    """

    def __init__(self, space: Mapping[str, Distribution], measures: Sequence[str] = SCORES) -> None:
        """`measures` are those of a report from which the end may be forecast."""
        self.encoding, self.measures = Encoding(space), measures
        self.evidence: dict[int, Evidence] = {}
        self._full: list[int] = []
        self._vectors: dict[int, Values] = {}
        self._kernels: dict[int, Any] = {}
        self._forecasts: dict[int, Forecast | None] = {}
        self._surrogate: Surrogate | None = None
        self._rows: list[int] = []

    def take_hint(self, hint: Hint) -> None:
        """Take what is known of points from elsewhere as one of their coordinates: what it is worth is learned."""
        self.encoding = Encoding(self.encoding.space, hint)
        self._vectors = {number: self.encoding.vectors([e.point])[0] for number, e in self.evidence.items()}
        self._kernels, self._surrogate = {}, None

    def asked(self, number: int, point: Point) -> None:
        """Take a trial that has begun, or begun anew."""
        if number in self._full:
            self._full.remove(number)
            self._forecasts, self._kernels = {}, {}
        self._surrogate = None
        self.evidence[number] = Evidence(dict(point))
        self._vectors[number] = self.encoding.vectors([point])[0]

    def reported(self, number: int, epoch: int, report: Mapping[str, Any]) -> None:
        """Take a report; trials that were not asked are passed over."""
        if number in self.evidence:
            scores = {name: float(report[name]) for name in self.measures if _is_number(report.get(name))}
            self.evidence[number].reports[epoch] = scores
            self._surrogate = None

    def ended(self, number: int, value: float | None, variance: float = 0.0) -> None:
        """Take the value at full budget of a trial that has one; None for one that stopped or failed before."""
        if number in self.evidence and _is_number(value):
            self.evidence[number].value, self.evidence[number].variance = value, variance
            self._full.append(number)
            self._forecasts = {}
        self._surrogate = None

    @property
    def can_judge(self) -> bool:
        """Whether the model predicts trials that it is not told of better than their mean does."""
        if len(self._full) < ENOUGH:
            return False
        surrogate = self._fitted()
        full = [i for i, number in enumerate(self._rows) if self.evidence[number].value is not None]
        values = np.array([self.evidence[self._rows[i]].value for i in full], dtype=np.float64)
        error = surrogate.held_out.mean[full] - values
        return bool(np.mean(error**2) < np.var(values) * (len(values) / (len(values) - 1)) ** 2)

    @property
    def ready(self) -> bool:
        """Whether there are trials enough to predict anything."""
        return len(self._full) >= ENOUGH

    @property
    def noise(self) -> float:
        """Standard deviation between seeds."""
        return self._fitted().noise

    def full(self) -> list[int]:
        """The trials with a value at full budget, in the order of their ends."""
        return list(self._full)

    def predict(self, points: Iterable[Mapping[str, Any]]) -> Prediction:
        """The mean over seeds at full budget of each point; needs `ready`."""
        return self.predict_vectors(self.encoding.vectors(points))

    def predict_vectors(self, vectors: Vectors) -> Prediction:
        """The same for points that are encoded, float64 [points, width]."""
        with _threads().limit(limits=1):
            return self._fitted().predict(vectors)

    def estimate(self, numbers: Sequence[int]) -> Prediction:
        """The mean over seeds at full budget of trials' points, with all that they reported; needs `ready`."""
        return self.predict_vectors(np.array([self._vectors[n] for n in numbers]).reshape(-1, self.encoding.width))

    def believing(self, points: Vectors) -> Surrogate:
        """The surrogate as it were had trials at these points come out as predicted; needs `ready`."""
        surrogate = self._fitted()
        if not len(points):
            return surrogate
        vectors, values, variance = self._data
        believed = surrogate.predict(points).mean
        with _threads().limit(limits=1):
            return Surrogate(
                self._kernel(),
                np.concatenate([vectors, points]),
                np.concatenate([values, believed]),
                np.concatenate([variance, np.zeros(len(points))]),
                self._values_of(self._full),
            )

    def silent(self) -> Vectors:
        """The encoded points of trials about whose end the model has heard nothing yet."""
        heard = set(self._rows)
        quiet = [n for n, evidence in self.evidence.items() if n not in heard and evidence.value is None]
        return np.array([self._vectors[n] for n in quiet]).reshape(-1, self.encoding.width)

    def _fitted(self) -> Surrogate:
        if self._surrogate is None:
            with _threads().limit(limits=1):
                self._rows, self._data = self._gather()
                self._surrogate = Surrogate(self._kernel(), *self._data, self._values_of(self._full))
        return self._surrogate

    def _gather(self) -> tuple[list[int], tuple[Vectors, Values, Values]]:
        """Trials with a value or a forecast of it: their numbers, vectors, values and variances."""
        messages = {number: Message(e.value, e.variance) for number, e in self.evidence.items() if e.value is not None}
        for number, evidence in self.evidence.items():
            if evidence.value is None and evidence.reports and (message := self._message(evidence)):
                messages[number] = message
        rows = [*self._full, *(number for number in messages if self.evidence[number].value is None)][-_MOST:]
        kept = [messages[number] for number in rows]
        return rows, (
            np.array([self._vectors[number] for number in rows]),
            np.array([message.value for message in kept]),
            np.array([message.variance for message in kept]),
        )

    def _message(self, evidence: Evidence) -> Message | None:
        epoch = max(evidence.reports)
        forecast = self._forecast(epoch)
        names = self._names(epoch)
        if forecast is None or any(name not in evidence.reports[epoch] for name in names):
            return None
        return forecast.message(np.array([evidence.reports[epoch][name] for name in names]))

    def _forecast(self, epoch: int) -> Forecast | None:
        if epoch not in self._forecasts:
            full, names = self._with_report(epoch), self._names(epoch)
            self._forecasts[epoch] = None
            if len(full) >= ENOUGH and names:
                early = [[self.evidence[n].reports[epoch][name] for name in names] for n in full]
                self._forecasts[epoch] = Forecast(np.array(early), self._values_of(full))
        return self._forecasts[epoch]

    def _with_report(self, epoch: int) -> list[int]:
        return [n for n in self._full if epoch in self.evidence[n].reports][-_MOST:]

    def _names(self, epoch: int) -> list[str]:
        """The scores that every full trial reported at that epoch."""
        full = self._with_report(epoch)
        return [name for name in self.measures if full and all(name in self.evidence[n].reports[epoch] for n in full)]

    def _kernel(self) -> Any:
        """The kernel, fitted to the first full trials, as many as there were at the last of growing numbers."""
        count = min(len(self._full), _MOST_FITTED)
        if count > 10:
            count = int(10 * _GROWTH ** math.floor(math.log(count / 10, _GROWTH) + 1e-9))
        if count not in self._kernels:
            first = self._full[:count]
            vectors = np.array([self._vectors[number] for number in first])
            self._kernels[count] = fit_kernel(vectors, self._values_of(first))
        return self._kernels[count]

    def _values_of(self, numbers: Sequence[int]) -> Values:
        return np.array([self.evidence[number].value for number in numbers], dtype=np.float64)


@cache
def _threads() -> ThreadpoolController:
    """Matrices are small, and trials train on the other cores; finding the libraries takes longer than a fit."""
    return ThreadpoolController()


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)
