"""The trial actor: one warm process per slot that runs one distillation after another."""

from __future__ import annotations

import gc
import json
import os
import socket
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from ray import tune

from bpkd_search.cluster.node_start import DeviceSpeed, UnfitError, device_speed, open_node
from bpkd_search.cluster.nodes import node_here
from bpkd_search.cluster.slots import PLACE
from bpkd_search.config.models import RunConfig
from bpkd_search.config.points import to_tree
from bpkd_search.errors import CheckpointError, FullDiskError
from bpkd_search.experiment.paths import checkpoint_file, student_file, trial_log
from bpkd_search.experiment.schema import NODE
from bpkd_search.experiment.trial import Trial
from bpkd_search.files import RETRY_SECONDS, full_disk, is_full
from bpkd_search.models import save_weights
from bpkd_search.stores.home import local_folder
from bpkd_search.stores.trial import TrialFiles
from bpkd_search.training.distill import Distillation, saved_epoch
from bpkd_search.training.evaluation import evaluate_run
from bpkd_search.training.latency import LATENCY, latency_ms
from bpkd_search.training.prepare import Prepared
from bpkd_search.training.process_cache import ProcessCache
from bpkd_search.training.round import Diverged
from bpkd_search.training.runtime import is_poisoned


@dataclass(frozen=True)
class TrialTask:
    """What an actor needs to run a trial, as plain values that travel through Ray.

    `reported` is the last epoch that the driver has on record, `wall_seconds` the trial's time until then. `experiment`
    is the experiment's own folder, `source` what `copies_for_joining` gave. Of an experiment on an object store,
    `store` is the URL and `inside` the path of `directory` in it.
    """

    directory: str
    prepared: Prepared
    threads: int
    number: int = 0
    run: dict[str, Any] | None = None
    reported: int = 0
    wall_seconds: float = 0.0
    store: str | None = None
    inside: str = "."
    experiment: str | None = None
    source: str | None = None

    def at(self, trial: Trial) -> TrialTask:
        """The same surroundings for a given trial."""
        last = trial.last()
        return replace(
            self,
            number=trial.number,
            run=to_tree(trial.run),
            reported=trial.epoch,
            wall_seconds=last.get("wall_seconds", 0.0),
        )

    def values_for(self, trial: Trial) -> dict[str, Any]:
        """The task of a given trial as plain values."""
        return self.at(trial).to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> TrialTask:
        """The task back from plain values."""
        return TrialTask(**{**values, "prepared": Prepared(**values["prepared"])})

    @property
    def own(self) -> Path | None:
        """The experiment's own folder on this node, or its copy of it."""
        if self.store is not None:
            return local_folder(self.store)
        return None if self.experiment is None else Path(self.experiment)

    @property
    def folder(self) -> Path:
        """The folder on this node that its files are written to."""
        return Path(self.directory) if self.store is None else local_folder(self.store) / self.inside

    @property
    def checkpoint(self) -> Path:
        """Where the unfinished trial's state is kept."""
        return checkpoint_file(self.folder, self.number)

    @property
    def log(self) -> Path:
        """Where its failures are told in full, and where it was continued."""
        return trial_log(self.folder, self.number)

    @property
    def student(self) -> Path:
        """Where the finished trial's weights go."""
        return student_file(self.folder, self.number)


