"""Which trials a search runs, in order: fixed ones, by default the baselines, then `enqueue:`, then sampled points.

The first of the sampled ones are the best points of other searches, where a memory has them. Points that a request asks
for come before the next of these.
In a race, settings of earlier trials run again with further seeds in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bpkd_search.config.loss import label_of
from bpkd_search.config.models import RunConfig, SearchConfig
from bpkd_search.config.paths import find
from bpkd_search.config.points import (
    Point,
    baseline_run,
    baselines_of,
    can_take,
    coordinates,
    point_of,
    run_at,
    to_tree,
)
from bpkd_search.experiment.schema import BASELINE, ENQUEUED, REMEMBERED, REPLICATE, SAMPLED
from bpkd_search.experiment.trial import Trial

Ask = Callable[[int, Point | None], Point]
# The trial whose setting is to run again, and with which of the race's seeds, from 1 on; None for a new setting.
Again = Callable[[], tuple[Trial, int] | None]


class Plan:
    """The order of a search's trials: `total` in all, the first of them `fixed`.

    By default the baselines are fixed, and as many are sampled as `config` says, which may be replaced by one with
    another search or space. `requested` are the points of requests that wait for their trials.
    """

    def __init__(self, config: SearchConfig, fixed: Sequence[Trial] | None, sampled: int | None) -> None:
        self.config, self.base, self._sampled = config, config.run(), sampled
        self.fixed = baseline_trials(config) if fixed is None else list(fixed)
        self.requested: deque[Point] = deque()
        self._given, self._requests = deque(config.enqueue), 0
        self._remembered: deque[Point] = deque()
        # The training seeds of equal runs.
        self._seeds: dict[str, set[int]] = {}

    def trial(self, number: int, ask: Ask, again: Again = lambda: None) -> Trial:
        """A new trial; `ask(number, point)` is that of the study, which gets what is tried outside it as `point`.

        Where no point is given, it may be a replicate, as `again` says.
        """
        if number < len(self.fixed):
            trial = replace(self.fixed[number], number=number, reports={})
            point = coordinates(self.config.space, self.base, trial.run)
            if point is not None:
                ask(number, point)
            return trial
        if not (self.requested or self._given) and (chosen := again()) is not None:
            return self._replicate(number, *chosen)
        waiting, origin = self._next()
        given = self._complete(waiting[0]) if waiting else None
        run = run_at(self.base, ask(number, given))
        if used := self._used_seeds(run):
            # The same seed again would be the same training again; another one is a replicate.
            run = run.model_copy(update={"train": run.train.model_copy(update={"seed": max(used) + 1})})
        return Trial(number, label_of(run.loss), origin, run)

    @property
    def sampled(self) -> int:
        """The number of trials beside the fixed ones and those of requests."""
        search = self.config.search
        return max(search.trials, len(self.config.enqueue)) if self._sampled is None else self._sampled

    @property
    def total(self) -> int:
        """The number of trials."""
        return len(self.fixed) + self.sampled + self._requests

    @property
    def tried(self) -> int:
        """How many points of `enqueue:` have got their trials."""
        return len(self.config.enqueue) - len(self._given)

    def request(self, point: Mapping[str, Any]) -> None:
        """Try a point before all that is still to come, beside the trials that are planned."""
        self.requested.append(dict(point))
        self._requests += 1

    def remember(self, points: Iterable[Mapping[str, Any]]) -> None:
        """Try points in place of the first sampled ones."""
        self._remembered = deque(dict(point) for point in points)

    def began(self, trial: Trial) -> None:
        """Note that a trial has begun: its point waits no more, and an equal run gets another seed."""
        self._used_seeds(trial.run).add(trial.run.train.seed)
        waiting, origin = self._next()
        if waiting and trial.origin == origin:
            waiting.popleft()

    def point(self, trial: Trial, config: SearchConfig | None = None) -> Point | None:
        """Where a trial is in the space, by default the plan's own; None where it is outside, and for a replicate.

        What all settings share in a seed would look as if it were a property of the point.
        """
        if trial.origin == REPLICATE:
            return None
        tree, space = to_tree(trial.run), (config or self.config).space
        if trial.origin == BASELINE:
            return coordinates(space, self.base, trial.run)
        return point_of(space, to_tree(self.base), {path: find(tree, path) for path in space})

    def _replicate(self, number: int, of: Trial, seed: int) -> Trial:
        train = of.run.train.model_copy(update={"seed": self.base.train.seed + seed})
        run = of.run.model_copy(update={"train": train})
        return Trial(number, of.method, REPLICATE, run, replicate_of=of.number)

    def _next(self) -> tuple[deque[Point], str]:
        """The points that are tried next, the first in front, and where they come from; none if it is the sampler."""
        space = self.config.space
        while (first := self._remembered) and not all(can_take(space[path], value) for path, value in first[0].items()):
            first.popleft()  # a request has changed the ranges since
        waiting = self.requested or self._given
        return (waiting, ENQUEUED) if waiting else (first, REMEMBERED if first else SAMPLED)

    def _complete(self, given: Point) -> Point:
        """An enqueued point with the base run's values where it names none."""
        return coordinates(self.config.space, self.base, run_at(self.base, given)) or dict(given)

    def _used_seeds(self, run: RunConfig) -> set[int]:
        """The training seeds of the runs so far that are otherwise equal to this one."""
        same = run.model_copy(update={"train": run.train.model_copy(update={"seed": 0})})
        return self._seeds.setdefault(same.model_dump_json(), set())


def baseline_trials(config: SearchConfig) -> list[Trial]:
    """What every search runs first: the base run with each baseline's loss."""
    base = config.run()
    return [Trial(number, name, BASELINE, baseline_run(base, name)) for number, name in enumerate(baselines_of(config))]
