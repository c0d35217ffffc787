"""Confirming a search: its best settings and all baselines again, in full, over the same fresh seeds.

A winner was picked by one seed's score on the validation split, so that score flatters it. Fresh seeds, paired
over the settings, show what is left of the lead. The runs live in `confirmation/` of the experiment, driven as a
search's; what they come to is the table `confirm/`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from optuna.storages import InMemoryStorage

from bpkd_search import __version__
from bpkd_search.cluster.driver import run_engine
from bpkd_search.cluster.interruption import continuation, interruptible, patient
from bpkd_search.cluster.listener import listener
from bpkd_search.cluster.progress import make_progress
from bpkd_search.config import RunConfig, SearchConfig
from bpkd_search.config.points import to_tree
from bpkd_search.config.search import Budget, Scheduler
from bpkd_search.data import Dataset, check
from bpkd_search.data.views import build_views, cache_dir
from bpkd_search.errors import ConfigError, DataError, ExperimentError
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.origin import Origin, at_its_place
from bpkd_search.experiment.paths import CONFIG, CONFIRM, CONFIRMATION, short, student_file
from bpkd_search.experiment.requests import settle
from bpkd_search.experiment.schema import BASELINE, COMPLETE, confirm_schema
from bpkd_search.experiment.tables import ChunkedTable
from bpkd_search.experiment.trial import Trial
from bpkd_search.metrics.table import SCORES, held_out
from bpkd_search.models.build import pick_device
from bpkd_search.predict import load_student
from bpkd_search.results.analysis import is_replicate
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.search.engine import Engine, parameter_kinds
from bpkd_search.stores.experiment import Place, kept
from bpkd_search.stores.home import at_home
from bpkd_search.training.evaluation import evaluate
from bpkd_search.training.forms import Form
from bpkd_search.training.inputs import Say, view_recipe
from bpkd_search.training.source import open_data

ROWS_A_FILE = 500


def confirm(
    directory: Path | str,
    *,
    top: int = 3,
    seeds: int = 3,
    test: bool = False,
    address: str | None = None,
    verbose: bool = False,
    wait: bool = True,
    accept_changes: bool = False,
) -> Leaderboard:
    """Run the `top` searched settings of an experiment and its baselines again over `seeds` fresh training seeds.

    What is done already is not done again: the same call continues, more `top` or `seeds` add to it. With `test`,
    each student is evaluated once on the held-out split `data.test_split`. `address`, `verbose`, `wait` and
    `accept_changes` are those of `resume_search`. Raises `UserError` of every kind; `Interrupted` after Ctrl-C.
    """
    directory = at_home(directory)
    config = experiment.read_config(directory)
    held_out = open_held_out(config, directory) if test else None
    directory = directory.resolve()
    again = f"confirm {short(directory)} --top {top} --seeds {seeds}" + " --test" * test
    again = continuation(again, address)
    with (
        experiment.hold(directory),
        make_progress(_undisturbed(config)) as progress,
        patient(progress.say, wait, again),
        kept(directory, progress.say) as place,
    ):
        settle(directory)
        config = experiment.read_config(directory)
        origin = Origin(directory, config, again, accept_changes)
        origin.check_configuration()
        confirmation = Confirmation(directory, top, seeds, listener(directory / CONFIRMATION, progress, place))
        place.lost = confirmation.engine.stop_for
        with closing(confirmation.engine.recorder):
            run_engine(confirmation.engine, directory / CONFIRMATION, origin, progress, again, address, verbose, place)
            if held_out is not None:
                with interruptible(again):
                    confirmation.test(held_out, progress.say, place)
    return Leaderboard(directory)


class Confirmation:
    """An experiment's confirmation: the engine of its runs, and the table `confirm/` of their ends.

    The table is a function of the log in `confirmation/`, and is rebuilt when that is opened. Raises
    `ConfigError` for too few settings or seeds, `ExperimentError` where no searched setting can be confirmed.
    """

    def __init__(
        self,
        directory: Path,
        top: int,
        seeds: int,
        listen: Callable[[str, Trial], None] = lambda event, trial: None,
    ) -> None:
        faults = [f"--top: got {top}, must be at least 1"] * (top < 1)
        faults += [f"--seeds: got {seeds}, must be at least 2: one seed shows no spread"] * (seeds < 2)
        if faults:
            raise ConfigError(faults, "confirm")
        self.directory, self.listen = directory, listen
        config = experiment.read_config(directory)
        base, space = config.run(), config.space
        settings, self.origins, used = choose_settings(Leaderboard(directory), top)
        settings = [replace(trial, run=at_its_place(to_tree(trial.run), base, space)) for trial in settings]
        begun, self.scores = [], dict[int, dict[str, Any]]()
        for event in read_events(directory / CONFIRMATION):
            if event["event"] == "ask":
                run = at_its_place(event["config"], base, space)
                begun.append(Trial(int(event["number"]), event["method"], BASELINE, run))
            elif event["event"] == "test":
                self.scores[int(event["number"])] = event
        self.engine = Engine(
            _undisturbed(config),
            directory / CONFIRMATION,
            __version__,
            listen,
            fixed=plan(settings, begun, fresh_seeds(used | {config.train.seed}, begun, seeds)),
            sampled=0,
            # Settings with another seed are no points of the space: the study stays empty.
            storage=InMemoryStorage(),
        )
        self.engine.listen = self._hear
        self._table = ChunkedTable(directory / CONFIRM, confirm_schema(parameter_kinds(config)), ROWS_A_FILE)
        for number in self.engine.states:
            self._put(number)
        self._table.flush()

    def test(self, held_out: Dataset, say: Say, place: Place | None = None) -> None:
        """Evaluate each student that has not been yet, as in validation, and log its scores for good.

        Students that are not here come from `place`. Raises `ExperimentError` if a student is missing.
        """
        complete = [number for number, state in sorted(self.engine.states.items()) if state == COMPLETE]
        folder = self.directory / CONFIRMATION
        students = {number: student_file(folder, number) for number in complete if number not in self.scores}
        if not students:
            return
        if place is not None:
            place.bring(students.values())
        if missing := [path for path in students.values() if not path.is_file()]:
            raise ExperimentError(f"{missing[0]}: is missing, so this student cannot be tested")
        say(f"held-out split: {len(held_out)} images, {len(students)} student(s), once each")
        data, train = self.engine.config.data, self.engine.config.train
        views, device = folder / "held-out", pick_device(train.device)
        shutil.rmtree(views, ignore_errors=True)  # what a killed one left
        try:
            recipe = view_recipe(data, Form(1, "stored"))
            store = build_views(replace(recipe, val=held_out), views, stored=False)
            for number, path in students.items():
                model, _ = load_student(path)
                self.scores[number] = dict(evaluate(model.to(device), store, device, data.evaluation).as_dict())
                self.engine.recorder.record("test", number, **self.scores[number])
                self._put(number)
            self._table.flush()
        finally:
            shutil.rmtree(views, ignore_errors=True)

    def _hear(self, event: str, trial: Trial) -> None:
        self.listen(event, trial)
        if event == "end":
            self._put(trial.number)
            self._table.flush()

    def _put(self, number: int) -> None:
        source = source_of(self.engine.trials[number])
        row = self.engine.recorder.trials[number] | {"number": source, "run": number, "origin": self.origins[source]}
        if row["state"] != COMPLETE:
            row |= dict.fromkeys(SCORES)
        scores = self.scores.get(number, {})
        self._table.put(number, row | {held_out(name): scores[name] for name in SCORES if name in scores})


def choose_settings(board: Leaderboard, top: int) -> tuple[list[Trial], dict[int, str], set[int]]:
    """What is to be confirmed: the baselines, then the `top` searched settings, none twice.

    Also the origin of every trial, and every seed that the search used. Searched settings must have run in full
    and keep the constraints. Raises `ExperimentError` where there is none.
    """
    trials = board.trials(["method", "origin", "config", "seed", "feasible"])
    used = {int(seed) for seed in trials["seed"]}
    trials = trials[~is_replicate(trials)]
    baselines = trials[trials["origin"] == BASELINE].sort_values("number")
    full = trials[(trials["origin"] != BASELINE) & (trials["state"] == COMPLETE)]
    if full.empty:
        raise ExperimentError(f"{board.directory}: no searched trial has run its full budget yet")
    searched = full[~full["feasible"].eq(False).fillna(False).astype(bool)]
    if searched.empty:
        raise ExperimentError(f"{board.directory}: no searched trial that ran its full budget keeps the constraints")
    chosen: dict[str, Trial] = {}
    for part, most in ((baselines, len(baselines)), (searched, len(baselines) + top)):
        for row in part.to_dict("records"):
            run = RunConfig.model_validate(json.loads(row["config"]))
            number = int(row["number"])
            about = {"experiment": str(row["experiment"]), "trial": number}
            trial = Trial(number, str(row["method"]), BASELINE, run.model_copy(update={"provenance": about}))
            if len(chosen) < most:
                chosen.setdefault(_apart_from_seed(run), trial)
    origins = {int(row["number"]): str(row["origin"]) for row in trials.to_dict("records")}
    return list(chosen.values()), origins, used


def fresh_seeds(used: set[int], begun: Sequence[Trial], number: int) -> list[int]:
    """So many training seeds: those of the runs that have begun, then the lowest that the search did not use."""
    seeds = list(dict.fromkeys(trial.run.train.seed for trial in begun))
    unused: Iterator[int] = (seed for seed in count() if seed not in used and seed not in seeds)
    while len(seeds) < number:
        seeds.append(next(unused))
    return seeds[:number]


def plan(settings: Sequence[Trial], begun: Sequence[Trial], seeds: Sequence[int]) -> list[Trial]:
    """The runs in their order: those that have begun, then all settings with the first seed, with the second, ..."""
    known = {(source_of(trial), trial.run.train.seed) for trial in begun}
    runs = list(begun)
    for seed in seeds:
        for setting in settings:
            if (setting.number, seed) not in known:
                train = setting.run.train.model_copy(update={"seed": seed})
                runs.append(replace(setting, number=len(runs), run=setting.run.model_copy(update={"train": train})))
    return runs


def source_of(trial: Trial) -> int:
    """The search's trial that a run of the confirmation repeats."""
    return int((trial.run.provenance or {})["trial"])


