"""Ray Tune's `Searcher`, as a thin adapter to the engine."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.tune import Stopper
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from bpkd_search.cluster.losses import UNKNOWN, loss_of
from bpkd_search.cluster.nodes import Node, find_node, node_id_of_actor
from bpkd_search.cluster.placement import Placement
from bpkd_search.cluster.requests import Requests
from bpkd_search.cluster.slots import PLACE
from bpkd_search.errors import UserError
from bpkd_search.experiment.schema import NODE, OOM
from bpkd_search.experiment.trial import Trial
from bpkd_search.files import pause
from bpkd_search.search.engine import Engine


class Unsaved:
    """Ray Tune pickles its parts to restore from; an adapter goes as an empty shell, the event log is the state."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing."""
        return {}


@contextmanager
def stopping(engine: Engine) -> Iterator[None]:
    """Ray Tune would take an error of the driver for one of the trial; here it stops the search."""
    try:
        yield
    except UserError as e:
        engine.stop_for(e)


class EngineSearcher(Unsaved, Searcher):  # type: ignore[misc]
    """Hands the engine's trials to Ray Tune and brings their ends back.

    Ray's own `OptunaSearch` tells trials that were stopped early as complete and leaves NaN trials running;
    here the engine decides the state from what the trial really did.
    """

    def __init__(self, engine: Engine, task_of: Callable[[Trial], dict[str, Any]], placement: Placement) -> None:
        super().__init__()
        self.engine, self.task_of, self.placement = engine, task_of, placement
        self.numbers: dict[str, int] = {}
        self.running: dict[str, int] = {}
        # Trials whose processes were ended because their node is about to leave.
        self.moved: dict[str, Node] = {}
        self.errors: dict[str, BaseException | None] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's task; None while a running one may still be lost and asked again; `Searcher.FINISHED`."""
        if self._is_full() and not self.engine.interrupted:
            return None
        trial = None
        with stopping(self.engine):
            trial = self.engine.ask()
        if trial is None:
            return None if self.running and not self.engine.interrupted else str(Searcher.FINISHED)
        self.numbers[trial_id] = trial.number
        self.running[trial_id] = trial.epoch
        return self.task_of(trial) | {PLACE: self.placement.of(trial)}

    def _is_full(self) -> bool:
        """Whether as many trials run as the nodes hold and the configuration allows, which a request may change."""
        most, room = self.engine.config.search.concurrent, self.placement.room
        return len(self.running) >= (room if most == "auto" else min(room, most))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler's adapter has passed the report on."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Bring the end of a trial to the engine; a lost actor is an error without a result."""
        number, result = self.numbers[trial_id], result or {}
        began = self.running.pop(trial_id)
        with stopping(self.engine):
            if error:
                self._failed(trial_id, began, self.errors.pop(trial_id, None))
            elif result.get("failure"):
                self._ended_itself(number, result["failure"], result.get("message", ""), result.get("node", ""))
            else:
                if "report" in result:
                    self.engine.report(number, report_of(result))
                self.engine.end(number)

    def _failed(self, trial_id: str, began: int, error: BaseException | None) -> None:
        """Ask for a lost trial again; an error of its own code ends it. `began` is its epoch when it was started."""
        number = self.numbers[trial_id]
        if (node := self.moved.pop(trial_id, None)) is not None:
            self.engine.lost(number, NODE, f"the trial's node {node.name} is drained", node.name)
            return
        loss = loss_of(error)
        if loss is None:
            if not self.engine.interrupted:
                self.engine.end(number, ("error", str(error)[-2000:].strip()))
            return
        self.engine.lost(number, loss.cause, loss.message, loss.node.name)
        if number in self.engine.stopped:
            return
        if self.engine.trials[number].epoch == began and not self.engine.interrupted:
            self.placement.lost(loss.node)

    def _ended_itself(self, number: int, reason: str, message: str, node_id: str) -> None:
        """A trial that failed is over, but for one that ran out of memory the first time, beside others.

        So is not one whose node cannot run trials.
        """
        trial = self.engine.trials[number]
        if reason == NODE:
            node = find_node(node_id) or UNKNOWN
            self.engine.lost(number, NODE, f"{node.name} cannot run it: {message}", node.name)
            self.placement.lost(node)
        elif reason == OOM and OOM not in trial.losses and self.placement.has_more_room():
            how = "it runs again at the end of the search, with half as many trials beside it"
            self.engine.lost(number, OOM, f"out of memory ({message}); {how}")
        else:
            self.engine.end(number, (reason, message))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the experiment's own event log is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore; see `save`."""


def report_of(result: dict[str, Any]) -> dict[str, Any]:
    """What the trial itself reported, without what Ray Tune adds to a result."""
    report: dict[str, Any] = json.loads(result["report"])
    return report