class DistillationTrial(tune.Trainable):  # type: ignore[misc]
    """Ray Tune's view of a distillation run; actors are reused, so only the first trial of a slot is slow.

    A failure is reported, not raised: the search continues, and the process stays warm.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the first trial of this process."""
        # Imported code stays; without this, the garbage collection before each trial walks through all of it.
        if not gc.get_freeze_count():
            gc.freeze()
        self._cache = ProcessCache()
        self._poisoned = False
        self._files: TrialFiles | None = None
        self._device: DeviceSpeed | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial in this process, with the memory of the last one free again.

        Never False, also where memory did not come back: Ray Tune 2.60 aborts a trial whose reset fails, without
        telling the searcher, and then waits for it forever.
        """
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self.task = TrialTask.from_dict({key: value for key, value in config.items() if key != PLACE})
        self.run: Distillation | None = None
        self._gpus = float(config.get(PLACE, {}).get("gpus", 0.0))
        # The report of an epoch whose checkpoint is not written yet.
        self._unsaved: dict[str, Any] | None = None
        self._cache.release()
        self._start = time.monotonic() - self.task.wall_seconds
        torch.set_num_threads(self.task.threads)
        if self.task.store is not None:
            self._files = self._files or TrialFiles(self.task.store)
            self._files.follow((self.task.checkpoint, self.task.student, self.task.log))

    def _open(self) -> Distillation:
        if self.task.own is not None:
            open_node(self.task.own, self.task.prepared, self.task.source, self.task.store)
        run = self._cache.start(RunConfig.model_validate(self.task.run), self.task.prepared)
        if self.task.own is not None:
            if self._device is None:
                where, classes = self.task.own, run.store.num_classes
                self._device = device_speed(where, run.device, classes, self._gpus)
            run.speed = self._device.speed
        run.share = self._gpus or 1.0  # without a GPU, it has its CPUs to itself
        return run

    def step(self) -> dict[str, Any]:
        """One epoch and its validation, or the report of an epoch whose report a crash has lost."""
        try:
            if self._unsaved is None:
                self._unsaved = self._epoch()
            report = self._save(self._unsaved)
            self._unsaved = None
        except UnfitError as e:
            node = node_here()
            return self._failed(NODE, str(e)) | {"node": node.id if node else ""}
        except Diverged as e:
            return self._failed("nan", str(e))
        except (torch.OutOfMemoryError, MemoryError) as e:
            return self._failed("oom", str(e).splitlines()[0] if str(e) else "out of memory")
        except Exception as e:
            if is_full(e):
                return self._waits(e)
            if is_poisoned(e):
                # Ray Tune replaces the process of a trial that raises; the next one would fail in this process, too.
                self._log(traceback.format_exc())
                self._poisoned = True
                raise
            where = traceback.format_exc(limit=-2).strip().splitlines()
            return self._failed("error", f"{type(e).__name__}: {e} ({' '.join(where[1:3]).strip()})")
        assert self.run is not None
        return {"report": json.dumps(report), "done": self.run.finished}

    def _epoch(self) -> dict[str, Any]:
        if self.run is None:
            self.run = self._open()
            report = self._continue(self.run)
            if report is not None and self.run.epoch > self.task.reported:
                return report
        run = self.run
        report = run.train_epoch(self.task.checkpoint)
        scores = evaluate_run(run, RunConfig.model_validate(self.task.run).data)
        report |= scores.as_dict()
        report |= {
            "class_iou": [None if iou != iou else iou for iou in scores.iou],
            "final": run.finished,
            "wall_seconds": time.monotonic() - self._start,
            "node": socket.gethostname(),
            "device": self._device.kind if self._device else None,
            "parameters": run.parameters,
            LATENCY: latency_ms(run.student, next(run.store.val_samples([0]))[0], amp=run.amp),
        }
        return report

    def _continue(self, run: Distillation) -> dict[str, Any] | None:
        """Load the trial's checkpoint into a new run, if there is one; gives the report that was saved with it."""
        task, reported = self.task, self.task.reported
        if self._files is not None and saved_epoch(task.checkpoint) < reported:
            self._files.bring(task.checkpoint)  # on another node the trial has gone on since it was here
        if not task.checkpoint.is_file():
            if reported:
                self._log("its checkpoint is missing; starts again")
            return None
        try:
            report = run.load(task.checkpoint)
            if run.epoch > reported + 1:
                # The driver died together with its disk before the reports in between were sent to the store.
                raise CheckpointError(f"{task.checkpoint}: is of epoch {run.epoch}, on record are {reported}")
        except CheckpointError as e:
            # A load that fails half-way leaves a mixture: the trial starts again, with a new student.
            warnings.warn(f"{e}; trial {task.number} starts again", RuntimeWarning, stacklevel=2)
            self._log(f"{e}; starts again")
            self.run = self._open()
            return None
        self._log(f"continues after epoch {run.epoch}")
        return report

    def _save(self, report: dict[str, Any]) -> dict[str, Any]:
        """Write what a finished trial leaves and the checkpoint; the report, which a crash from now on cannot lose."""
        run = self.run
        assert run is not None
        if run.finished:
            about: dict[str, Any] = {"config": self.task.run, "miou": report["miou"]}
            about |= {"class_names": run.store.class_names, "palette": run.store.palette}
            save_weights(self.task.student, run.student, about)
            if self._files is not None:
                self._files.finish(self.task.checkpoint)
        run.save(self.task.checkpoint, report)
        return report

    def _waits(self, error: Exception) -> dict[str, Any]:
        """A result that says that the disk is full; the next step tries again."""
        if self._unsaved is None:
            self.run = None  # in the middle of an epoch: it continues from its checkpoint
        time.sleep(RETRY_SECONDS)
        text = str(error) if isinstance(error, FullDiskError) else full_disk(self.task.folder, 0)
        return {"full": text, "done": False}

    def _failed(self, reason: str, message: str) -> dict[str, Any]:
        self._log(traceback.format_exc())
        return {"failure": reason, "message": message[:2000], "done": True}

    def _log(self, text: str) -> None:
        """Append to the trial's log what has happened, when and where."""
        when = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        head = f"{when} trial {self.task.number} on {socket.gethostname()}, process {os.getpid()}"
        if self._files is not None and not self.task.log.exists():
            self._files.bring(self.task.log)  # what was told on another node
        # A full disk must not hide what is to be told.
        with suppress(OSError):
            self.task.log.parent.mkdir(parents=True, exist_ok=True)
            with self.task.log.open("a", encoding="utf-8") as file:
                file.write(f"{head}\n{text}\n")

    def cleanup(self) -> None:
        """Let go of the run, unless CUDA has failed: then only the end of the process does."""
        self.run = None
        if self._files is not None:
            self._files.close()
        if not self._poisoned:
            self._cache.release()
