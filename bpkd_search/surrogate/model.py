"""One model of a search's space: from what trials reported, the mean over seeds at full budget of any point.

It knows trials in every state. Those that ran in full are its data; what a running or stopped one has reported
counts as far as early reports told the end of the others; a trial that only waits for its first report counts through
its point. Imports neither torch nor Ray, so that tables are read with it too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from bpkd_search.config.points import Point
from bpkd_search.config.space import Distribution
from bpkd_search.metrics.table import SCORES
from bpkd_search.surrogate.encoding import Encoding, Hint, Vectors
from bpkd_search.surrogate.forecast import ENOUGH, Ended, Forecasts, Message
from bpkd_search.surrogate.gaussian_process import Prediction, Surrogate, fit_kernel, one_thread, prior_kernel

Values = NDArray[np.float64]
# More trials than this are not told apart by what a model can use; those that ran last count.
_MOST = 300
# The kernel is fitted anew when this many times as many trials have ended as at the fit before.
_GROWTH = 1.3
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

    def __init__(
        self,
        space: Mapping[str, Distribution],
        measures: Sequence[str] = SCORES,
        early: str | None = None,
        sign: int = 1,
        rounds: int = 0,
    ) -> None:
        """`measures` are those of a report from which the end may be forecast.

        `early` is the measure whose last report is the value, times `sign`: with it, points are compared before enough
        trials have run in full.
        """
        self.encoding, self.measures, self._early, self._sign = Encoding(space), measures, early, sign
        self._rounds = rounds
        self.evidence: dict[int, Evidence] = {}
        self._full: list[int] = []
        self._ended: list[int] = []
        self._vectors: dict[int, Values] = {}
        self._kernels: dict[int, Any] = {}
        self._forecasts: Forecasts | None = None
        self._messages: dict[int, Message | None] = {}
        self._surrogate: Surrogate | None = None
        self._rows: list[int] = []

    def take_hint(self, hint: Hint) -> None:
        """Take what is known of points from elsewhere as one of their coordinates: what it is worth is learned."""
        self.encoding = Encoding(self.encoding.space, hint)
        self._vectors = {number: self.encoding.vectors([e.point])[0] for number, e in self.evidence.items()}
        self._kernels, self._surrogate = {}, None

    def asked(self, number: int, point: Point) -> None:
        """Take a trial that has begun, or begun anew."""
        if number in self._ended:
            self._ended.remove(number)
            self._full = [other for other in self._full if other != number]
            self._forecasts, self._kernels = None, {}
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
        if number in self.evidence:
            if _is_number(value):
                self.evidence[number].value, self.evidence[number].variance = value, variance
                self._full.append(number)
            self._ended.append(number)
        self._forecasts = self._surrogate = None

    @property
    def can_judge(self) -> bool:
        """Whether the model predicts trials that it is not told of better than their mean does."""
        if not self.ready:
            return False
        surrogate = self._fitted()
        full = [i for i, number in enumerate(self._rows) if self.evidence[number].value is not None]
        values = np.array([self.evidence[self._rows[i]].value for i in full], dtype=np.float64)
        error = surrogate.held_out.mean[full] - values
        return bool(np.mean(error**2) < np.var(values) * (len(values) / (len(values) - 1)) ** 2)

    def horizon(self) -> int | None:
        """The epoch whose values the model is of: None, the last, once enough trials have run in full.

        Before, the latest that as many have come to; 0 if there is none.
        """
        if self._early is None or len(self._full) >= ENOUGH:
            return None
        came = sorted(
            (
                max((epoch for epoch, report in e.reports.items() if self._early in report), default=0)
                for e in self.evidence.values()
            ),
            reverse=True,
        )
        return came[ENOUGH - 1] if len(came) >= ENOUGH else 0

    @property
    def can_propose(self) -> bool:
        """Whether points can be compared: `ready`, or enough trials have come to one epoch."""
        return self.ready or bool(self.horizon())

    def known(self) -> list[int]:
        """The trials whose values at the horizon are known."""
        horizon = self.horizon()
        return (
            self.full()
            if horizon is None
            else [n for n, e in self.evidence.items() if self._early in e.reports.get(horizon, {})]
        )

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

    def best(self) -> float:
        """The best estimated mean of a point whose value at the horizon is known; needs `can_propose`."""
        return float(self.estimate(self.known()).mean.max())

    def improvement(self, number: int) -> float:
        """By how much a trial's mean is expected to exceed the best; needs `can_propose`."""
        return float(self._fitted().improvement(self._vectors[number][None], self.best())[0])

    def lead(self, number: int) -> float:
        """How probable it is that a trial's mean is above that of the point that leads; needs `can_propose`."""
        others = [other for other in self.known() if other != number]
        leader = others[int(np.argmax(self.estimate(others).mean))]
        (mine, its), covariance = self.together([number, leader])
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        return float(norm.cdf((mine - its) / math.sqrt(max(variance, 1e-300))))

    def predict(self, points: Iterable[Mapping[str, Any]]) -> Prediction:
        """The mean over seeds at full budget of each point; needs `ready`."""
        return self.predict_vectors(self.encoding.vectors(points))

    def predict_vectors(self, vectors: Vectors) -> Prediction:
        """The same for points that are encoded, float64 [points, width]."""
        return self._fitted().predict(vectors)

    def estimate(self, numbers: Sequence[int]) -> Prediction:
        """The mean over seeds at full budget of trials' points, with all that they reported; needs `ready`."""
        return self.predict_vectors(np.array([self._vectors[n] for n in numbers]).reshape(-1, self.encoding.width))

    def predict_together(self, points: Iterable[Mapping[str, Any]]) -> tuple[Values, Values]:
        """The means over seeds of points, and their covariance, float64 [points, points]; needs `ready`."""
        return self._fitted().together(self.encoding.vectors(points))

    def together(self, numbers: Sequence[int]) -> tuple[Values, Values]:
        """The means over seeds of trials' points, and their covariance."""
        return self._fitted().together(np.array([self._vectors[n] for n in numbers]))

    def believing(self, points: Vectors) -> Surrogate:
        """The surrogate as it were had trials at these points come out as predicted; needs `ready`."""
        surrogate = self._fitted()
        if not len(points):
            return surrogate
        vectors, values, variance = self._data
        believed = surrogate.predict(points).mean
        return Surrogate(
            self._kernel(),
            np.concatenate([vectors, points]),
            np.concatenate([values, believed]),
            np.concatenate([variance, np.zeros(len(points))]),
            self._scale(self._full),
        )

    def tried(self) -> Vectors:
        """The encoded points of all trials, float64 [trials, width]."""
        return np.array(list(self._vectors.values())).reshape(-1, self.encoding.width)

    def silent(self) -> Vectors:
        """The encoded points of trials about whose end the model has heard nothing yet; needs `can_propose`."""
        self._fitted()  # what it has heard of is told by the newest fit
        heard = set(self._rows)
        quiet = [n for n, evidence in self.evidence.items() if n not in heard and evidence.value is None]
        return np.array([self._vectors[n] for n in quiet]).reshape(-1, self.encoding.width)

    @one_thread
    def _fitted(self) -> Surrogate:
        if self._surrogate is None:
            self._rows, self._data = self._gather()
            self._surrogate = Surrogate(self._kernel(), *self._data, self._scale(self._full))
        return self._surrogate

    def _gather(self) -> tuple[list[int], tuple[Vectors, Values, Values]]:
        """Trials with a value or a forecast of it: their numbers, vectors, values and variances."""
        if (horizon := self.horizon()) is not None:
            return self._gather_at(horizon)
        if self._forecasts is None:
            self._forecasts = self._learned_from(self._ended)
            self._messages = {}
        ended = set(self._ended)
        for number in [number for number in self._ended[-_MOST:] if number not in self._messages]:
            self._messages[number] = self._known(number, self._forecasts)
        running = [number for number in self.evidence if number not in ended][-_MOST:]
        found = self._messages | {number: self._known(number, self._forecasts) for number in running}
        return self._arrays({number: message for number, message in found.items() if message is not None})

    def _gather_at(self, horizon: int) -> tuple[list[int], tuple[Vectors, Values, Values]]:
        """The same of values at an epoch that not all trials have come to."""
        known = {n: self._at(n, horizon) for n in self.known()}
        before = {n: {at: r for at, r in e.reports.items() if at < horizon} for n, e in self.evidence.items()}
        forecasts = Forecasts([Ended(before[n], value) for n, value in known.items()], self.measures)
        messages = {n: Message(value, 0.0) for n, value in known.items()}
        for number in self.evidence:
            if number not in known and (message := forecasts.message(before[number])) is not None:
                messages[number] = message
        if self._rounds and len(known) > 1:
            # That values correlate with the ends by the share of the budget that they took is a guess: the trials that
            # are known show nothing of it yet.
            shown = (horizon / self._rounds) ** 2
            spread = float(np.var(list(known.values())))
            messages = {
                n: Message(m.value, spread * ((1 + m.variance / (spread or 1.0)) / shown - 1))
                for n, m in messages.items()
            }
        return self._arrays(messages)

    def _arrays(self, messages: Mapping[int, Message]) -> tuple[list[int], tuple[Vectors, Values, Values]]:
        rows = list(messages)[-_MOST:]
        return rows, (
            np.array([self._vectors[number] for number in rows]).reshape(-1, self.encoding.width),
            np.array([messages[number].value for number in rows]),
            np.array([messages[number].variance for number in rows]),
        )

    def _known(self, number: int, forecasts: Forecasts) -> Message | None:
        evidence = self.evidence[number]
        if evidence.value is not None:
            return Message(evidence.value, evidence.variance)
        return forecasts.message(evidence.reports)

    def _learned_from(self, numbers: Sequence[int]) -> Forecasts:
        kept = [self.evidence[number] for number in numbers[-_MOST:]]
        return Forecasts([Ended(evidence.reports, evidence.value) for evidence in kept], self.measures)

    def _kernel(self) -> Any:
        """The kernel, fitted to the first trials that ended, as many as there were at the last of growing numbers."""
        if self.horizon() is not None:
            return prior_kernel(self.encoding.width)
        count = min(len(self._ended), _MOST_FITTED)
        if count > ENOUGH:
            count = int(ENOUGH * _GROWTH ** math.floor(math.log(count / ENOUGH, _GROWTH) + 1e-9))
        if count not in self._kernels:
            first = self._ended[:count]
            forecasts = self._learned_from(first)
            found = {number: self._known(number, forecasts) for number in first}
            _, (vectors, values, variance) = self._arrays({n: m for n, m in found.items() if m is not None})
            self._kernels[count] = fit_kernel(vectors, values, variance, self._scale(first))
        return self._kernels[count]

    def _scale(self, numbers: Sequence[int]) -> Values:
        """The values at the horizon of those of the trials that have one."""
        if (horizon := self.horizon()) is not None:
            return np.array([self._at(n, horizon) for n in self.known()])
        return self._values_of([number for number in numbers if self.evidence[number].value is not None])

    def _at(self, number: int, epoch: int) -> float:
        """What a trial's value is at an epoch before the last."""
        return self._sign * self.evidence[number].reports[epoch][str(self._early)]

    def _values_of(self, numbers: Sequence[int]) -> Values:
        return np.array([self.evidence[number].value for number in numbers], dtype=np.float64)


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)