class EngineScheduler(Unsaved, FIFOScheduler):  # type: ignore[misc]
    """Passes every report to the engine and stops the trials that it stops.

    The engine rebuilds its rungs from the recorded reports, which Ray's own ASHA cannot after a restore
    (ray-project/ray#30838).
    """

    def __init__(self, engine: Engine, searcher: EngineSearcher) -> None:
        super().__init__()
        self.engine, self.searcher = engine, searcher
        self._controller: Any = None
        self._trials: dict[str, Any] = {}
        self._asked_last: Any = None
        self._killed: set[str] = set()
        # The nodes that are drained, the epochs of the trials that ran there when that was noticed, and every trial's
        # node, by Ray's id.
        self._leaving: dict[str, Node] = {}
        self._stood_at: dict[str, int] = {}
        self._where: dict[str, str] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Keep what `stop_requested` and `choose_trial_to_run` need."""
        self._controller, self._trials[trial.trial_id] = tune_controller, trial
        self._asked_last = trial

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The trial that was asked last, once: it goes on in the process of one that has just ended, if there is one.

        Left to itself, Ray Tune gives that process to a trial whose own is starting, and drops the one that starts:
        while trials end more often than a process takes to start, a node that has joined would never get one.
        """
        asked, self._asked_last = self._asked_last, None
        return asked if asked is not None and asked.status == asked.PENDING else None

    def stop_requested(self) -> None:
        """End the trials that a request stops, in the middle of an epoch too: Ray Tune would wait for its end."""
        stopped, numbers = self.engine.stopped, self.searcher.numbers
        for trial_id in [key for key in self.searcher.running if numbers[key] in stopped and key not in self._killed]:
            if not self._kill(trial_id):
                self._controller.stop_trial(self._trials[trial_id])

    def leave(self, draining: Sequence[Node]) -> None:
        """End the processes of trials on nodes that are drained, to go on elsewhere from their checkpoints.

        A trial that ran when that was noticed first ends its epoch, if its node lives for so long; then nothing is
        repeated.
        """
        known, self._leaving = self._leaving, {node.id: node for node in draining}
        for trial_id in list(self.searcher.running) if draining else ():
            node = self._node_of(trial_id)
            if node not in self._leaving or trial_id in self._killed:
                continue
            epoch = self.engine.trials[self.searcher.numbers[trial_id]].epoch
            if node not in known:
                self._stood_at[trial_id] = epoch
            elif self._stood_at.get(trial_id) != epoch:
                self.searcher.moved[trial_id] = self._leaving[node]
                self._kill(trial_id)

    def _node_of(self, trial_id: str) -> str:
        """Ray's id of a trial's node, which stays the same; empty before its process runs."""
        actor = self._trials[trial_id].temporary_state.ray_actor
        if trial_id not in self._where and actor is not None:
            self._where[trial_id] = node_id_of_actor(actor._actor_id.hex()) or ""
        return self._where.get(trial_id, "")

    def _kill(self, trial_id: str) -> bool:
        """End a trial's process, if it has one: Ray Tune takes it for a loss, and the engine for what it knows."""
        self._killed.add(trial_id)
        actor = self._trials[trial_id].temporary_state.ray_actor
        if actor is not None:
            ray.kill(actor)
        return actor is not None

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Keep the error for the searcher's adapter, which is told next and only that there was one."""
        with suppress(OSError), open(trial.pickled_error_file, "rb") as file:
            self.searcher.errors[trial.trial_id] = pickle.load(file)
        super().on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """CONTINUE or STOP, as the engine decides."""
        go_on = False
        with stopping(self.engine):
            if "full" in result:  # the trial waits for room on the disk, and tries again
                pause().full(result["full"], seconds=0)
                return str(TrialScheduler.CONTINUE)
            pause().over()
            go_on = self.engine.report(self.searcher.numbers[trial.trial_id], report_of(result))
        return str(TrialScheduler.CONTINUE if go_on else TrialScheduler.STOP)


class StopOnRequest(Unsaved, Stopper):  # type: ignore[misc]
    """Stops all trials once the engine has been interrupted, and single ones that a request names."""

    def __init__(self, engine: Engine, placement: Placement, requests: Requests, scheduler: EngineScheduler) -> None:
        self.engine, self.placement, self.requests, self.scheduler = engine, placement, requests, scheduler

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped here."""
        return False

    def stop_all(self) -> bool:
        """Whether the engine has been interrupted; also the moment to take requests and to write rows that wait."""
        with stopping(self.engine):
            self.engine.recorder.flush_if_due()
            if not self.engine.interrupted:
                self.requests.take_if_due()
                self.scheduler.stop_requested()
                if self.placement.check_if_due():
                    self.scheduler.leave(self.placement.draining)
        return self.engine.interrupted
