"""Loggers that people already use, off by default: each follows the engine's events beside the tables.

The tables hold everything; these copies are for people whose eyes live elsewhere. A logger that fails is
named in a warning and left out from then on: the search continues without it.
"""

from __future__ import annotations

import csv
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from bpkd_search.config.models import SearchConfig
from bpkd_search.config.paths import find
from bpkd_search.config.points import to_tree
from bpkd_search.errors import ConfigError, UserError
from bpkd_search.experiment.paths import LOGS
from bpkd_search.experiment.schema import COMPLETE, FAILED, PRUNED
from bpkd_search.experiment.trial import Trial
from bpkd_search.imports import require
from bpkd_search.metrics.table import REPORTED

# As MLflow's own integration of Optuna has it.
MLFLOW_STATUS = {COMPLETE: "FINISHED", PRUNED: "KILLED", FAILED: "FAILED"}
TENSORBOARD_FAILURE = 2  # STATUS_FAILURE of its HPARAMS plugin
LOGGED = (*REPORTED, "loss")


Logger = Callable[[str, Trial], None]


def make_loggers(config: SearchConfig, directory: Path) -> list[Logger]:
    """The loggers that `config.logging` asks for; they write below `directory`/logs unless told otherwise.

    Each is called with (event, trial) after every `ask`, `report` and `end`. Raises `MissingPackageError`
    without a logger's package, and `ConfigError` for a store that does not answer.
    """
    switches = config.logging
    asked: dict[str, Callable[[], Logger]] = {
        "csv": lambda: CsvLogger(config, directory / LOGS / "reports.csv"),
        "tensorboard": lambda: TensorBoardLogger(config, directory / LOGS / "tensorboard"),
        "mlflow": lambda: MlflowLogger(config, _store(switches.mlflow, directory)),
        "wandb": lambda: WandbLogger(config, directory / LOGS),
    }
    return [_Guarded(name, _open(name, make)) for name, make in asked.items() if getattr(switches, name)]


class CsvLogger:
    """A line a report: trial, searched parameters, measures. A resumed search continues the file."""

    def __init__(self, config: SearchConfig, path: Path) -> None:
        self.path, self.space = path, list(config.space)
        self.columns = ["number", "method", "origin", "epoch", *self.space, *LOGGED]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and (begun := self._header()):
            # A version that knew other measures may have begun the file.
            self.columns = begun
        else:
            self._write(self.columns)

    def __call__(self, event: str, trial: Trial) -> None:
        """Write a report's line."""
        if event == "report":
            row = {"number": trial.number, "method": trial.method, "origin": trial.origin, "epoch": trial.epoch}
            row |= {**parameters(trial, self.space), **{name: trial.last().get(name) for name in LOGGED}}
            self._write([row.get(name) for name in self.columns])

    def _header(self) -> list[str]:
        with self.path.open(encoding="utf-8", newline="") as file:
            return next(csv.reader(file), [])

    def _write(self, row: list[Any]) -> None:
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow(row)


class TensorBoardLogger:
    """A run a trial, `trial-00007`, with its scalars by epoch and its point for the HPARAMS page."""

    def __init__(self, config: SearchConfig, folder: Path) -> None:
        # Of tensorboardX, which comes with Ray Tune, the plain writer: the usual one writes from a thread, and what
        # waits in its queue is lost with the process.
        self._events, self._file, self._summary, self._hparams = (
            require(f"tensorboardX.{part}", "tensorboard", "logging.tensorboard")
            for part in ("proto.event_pb2", "event_file_writer", "summary", "proto.plugin_hparams_pb2")
        )
        self.folder, self.space = folder, list(config.space)
        folder.mkdir(parents=True, exist_ok=True)
        self._writers: dict[int, Any] = {}

    def __call__(self, event: str, trial: Trial) -> None:
        """Write a report's scalars, and at the end the point with what it reached."""
        if event == "report":
            self._write(trial, trial.epoch, (self._summary.scalar(name, value) for name, value in scalars(trial)))
        elif event == "end":
            self._write(trial, 0, self._point(trial))
            self._writers.pop(trial.number).close()

    def _point(self, trial: Trial) -> Iterable[Any]:
        """What the HPARAMS page reads: what the trial was, what it reached and how it ended."""
        point = {**parameters(trial, self.space), "method": trial.method, **outcome(trial)}
        experiment, start, end = self._summary.hparams(point, dict(scalars(trial)))
        if trial.state == FAILED:  # the writer takes every session for a success
            plugin = end.value[0].metadata.plugin_data
            content = self._hparams.HParamsPluginData.FromString(plugin.content)
            content.session_end_info.status = TENSORBOARD_FAILURE
            plugin.content = content.SerializeToString()
        return experiment, start, end

    def _write(self, trial: Trial, step: int, summaries: Iterable[Any]) -> None:
        writer = self._writers.get(trial.number)
        if writer is None:
            folder = self.folder / _name(trial)
            folder.mkdir(exist_ok=True)
            # Files are named by the second: what a resumed search writes must not replace what was there.
            writer = self._file.EventsWriter(str(folder / "events"), f".{time.time_ns()}")
            self._writers[trial.number] = writer
        for summary in summaries:
            writer.write_event(self._events.Event(wall_time=time.time(), step=step, summary=summary))
        writer.flush()


