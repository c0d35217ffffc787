"""What the race of a search knows: its settings, what was expected of them, and their scores over further seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bpkd_search.experiment.schema import BASELINE, COMPLETE, FAILED, REPLICATE
from bpkd_search.experiment.trial import Trial
from bpkd_search.results.expectation import Expected, expected_of
from bpkd_search.search.racing import Setting, is_due, next_replicate
from bpkd_search.surrogate.model import Model
from bpkd_search.surrogate.tried import Tried


@dataclass(frozen=True)
class Known:
    """The trials of a search by number, its training seed, the metric that ranks with its sign, 1 or -1, and the model.

    `tried` and `model` are those of `State`; they are only called where a race needs them.
    """

    trials: Mapping[int, Trial]
    seed: int
    metric: str
    sign: float
    tried: Callable[[], Sequence[Tried]]
    model: Callable[[], Model]


def replicate(known: Known) -> tuple[Trial, int] | None:
    """The trial whose setting runs again next, and with which seed of the race, from 1 on; None for a new setting."""
    again = [trial for trial in known.trials.values() if trial.origin == REPLICATE]
    fixed = sum(trial.origin == BASELINE for trial in known.trials.values())
    if not is_due(len(known.trials) - fixed - len(again), len(again)):
        return None
    found = contenders(known, again)
    chosen = None if found is None else next_replicate(*found)
    return None if chosen is None else (known.trials[chosen[0]], chosen[1])


def contenders(known: Known, again: Sequence[Trial]) -> tuple[list[Setting], Expected] | None:
    """The settings that may race, and what is expected of them; None before two are known or any baseline has ended.

    `again` are the replicates so far. A setting is known by its first trial, if that ran its full budget.
    """
    seed, metric, sign = known.seed, known.metric, known.sign
    first = [trial for trial in known.trials.values() if trial.origin != REPLICATE and trial.run.train.seed == seed]
    if any(trial.state is None for trial in first if trial.origin == BASELINE):
        return None  # what runs first has not ended yet
    full = [trial for trial in first if trial.state == COMPLETE]
    drawn = np.array([trial.origin != BASELINE for trial in full], dtype=bool)
    if drawn.sum() < 2:
        return None
    replicates: dict[int, list[Trial]] = {}
    for trial in again:
        replicates.setdefault(trial.replicate_of if trial.replicate_of is not None else -1, []).append(trial)

    def score(trial: Trial) -> float:
        return sign * float(trial.last()[metric])

    def setting(trial: Trial) -> Setting:
        mine = replicates.get(trial.number, [])
        ended = {t.run.train.seed - seed: score(t) for t in mine if t.state == COMPLETE}
        able = trial.feasible is not False and all(t.state != FAILED for t in mine)
        begun = frozenset(t.run.train.seed - seed for t in mine)
        return Setting(trial.number, trial.method, trial.origin != BASELINE, able, ended, begun)

    points = {trial.number: trial.point for trial in known.tried()}
    expected = expected_of(
        np.array([score(trial) for trial in full]),
        [trial.method for trial in full],
        drawn,
        known.model(),
        [points.get(trial.number) for trial in full],
    )
    return [setting(trial) for trial in full], expected