def open_held_out(config: SearchConfig, directory: Path) -> Dataset:
    """The held-out split, every sample read once. Raises `ConfigError` where none is named, `DataError`."""
    split = config.data.test_split
    if split is None:
        rule = "names no split; name the held-out one there, as in `test_split: test` under `data`"
        raise ConfigError([f"data.test_split: {rule}"], str(directory / CONFIG))
    held_out, cache = open_data(config.data, split), cache_dir(config.data.views_dir)
    for name in ("train", "val"):
        if held_out.identity(cache) == open_data(config.data, name).identity(cache):
            raise DataError(f"data.test_split: {split} holds the very samples of {name}, which the search has used")
    check(held_out)
    return held_out


def _undisturbed(config: SearchConfig) -> SearchConfig:
    """The search's configuration without what would end a run or the whole before its time."""
    search = {
        "budget": Budget(),
        "scheduler": Scheduler(name="none"),
        "methods": (),
        "warm_start": (),
        "memory": None,
        "constraints": (),
    }
    return config.model_copy(update={"search": config.search.model_copy(update=search)})


def _apart_from_seed(run: RunConfig) -> str:
    """What tells settings apart."""
    train = run.train.model_copy(update={"seed": 0})
    return run.model_copy(update={"train": train, "provenance": None}).model_dump_json()
