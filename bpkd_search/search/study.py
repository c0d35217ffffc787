"""The Optuna side: a study in a journal file that proposes points and is told the truth about them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState

from bpkd_search.config.models import Choice, Distribution, IntRange, Sampler, SearchConfig
from bpkd_search.config.points import Point, in_order, is_active, plain
from bpkd_search.results.schema import COMPLETE, FAILED, PRUNED

FILE = "study.journal"
_STATES = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}


def make_sampler(sampler: Sampler, conditional: bool, seed: int) -> optuna.samplers.BaseSampler:
    """An Optuna sampler by name; a conditional space is sampled in groups of parameters that occur together."""
    if sampler.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=sampler.startup, multivariate=True, group=conditional, constant_liar=True
    )


def suggest(trial: Trial, path: str, distribution: Distribution) -> Any:
    """Ask an Optuna trial for one parameter."""
    if isinstance(distribution, Choice):
        return trial.suggest_categorical(path, list(distribution.options))
    low, high = distribution.bounds
    if isinstance(distribution, IntRange):
        return trial.suggest_int(path, int(low), int(high), step=distribution.step, log=distribution.log)
    return trial.suggest_float(path, low, high, step=distribution.step, log=distribution.log)


class Study:
    """Trials of the space as an Optuna study; `number` is the trial's number in the experiment.

    The sampler is made anew for every ask, seeded by (search seed, number): a proposal depends on the
    finished trials and its number alone, and is the same after a restart. Baselines that lie outside the
    space have no coordinates in it and stay out of the study, where they would mislead the sampler.
    """

    def __init__(self, directory: Path, config: SearchConfig) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self.config = config
        self._base = plain(config.run())
        self._conditional = any(d.when for d in config.space.values())
        storage = JournalStorage(JournalFileBackend(str(directory / FILE)))
        self.study = optuna.create_study(
            storage=storage, study_name=config.name, direction="maximize", load_if_exists=True
        )
        self.study.set_metric_names([config.search.metric])
        self._trials: dict[int, Trial] = {}
        self._reported: dict[int, set[int]] = {}
        for frozen in self.study.get_trials(deepcopy=False):
            number = frozen.user_attrs.get("number")
            if frozen.state.is_finished():
                continue
            if number is not None:
                self._trials[number] = Trial(self.study, frozen._trial_id)
                self._reported[number] = set(frozen.intermediate_values)
            else:
                # Asked, and the driver died before it could log the trial: nobody will ever run it.
                self.study.tell(frozen.number, state=TrialState.FAIL)

    def ask(self, number: int, fixed: Point | None = None) -> Point:
        """A point for trial `number`: the sampler's, or `fixed` where one is given."""
        entropy = np.random.SeedSequence([self.config.search.seed, number])
        self.study.sampler = make_sampler(
            self.config.search.sampler, self._conditional, int(entropy.generate_state(1)[0])
        )
        trial = self._trials.get(number)
        if trial is None:  # else a driver asked for it and died before the search knew
            if fixed is not None and not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                self.study.enqueue_trial(fixed)
            trial = self.study.ask()
        point: Point = {}
        for path, distribution in in_order(self.config.space):
            if is_active(distribution, self._base, point):
                point[path] = suggest(trial, path, distribution)
        trial.set_user_attr("number", number)
        self._trials[number] = trial
        return point

    def report(self, number: int, epoch: int, value: float) -> None:
        """Note an intermediate value, once; trials outside the study are passed over."""
        trial = self._trials.get(number)
        if trial is not None and epoch not in self._reported.setdefault(number, set()):
            trial.report(value, epoch)
            self._reported[number].add(epoch)

    def tell(self, number: int, state: str, value: float | None, reason: str | None = None) -> None:
        """Tell how a trial ended; only a COMPLETE one has a value. Telling twice is harmless."""
        trial = self._trials.pop(number, None)
        if trial is None:
            return
        if reason is not None:
            trial.set_user_attr("reason", reason)
        self.study.tell(trial.number, value if state == COMPLETE else None, state=_STATES[state])
