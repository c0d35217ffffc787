"""The Optuna side: a study that proposes points and is told how each trial ended."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import Trial as OptunaTrial
from optuna.trial import TrialState

from bpkd_search.config.distributions import distance, suggest, to_optuna
from bpkd_search.config.models import SearchConfig
from bpkd_search.config.points import Point, in_order, is_active, to_tree
from bpkd_search.config.search import ModelSampler
from bpkd_search.experiment.schema import COMPLETE, FAILED, PRUNED
from bpkd_search.search.distinct import Distinct, every_point
from bpkd_search.search.learned import Learned
from bpkd_search.search.samplers import make_sampler

_STATES = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}
# Nearer than this share of every range, a point tells nothing new about a trial that is still running.
_SAME = 1e-3
# Points that differ by less than this are one: values on a grid are known up to rounding.
_EQUAL = 1e-9


def frozen_state(state: str, values: Sequence[float] | None) -> tuple[TrialState, list[float] | None]:
    """How Optuna keeps the end of a trial: only a complete one has values."""
    return _STATES[state], list(values or ()) if state == COMPLETE else None


class Study:
    """Trials of the space as an Optuna study; `number` is the trial's number in the experiment.

    A new sampler is made for every ask, seeded by (search seed, number): a proposal depends on the trials
    told so far and its number alone, and is the same after a restart. Baselines outside the space
    have no coordinates in it and stay out of the study, where they would mislead the sampler.
    """

    def __init__(self, storage: BaseStorage, config: SearchConfig, keep_open: bool = False) -> None:
        """`keep_open` leaves trials that were asked for and never logged as they are, to be found and compared."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self.config = config
        self.goals = config.search.goals
        self._base = to_tree(config.run())
        self.every_point = every_point(config.space, self._base)
        self.study = optuna.create_study(
            storage=storage,
            study_name=config.name,
            directions=["maximize" if direction == "max" else "minimize" for direction in self.goals.values()],
            load_if_exists=True,
        )
        self.study.set_metric_names(list(self.goals))
        self._storage = storage
        # What the sampler `model` proposes by; set by the search that has it.
        self.learned: Learned | None = None
        self._trials: dict[int, OptunaTrial] = {}
        self._points: dict[int, Point] = {}
        self._reported: dict[int, set[int]] = {}
        for frozen in self.study.get_trials(deepcopy=False):
            number = frozen.user_attrs.get("number")
            if frozen.state.is_finished():
                continue
            if number is not None:
                self._trials[number] = self._reopen(frozen.number)
                self._points[number] = frozen.params
                self._reported[number] = set(frozen.intermediate_values)
            elif frozen.state == TrialState.RUNNING and not keep_open:
                # Asked, and the driver died before it could log the trial: it will never run.
                self.study.tell(frozen.number, state=TrialState.FAIL)

    def ask(self, number: int, fixed: Point | None = None) -> Point:
        """A point for trial `number`: the sampler's, or `fixed` where one is given."""
        entropy = np.random.SeedSequence([self.config.search.seed, number])
        seed, second_seed = (int(word) for word in entropy.generate_state(2))
        search, space = self.config.search, self.config.space
        # Every so many points of a sequence, which is what a method among several would get, do not cover a space.
        place = len(self.points()) if search.methods else number
        sampler = make_sampler(search.sampler, space, seed, search.seed, place)
        if self.learned is not None and isinstance(search.sampler, ModelSampler):
            startup = search.sampler.points_before(len(space))
            sampler = self.learned.sampler(sampler, startup, seed)
        self.study.sampler = Distinct(sampler, space, self._base, self._repeats, self.every_point, second_seed)
        trial = self._trials.get(number)
        if trial is None:  # else a driver asked for it and died before the search knew
            if fixed is not None and not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                self.study.enqueue_trial(fixed)
            trial = self.study.ask()
            self._reported.pop(number, None)  # of an attempt before, if it runs again
        point: Point = {}
        for path, distribution in in_order(self.config.space):
            if is_active(distribution, self._base, point):
                point[path] = suggest(trial, path, distribution)
        trial.set_user_attr("number", number)
        self._trials[number], self._points[number] = trial, point
        return point

    def report(self, number: int, epoch: int, values: Sequence[float]) -> None:
        """Note an intermediate value, once; trials outside the study are passed over.

        Optuna keeps none for several objectives; the reports table has them.
        """
        trial = self._trials.get(number)
        if trial is not None and len(self.goals) == 1 and epoch not in self._reported.setdefault(number, set()):
            trial.report(values[0], epoch)
            self._reported[number].add(epoch)

    def tell(
        self,
        number: int,
        state: str,
        values: Sequence[float] | None,
        reason: str | None = None,
        constraints: Mapping[str, float] | None = None,
    ) -> None:
        """Tell how a trial ended; only a COMPLETE one has values. Telling twice is harmless.

        `constraints` are violations: above zero where the trial breaks one.
        """
        trial = self._trials.pop(number, None)
        if trial is None:
            return
        del self._points[number]
        if reason is not None:
            trial.set_user_attr("reason", reason)
        for name, violation in (constraints or {}).items():
            trial.set_constraint(name, violation)
        told, numbers = frozen_state(state, values)
        self.study.tell(trial.number, numbers, state=told)

    def learn(self, found: Iterable[Mapping[str, Any]]) -> None:
        """Add finished trials of other searches (`source`, `point`, `values`) for the sampler, each source once."""
        known = {trial.user_attrs.get("warm_start") for trial in self.study.get_trials(deepcopy=False)}
        for trial in found:
            if trial["source"] not in known:
                self.study.add_trial(
                    optuna.trial.create_trial(
                        params=trial["point"],
                        distributions={path: to_optuna(self.config.space[path]) for path in trial["point"]},
                        values=list(trial["values"]),
                        user_attrs={"warm_start": trial["source"]},
                    )
                )

    def points(self) -> dict[int, Point]:
        """The point of each own trial in the study, by its number in the experiment."""
        trials = self.study.get_trials(deepcopy=False)
        return {t.user_attrs["number"]: t.params for t in trials if "number" in t.user_attrs}

    def _reopen(self, number: int) -> OptunaTrial:
        """Optuna's trial of that number again, to be asked by the study's present sampler."""
        study_id = self._storage.get_study_id_from_name(self.study.study_name)
        return OptunaTrial(self.study, self._storage.get_trial_id_from_study_id_trial_number(study_id, number))

    def _repeats(self, proposal: Point) -> bool:
        """Whether a proposal all but equals the point of a running trial, or is that of any trial before."""
        tried = self.points().values()
        return any(self._near(point, proposal, _SAME) for point in self._points.values()) or any(
            self._near(point, proposal, _EQUAL) for point in tried
        )

    def _near(self, a: Point, b: Point, share: float) -> bool:
        space = self.config.space
        return a.keys() == b.keys() and all(distance(space[path], a[path], b[path]) < share for path in a)
