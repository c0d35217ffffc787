"""What the model makes of trials, wherever they are known from: a search that runs, or the tables of a folder.

Both give the same trials, and so get the same estimates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bpkd_search.config.points import Point
from bpkd_search.config.space import Distribution
from bpkd_search.surrogate.gaussian_process import Prediction
from bpkd_search.surrogate.model import Model

# Of more trials, the model is told of the newest: its cost grows with their cube.
MOST_FULL, MOST_OTHERS = 200, 100


@dataclass(frozen=True)
class Tried:
    """A trial at a point of the space, with its reports by epoch.

    `value` is the objective at full budget, with a sign such that higher is better; None for a trial that is running,
    was stopped or failed. `ended` says whether it will report no more.
    """

    number: int
    point: Point
    value: float | None = None
    reports: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    ended: bool = True


def told(trials: Iterable[Tried]) -> list[Tried]:
    """Return the trials that the model is told of: the newest of each kind, in the order of their numbers.

    The order in which trials ended does not matter, so that it need not be known.
    """
    known = sorted(trials, key=lambda trial: trial.number)
    full = [trial for trial in known if trial.value is not None][-MOST_FULL:]
    others = [trial for trial in known if trial.value is None][-MOST_OTHERS:]
    return sorted([*full, *others], key=lambda trial: trial.number)


def model_of(space: Mapping[str, Distribution], trials: Iterable[Tried]) -> Model:
    """Return the model of a space that knows what `told` chooses of the trials."""
    model = Model(space)
    for trial in told(trials):
        model.asked(trial.number, trial.point)
        for epoch, report in sorted(trial.reports.items()):
            model.reported(trial.number, epoch, report)
        if trial.ended:
            model.ended(trial.number, trial.value)
    return model


def estimates(model: Model, trials: Sequence[Tried]) -> Prediction:
    """Return the mean over seeds at full budget of each trial's setting; needs `model.ready`.

    Trials that the model was told of are judged by all that they reported, others by their points.
    """
    mean, deviation = np.empty(len(trials)), np.empty(len(trials))
    known = np.array([trial.number in model.evidence for trial in trials], dtype=bool)
    if known.any():
        numbers = [trial.number for trial in trials if trial.number in model.evidence]
        mean[known], deviation[known] = model.estimate(numbers)
    if not known.all():
        points = [trial.point for trial in trials if trial.number not in model.evidence]
        mean[~known], deviation[~known] = model.predict(points)
    return Prediction(mean, deviation)
