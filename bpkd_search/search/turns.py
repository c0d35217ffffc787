"""Whose turn it is where several methods are tuned alike: the one that has had the least so far.

Both counts follow from the trials alone, so that a search that resumes goes on as it would have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from bpkd_search.experiment.schema import BASELINE, REPLICATE
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.spending import comparable_seconds


def next_method(methods: Sequence[str], trials: Iterable[Trial], *, by_seconds: bool) -> str:
    """The method with the fewest trials so far, or GPU-seconds; of equal ones the first.

    Baselines and replicates are nobody's trials. Seconds are those that compare between kinds of GPUs. A trial that
    runs counts with the mean of those that have ended, of its method if it has any, else of all, if it has not spent
    more; so does one that ended before its first report, or a method that only fails would get all trials.
    """
    own: dict[str, list[Trial]] = {method: [] for method in methods}
    for trial in trials:
        if trial.origin not in (BASELINE, REPLICATE) and trial.run.loss.method in own:
            own[trial.run.loss.method].append(trial)
    if not by_seconds:
        return min(methods, key=lambda method: len(own[method]))
    ended = {method: [cost for trial in own[method] if trial.state and (cost := _spent(trial))] for method in methods}
    everyone = [cost for costs in ended.values() for cost in costs]

    def seconds(method: str) -> float:
        usual = fmean(ended[method] or everyone or [0.0])
        return sum(
            _spent(trial) if trial.state and trial.reports else max(_spent(trial), usual) for trial in own[method]
        )

    return min(methods, key=lambda method: (seconds(method), len(own[method])))


def _spent(trial: Trial) -> float:
    return (comparable_seconds(trial.last()) if trial.reports else 0.0) + trial.retried_seconds
