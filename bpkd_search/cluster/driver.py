"""The driver: prepares what trials share, starts Ray, and runs the engine's trials on warm actors."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpkd_search import __version__
from bpkd_search.cluster import packing
from bpkd_search.cluster.connection import connect_ray
from bpkd_search.cluster.ending import (
    FAILED,
    FINISHED,
    PAUSED,
    STOPPED,
    best_in_words,
    leave_in_memory,
    open_memory,
    run_on_end,
)
from bpkd_search.cluster.failures import require_a_result
from bpkd_search.cluster.interruption import Interrupted, continuation, interruptible, leave, patient, stopping
from bpkd_search.cluster.listener import keep_best_students, listener
from bpkd_search.cluster.nodes import Node, kinds_of
from bpkd_search.cluster.progress import Progress, make_progress
from bpkd_search.cluster.requests import Requests
from bpkd_search.cluster.sharing import copies_for_joining, prepare_nodes
from bpkd_search.cluster.slots import Slots, at_once, divide, room
from bpkd_search.cluster.waiting import ON_CPUS, lacked_gpus, wait_for_nodes
from bpkd_search.cluster.watch import watch_ray
from bpkd_search.config import SearchConfig
from bpkd_search.config.points import to_tree
from bpkd_search.config.search import Resources
from bpkd_search.errors import FullDiskError, HeldError, UserError
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.commit import all_commits, code_commit
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.origin import Origin
from bpkd_search.experiment.paths import RAY, short
from bpkd_search.experiment.requests import post, settle
from bpkd_search.experiment.trial import Trial
from bpkd_search.files import with_room
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.results.loggers import make_loggers
from bpkd_search.search.engine import Engine
from bpkd_search.search.ranking import require_measured
from bpkd_search.search.requests import Change
from bpkd_search.stores.experiment import Place, abandon, kept
from bpkd_search.stores.home import at_home, link, place_for
from bpkd_search.stores.store import is_store, is_url
from bpkd_search.training.check import check_networks
from bpkd_search.training.fingerprints import fingerprints, of_weights
from bpkd_search.training.teacher import teachers_dir

if TYPE_CHECKING:
    from bpkd_search.cluster.trial import TrialTask

# More than any cluster holds: without a bound, Ray Tune starts one trial after the other.
MOST_AT_ONCE = 1_000_000


def run_search(
    config: SearchConfig,
    directory: Path | str,
    *,
    address: str | None = None,
    verbose: bool = False,
    wait: bool = True,
) -> Leaderboard:
    """Run a search to its end in a new folder and give its leaderboard.

    `address` joins a Ray cluster that is up (`auto`, `ray://host:port`); without it a local one is started.
    `directory` may be a URL of an object store (`s3://bucket/folder`). On several nodes it must be that, or a path that
    all of them see, and so must `data.views_dir` unless `data.local_dir` names a folder of each node's own.
    On a full disk the search waits until there is room, or without `wait` ends with `FullDiskError` and can be resumed.
    Raises `UserError` of every kind; `Interrupted` after Ctrl-C.
    """
    check_networks(config)
    folder = place_for(str(directory), _print) if is_url(directory) else Path(directory)
    experiment.create(folder, config)
    if is_store(directory):
        link(folder, str(directory))
    try:
        return _drive(config, folder, address, verbose, wait)
    except (FullDiskError, HeldError):  # there is something to resume, or the folder is another process's
        raise
    except UserError:
        # Nothing was asked yet, so there is nothing to resume: the same line can run again once that is fixed.
        if not any(event["event"] == "ask" for event in read_events(folder)):
            abandon(folder)
            shutil.rmtree(folder, ignore_errors=True)
        raise


def resume_search(
    directory: Path | str,
    *,
    address: str | None = None,
    verbose: bool = False,
    wait: bool = True,
    accept_changes: bool = False,
    more_trials: int = 0,
    settings: Sequence[str] = (),
) -> Leaderboard:
    """Continue a search where it stopped: finished trials stay, unfinished ones go on from their checkpoints.

    `more_trials` and `settings` (`KEY=VALUE`) change it for good, also if it has ended: they are requests as
    `search.requests.Change` has them. Others that wait in the folder are taken too. With `accept_changes` it continues
    although its data, teacher or configuration have changed, which is recorded.
    Raises what `run_search` raises; `ExperimentError` when the folder is no experiment, is held, or without
    `accept_changes` what its trials read has changed.
    """
    directory = at_home(directory)
    change = Change(settings=tuple(settings), more_trials=more_trials) if settings or more_trials else None
    return _drive(experiment.read_config(directory), directory, address, verbose, wait, accept_changes, change)


def _drive(
    config: SearchConfig,
    directory: Path,
    address: str | None,
    verbose: bool,
    wait: bool,
    accept: bool = False,
    change: Change | None = None,
) -> Leaderboard:
    """Drive a search to its end, then run the command of `search.on_end` if any of it was still to do."""
    begun: list[Engine] = []
    outcome, message = FAILED, ""
    try:
        _hold_and_drive(config, directory.resolve(), address, verbose, wait, accept, change, begun.append)
        board = Leaderboard(directory)
        outcome, message = FINISHED, best_in_words(board)
    except Interrupted as e:
        outcome, message = e.outcome, str(e)
        raise
    except UserError as e:
        message = str(e)
        raise
    finally:
        for engine in begun:
            if (command := engine.config.search.on_end) is not None:  # a request may have changed it
                run_on_end(command, directory.resolve(), outcome, message, _print)
    return board


def _hold_and_drive(
    config: SearchConfig,
    directory: Path,
    address: str | None,
    verbose: bool,
    wait: bool,
    accept: bool,
    change: Change | None,
    begins: Callable[[Engine], None],
) -> None:
    """Hold the folder and run the search in it; `begins` gets the engine if it has something to do, before it does."""
    again = continuation(f"resume {short(directory)}", address)
    with (
        experiment.hold(directory),
        make_progress(config) as progress,
        patient(progress.say, wait, again),
        kept(directory, progress.say) as place,
    ):
        settle(directory)
        config = experiment.read_config(directory)  # it may have changed until it was held
        listeners = [listener(directory, progress, place), *make_loggers(config, directory)]

        def listen(event: str, trial: Trial) -> None:
            for each in listeners:
                each(event, trial)

        origin = Origin(directory, config, again, accept)
        origin.check_configuration()  # the engine acts on it
        memory = open_memory(config)
        engine = Engine(config, directory, __version__, listen)
        place.lost = engine.stop_for
        with closing(engine.recorder):
            own = post(directory, change.model_dump(mode="json")) if change is not None else ""
            refused = Requests(engine, directory, progress.say).take(beginning=True)
            if own in refused:
                raise refused[own]
            origin.go_on_with(engine.config)
            if not engine.done:
                begins(engine)
            run_engine(engine, directory, origin, progress, again, address, verbose, place)
        if memory is not None:
            leave_in_memory(directory, memory, progress.say)
        if engine.closed is not None:
            progress.say(f"the search ends after {len(engine.trials)} trials: {engine.closed}")


def run_engine(
    engine: Engine,
    directory: Path,
    origin: Origin,
    progress: Progress,
    again: str,
    address: str | None,
    verbose: bool,
    place: Place,
) -> None:
    """Run an engine to its end: prepare what its trials share, start Ray, and follow it on the screen.

    `directory` in `place` keeps its checkpoints and students, `origin` what the search was begun with, `again` is the
    command that continues it. Raises `UserError` of every kind; `Interrupted` after Ctrl-C.
    """
    shutil.rmtree(directory / RAY, ignore_errors=True)  # what a killed driver left
    progress.begin(engine)
    keep_best_students(directory, engine, place)
    progress.notes()
    config = engine.config
    with interruptible(again), origin.explaining():
        if not engine.done:
            from bpkd_search.cluster.latency import measure_alone
            from bpkd_search.cluster.trial import DistillationTrial

            place.bring_teacher(teachers_dir(config.data.views_dir))
            origin.check_contents(fingerprints(config), progress.say)
            with connect_ray(address, verbose) as nodes:
                if address is not None:  # others may join
                    nodes = wait_for_nodes(config.search, config.train.device, progress.say)
                slots, task = _get_ready(config, directory, origin, nodes, progress, place)
                each, kinds = f"{slots.cpus:g} CPU and {slots.gpus:g} GPU each", kinds_of(nodes) if slots.gpus else ""
                progress.say(
                    f"ray: {at_once(config.search, slots)} trial(s) at once, {each}" + (f"; {kinds}" if kinds else "")
                )
                if address is not None and lacked_gpus(config.search, config.train.device, slots.gpus):
                    progress.say(ON_CPUS)
                with (
                    copies_for_joining(task.prepared if address is not None else None) as source,
                    stopping(engine, progress.say),
                    watch_ray(lambda: engine.interrupted, partial(leave, engine, again)),
                ):
                    task = replace(task, source=source)
                    run_on_ray(engine, directory, slots, DistillationTrial, task.values_for, progress.say)
                if engine.done and engine.fatal is None:
                    measure_alone(engine, task, slots, progress.say)
    if engine.fatal is not None:
        raise engine.fatal
    if not engine.done:
        raise Interrupted(again, PAUSED if engine.paused and not engine.interrupted else STOPPED)
    require_a_result(engine, directory)


def _get_ready(
    config: SearchConfig, directory: Path, origin: Origin, nodes: Sequence[Node], progress: Progress, place: Place
) -> tuple[Slots, TrialTask]:
    """What trials run on and what they share, built if missing, and noted in the experiment folder."""
    from bpkd_search.cluster.trial import TrialTask

    search, known = config.search, experiment.noted(directory)
    # What is impossible is refused before anything is built.
    slots = divide(search, nodes, config.train.device)
    require_measured(search, slots.gpus > 0 and config.train.device != "cpu")
    # Built by other processes too, which give up on a full disk: then it is this one that waits.
    prepared = with_room(directory, lambda: prepare_nodes(config, directory, slots, progress.say, place.url))
    place.keep_teacher(Path(str(prepared.teacher)), teachers_dir(config.data.views_dir))
    progress.teacher_scores = prepared.teacher_scores or {}
    facts: dict[str, Any] = {
        "class_names": prepared.open().class_names,
        "teacher": prepared.teacher_scores,
        "crops": {"data.views": prepared.views or "auto", "teacher.mode": prepared.mode},
        "maps": prepared.agreement,
        # Modules of the user may be below it.
        "working_directory": os.getcwd(),
        "commit": all_commits(known.get("commit"), code_commit()),
    }
    task = TrialTask(
        str(directory),
        prepared,
        slots.threads,
        run=to_tree(config.run()),
        experiment=str(origin.directory),
        store=place.url,
        inside=place.inside(directory),
    )
    if packing.wanted(search, slots.gpus):
        facts["packing"] = packing.pack_on_ray(search, task, slots, known.get("packing"), progress.say)
        slots = divide(search, nodes, config.train.device, Resources(**facts["packing"]["resources"]))
    # The engine's searcher keeps to `search.concurrent`, which a request may raise.
    slots = room(slots, nodes)
    experiment.note(directory, **facts)
    origin.record(teacher=of_weights(Path(str(prepared.teacher))))
    return slots, replace(task, threads=slots.threads)


def run_on_ray(
    engine: Engine,
    directory: Path,
    slots: Slots,
    trainable: type,
    task_of: Callable[[Trial], dict[str, Any]],
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Hand the engine to Ray Tune and return when it has no more trials or was interrupted.

    `trainable` is a `ray.tune.Trainable` class; `task_of` gives what an actor needs for a trial, as plain values;
    `say` prints a line.
    """
    from ray import tune

    from bpkd_search.cluster.placement import Placement, request
    from bpkd_search.cluster.tune import EngineScheduler, EngineSearcher, StopOnRequest

    placement = Placement(slots, say, engine.config.search, engine.config.train.device)
    searcher = EngineSearcher(engine, task_of, placement)
    scheduler = EngineScheduler(engine, searcher)
    tuner = tune.Tuner(
        tune.with_resources(trainable, request),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            # The engine says when there are no more; a lost trial is a new sample to Ray.
            num_samples=-1,
            # The searcher keeps to the room that there is, which follows the nodes.
            max_concurrent_trials=MOST_AT_ONCE,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"trial-{trial.trial_id}",
            trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=RAY,
            storage_path=str(directory),
            stop=StopOnRequest(engine, placement, Requests(engine, directory, say), scheduler),
            failure_config=tune.FailureConfig(max_failures=0),
            # Trials write their own checkpoints, which outlive Ray.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(directory / RAY, ignore_errors=True)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
