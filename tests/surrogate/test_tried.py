"""What the model is told of trials, and that only the trials count."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter

from bpkd_search.config.space import Distribution
from bpkd_search.surrogate.model import Model
from bpkd_search.surrogate.tried import MOST_FULL, MOST_OTHERS, Tried, estimates, model_of, told

SPACE = TypeAdapter(dict[str, Distribution]).validate_python(
    {"a": {"float": [0.0, 1.0]}, "b": {"float": [0.1, 10.0], "log": True}}
)


def trials(count: int, every: int = 3) -> list[Tried]:
    """Trials of which every third was stopped after one report."""
    draw = np.random.default_rng(0)
    found = []
    for number in range(count):
        a, b, noise = draw.random(), 10 ** draw.uniform(-1, 1), 0.01 * draw.normal()
        value = 0.5 - (a - 0.3) ** 2 + noise
        reports = {1: {"miou": value / 2, "accuracy": value}, 2: {"miou": value, "accuracy": value}}
        full = number % every != 0
        found.append(Tried(number, {"a": a, "b": b}, value if full else None, reports if full else {1: reports[1]}))
    return found


def test_estimates_are_those_of_a_model_that_is_told_everything_in_order() -> None:
    known = trials(18)
    model = Model(SPACE)
    for trial in known:
        model.asked(trial.number, trial.point)
        for epoch, report in trial.reports.items():
            model.reported(trial.number, epoch, report)
        model.ended(trial.number, trial.value)
    mixed = list(known)
    random.Random(0).shuffle(mixed)
    expected = model.estimate([trial.number for trial in mixed])
    found = estimates(model_of(SPACE, mixed), mixed)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.deviation, expected.deviation, rtol=1e-9)


def test_of_many_trials_the_newest_of_each_kind_are_told_and_all_are_estimated() -> None:
    known = trials(3 * MOST_FULL)
    chosen = told(known)
    full = [trial.number for trial in chosen if trial.value is not None]
    others = [trial.number for trial in chosen if trial.value is None]
    assert full == [n for n in range(3 * MOST_FULL) if n % 3][-MOST_FULL:]
    assert others == [n for n in range(3 * MOST_FULL) if n % 3 == 0][-MOST_OTHERS:]
    model = model_of(SPACE, known)
    found = estimates(model, known)
    assert sorted(model.evidence) == sorted([*full, *others])
    # The first trial is not told of, and judged by its point alone, as if it had reported nothing.
    assert found.mean[0] == pytest.approx(model.predict([known[0].point]).mean[0])
    assert abs(found.mean - [0.5 - (trial.point["a"] - 0.3) ** 2 for trial in known]).max() < 0.02


def test_what_a_stopped_trial_reported_moves_its_estimate() -> None:
    known = trials(30)
    last = replace(known[-1], number=99, value=None, point={"a": 0.9, "b": 1.0})
    low, high = ({1: {"miou": value / 2, "accuracy": value}} for value in (0.1, 0.5))
    means = [
        estimates(model_of(SPACE, [*known, replace(last, reports=reports)]), [last]).mean[0] for reports in (low, high)
    ]
    assert means[0] < means[1]
