"""Which trials a search runs, in order: fixed ones, by default the baselines, then `enqueue:`, then sampled points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bpkd_search.config.loss import label_of
from bpkd_search.config.models import RunConfig, SearchConfig
from bpkd_search.config.points import BASELINES, Point, baseline_run, coordinates, run_at
from bpkd_search.experiment.schema import BASELINE, ENQUEUED, SAMPLED
from bpkd_search.experiment.trial import Trial

Ask = Callable[[int, Point | None], Point]


class Plan:
    """The order of a search's trials: `total` in all, the first of them `fixed`.

    By default the baselines are fixed, and as many are sampled as the config says.
    """

    def __init__(self, config: SearchConfig, fixed: Sequence[Trial] | None, sampled: int | None) -> None:
        self.config, self.base = config, config.run()
        self.fixed = baseline_trials(self.base) if fixed is None else list(fixed)
        self.sampled = max(config.search.trials, len(config.enqueue)) if sampled is None else sampled
        self.total = len(self.fixed) + self.sampled
        # The training seeds of equal runs.
        self._seeds: dict[str, set[int]] = {}

    def trial(self, number: int, ask: Ask) -> Trial:
        """A new trial; `ask(number, point)` is that of the study, which gets what is tried outside it as `point`."""
        if number < len(self.fixed):
            trial = replace(self.fixed[number], number=number, reports={})
            point = coordinates(self.config.space, self.base, trial.run)
            if point is not None:
                ask(number, point)
            return trial
        given: Point | None = None
        if number < len(self.fixed) + len(self.config.enqueue):
            given = self._complete(self.config.enqueue[number - len(self.fixed)])
        run = run_at(self.base, ask(number, given))
        if used := self._used_seeds(run):
            # The same seed again would be the same training again; another one is a replicate.
            run = run.model_copy(update={"train": run.train.model_copy(update={"seed": max(used) + 1})})
        return Trial(number, label_of(run.loss), SAMPLED if given is None else ENQUEUED, run)

    def runs(self, run: RunConfig) -> None:
        """Note that a run is made, so that an equal one gets another seed."""
        self._used_seeds(run).add(run.train.seed)

    def _complete(self, given: Point) -> Point:
        """An enqueued point with the base run's values where it names none."""
        return coordinates(self.config.space, self.base, run_at(self.base, given)) or dict(given)

    def _used_seeds(self, run: RunConfig) -> set[int]:
        """The training seeds of the runs so far that are otherwise equal to this one."""
        same = run.model_copy(update={"train": run.train.model_copy(update={"seed": 0})})
        return self._seeds.setdefault(same.model_dump_json(), set())


def baseline_trials(base: RunConfig) -> list[Trial]:
    """What every search runs first: the base run with each baseline's loss."""
    return [Trial(number, name, BASELINE, baseline_run(base, name)) for number, name in enumerate(BASELINES)]