class MlflowLogger:
    """A run a trial in the experiment of the search's name; a resumed trial continues its run."""

    def __init__(self, config: SearchConfig, store: str) -> None:
        if "://" not in store:
            # MLflow requires a confirmation that its plain-file store is meant.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            store = Path(store).expanduser().resolve().as_uri()
        mlflow = require("mlflow", "mlflow", "logging.mlflow")
        self.client, self.space = mlflow.MlflowClient(tracking_uri=store), list(config.space)
        found = self.client.get_experiment_by_name(config.name)
        self.experiment = found.experiment_id if found else self.client.create_experiment(config.name)
        self._runs: dict[int, str] = {}

    def __call__(self, event: str, trial: Trial) -> None:
        """Open the run at the first event, log a report's measures, close it at the end."""
        run = self._runs.get(trial.number) or self._run(trial)
        self._runs[trial.number] = run
        if event == "report":
            for name, value in scalars(trial):
                self.client.log_metric(run, name, value, step=trial.epoch)
        elif event == "end":
            for tag, text in outcome(trial).items():
                self.client.set_tag(run, tag, text)
            self.client.set_terminated(self._runs.pop(trial.number), MLFLOW_STATUS[str(trial.state)])

    def _run(self, trial: Trial) -> str:
        """The trial's run, found again by its tag or made."""
        found = self.client.search_runs([self.experiment], f"tags.trial = '{trial.number}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        tags = {"trial": str(trial.number), "origin": trial.origin}
        run = str(self.client.create_run(self.experiment, run_name=_name(trial), tags=tags).info.run_id)
        for name, value in {**parameters(trial, self.space), "method": trial.method}.items():
            self.client.log_param(run, name, value)
        return run


class WandbLogger:
    """A run a trial in the project of the search's name; `WANDB_MODE=offline` keeps it all on this machine."""

    def __init__(self, config: SearchConfig, folder: Path) -> None:
        self.wandb, self.config, self.folder = require("wandb", "wandb", "logging.wandb"), config, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._runs: dict[int, Any] = {}

    def __call__(self, event: str, trial: Trial) -> None:
        """Open the run at the first event, log a report's measures, close it at the end."""
        run = self._runs.get(trial.number) or self._run(trial)
        self._runs[trial.number] = run
        if event == "report":
            run.log(dict(scalars(trial)), step=trial.epoch)
        elif event == "end":
            run.summary.update(outcome(trial))
            self._runs.pop(trial.number).finish(exit_code=int(trial.state == FAILED))

    def _run(self, trial: Trial) -> Any:
        return self.wandb.init(
            project=self.config.name,
            name=_name(trial),
            id=f"{self.config.name}-{trial.number:05d}",
            config={**parameters(trial, list(self.config.space)), "method": trial.method, "origin": trial.origin},
            dir=str(self.folder),
            resume="allow",
            # Several trials run at once, so each has a run of its own.
            reinit="create_new",
            settings=self.wandb.Settings(silent=True, console="off"),
        )


class _Guarded:
    """A logger that is left out, with a warning, once it has failed: it is a copy, and the search is not."""

    def __init__(self, name: str, logger: Logger) -> None:
        self.name, self.logger = name, logger
        self.failed = False

    def __call__(self, event: str, trial: Trial) -> None:
        if self.failed:
            return
        try:
            self.logger(event, trial)
        except Exception as e:  # whatever a foreign package, a disk or a server may raise
            self.failed = True
            warnings.warn(
                f"logging.{self.name}: failed and is left out from here on: {' '.join(str(e).split())}", stacklevel=2
            )


def scalars(trial: Trial) -> Iterator[tuple[str, float]]:
    """The numbers of a trial's newest report by name, each loss term among them."""
    for name, value in trial.last().items():
        known = name in LOGGED or name.startswith("loss_")
        if known and isinstance(value, int | float) and value == value:
            yield name, float(value)


def outcome(trial: Trial) -> dict[str, str]:
    """The state of an ended trial in the tables, and the reason of a failed one."""
    known = {"state": trial.state, "reason": trial.reason}
    return {name: value for name, value in known.items() if value is not None}


def parameters(trial: Trial, space: list[str]) -> dict[str, Any]:
    """The trial's value of each searched path that its loss has."""
    tree = to_tree(trial.run)
    values = {path: find(tree, path) for path in space}
    return {path: value for path, value in values.items() if isinstance(value, bool | int | float | str)}


def _store(value: bool | str, directory: Path) -> str:
    return value if isinstance(value, str) else str(directory / LOGS / "mlruns")


def _open(name: str, make: Callable[[], Logger]) -> Logger:
    """A logger, or what keeps it from starting: better said before a search than after it."""
    try:
        return make()
    except UserError:
        raise
    except Exception as e:  # whatever a foreign package, a disk or a server may raise
        raise ConfigError([f"logging.{name}: cannot be used: {' '.join(str(e).split())}"]) from e


def _name(trial: Trial) -> str:
    return f"trial-{trial.number:05d}"
