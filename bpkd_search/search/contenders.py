"""What the race of a search knows: its settings, what was expected of them, and their scores over further seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bpkd_search.experiment.schema import BASELINE, COMPLETE, FAILED, REPLICATE
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.proposals import UNFITTED
from bpkd_search.search.racing import Setting, is_due, next_replicate
from bpkd_search.surrogate.model import Model
from bpkd_search.surrogate.tried import Tried, estimates

# Before the model knows enough: of the variance of scores, how much is between settings.
_BETWEEN = 0.6


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


def contenders(known: Known, again: Sequence[Trial]) -> tuple[list[Setting], float] | None:
    """The settings that may race, and the deviation between seeds; None before two are known or any baseline has ended.

    `again` are the replicates so far. A setting is known by its first trial, if that ran its full budget.
    """
    seed, metric, sign = known.seed, known.metric, known.sign
    first = [trial for trial in known.trials.values() if trial.origin != REPLICATE and trial.run.train.seed == seed]
    if any(trial.state is None for trial in first if trial.origin == BASELINE):
        return None  # what runs first has not ended yet
    full = [trial for trial in first if trial.state == COMPLETE]
    baselines = [trial for trial in full if trial.origin == BASELINE]
    searched = [trial for trial in full if trial.origin != BASELINE]
    if len(searched) < 2:
        return None
    mean, doubt, noise = _expected(known, searched)
    replicates: dict[int, list[Trial]] = {}
    for trial in again:
        replicates.setdefault(trial.replicate_of if trial.replicate_of is not None else -1, []).append(trial)

    def setting(trial: Trial, expected: float, doubt: float) -> Setting:
        mine = replicates.get(trial.number, [])
        ended = {t.run.train.seed - seed: sign * float(t.last()[metric]) for t in mine if t.state == COMPLETE}
        able = trial.feasible is not False and all(t.state != FAILED for t in mine)
        begun = frozenset(t.run.train.seed - seed for t in mine)
        return Setting(trial.number, trial.method, trial.origin != BASELINE, expected, doubt, able, ended, begun)

    made = [setting(trial, sign * float(trial.last()[metric]), noise) for trial in baselines]
    made += [setting(trial, float(m), float(d)) for trial, m, d in zip(searched, mean, doubt, strict=True)]
    return made, noise


def _expected(known: Known, searched: Sequence[Trial]) -> tuple[np.ndarray, np.ndarray, float]:
    """What is expected of settings in the mean over seeds, how unsure that is, and the deviation between seeds."""
    scores = np.array([known.sign * float(trial.last()[known.metric]) for trial in searched])
    spread = float(scores.std()) or 1e-9
    noise = np.sqrt(1 - _BETWEEN) * spread
    mean = scores.mean() + _BETWEEN * (scores - scores.mean())
    doubt = np.full(len(scores), np.sqrt(_BETWEEN) * noise)
    tried = {trial.number: trial for trial in known.tried()}
    model = known.model()
    inside = [i for i, trial in enumerate(searched) if trial.number in tried]
    if not (model.ready and model.encoding.width and inside):
        return mean, doubt, noise
    try:
        found = estimates(model, [tried[searched[i].number] for i in inside])
        mean[inside], doubt[inside], noise = found.mean, found.deviation, model.noise
    except UNFITTED:
        pass
    return mean, np.maximum(doubt, 0.05 * spread), max(noise, 0.05 * spread)
