"""Optional loggers (CSV, TensorBoard, MLflow, Weights & Biases) that record the engine's events.

The tables hold everything; these are copies for other tools. If a logger fails, a warning names it
and it is disabled; the search continues without it.
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

# As in MLflow's own Optuna integration.
MLFLOW_STATUS = {COMPLETE: "FINISHED", PRUNED: "KILLED", FAILED: "FAILED"}
TENSORBOARD_FAILURE = 2  # STATUS_FAILURE of its HPARAMS plugin
LOGGED = (*REPORTED, "loss")


Logger = Callable[[str, Trial], None]


def make_loggers(config: SearchConfig, directory: Path) -> list[Logger]:
    """Return the loggers that `config.logging` enables; files are below `directory`/logs unless configured otherwise.

    Each is called with (event, trial) after every `ask`, `report` and `end`. Raises `MissingPackageError`
    if a logger's package is missing, and `ConfigError` if a store does not respond.
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
    """One line per report: trial, searched parameters, measures. A resumed search appends to the file."""

    def __init__(self, config: SearchConfig, path: Path) -> None:
        self.path, self.space = path, list(config.space)
        self.columns = ["number", "method", "origin", "epoch", *self.space, *LOGGED]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and (begun := self._header()):
            # A version with other measures may have created the file.
            self.columns = begun
        else:
            self._write(self.columns)

    def __call__(self, event: str, trial: Trial) -> None:
        """Write the line of a report."""
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
    """One run per trial, `trial-00007`, with its scalars by epoch and its entry on the HPARAMS page."""

    def __init__(self, config: SearchConfig, folder: Path) -> None:
        # The plain writer of tensorboardX, which is a dependency of Ray Tune: the usual one writes from a thread, and
        # its queue is lost if the process dies.
        self._events, self._file, self._summary, self._hparams = (
            require(f"tensorboardX.{part}", "tensorboard", "logging.tensorboard")
            for part in ("proto.event_pb2", "event_file_writer", "summary", "proto.plugin_hparams_pb2")
        )
        self.folder, self.space = folder, list(config.space)
        folder.mkdir(parents=True, exist_ok=True)
        self._writers: dict[int, Any] = {}

    def __call__(self, event: str, trial: Trial) -> None:
        """Write the scalars of a report, and at the end the HPARAMS entry with the final scores."""
        if event == "report":
            self._write(trial, trial.epoch, (self._summary.scalar(name, value) for name, value in scalars(trial)))
        elif event == "end":
            self._write(trial, 0, self._point(trial))
            self._writers.pop(trial.number).close()

    def _point(self, trial: Trial) -> Iterable[Any]:
        """Yield the summaries of the HPARAMS page: parameters, final scores and state of the trial."""
        point = {**parameters(trial, self.space), "method": trial.method, **outcome(trial)}
        experiment, start, end = self._summary.hparams(point, dict(scalars(trial)))
        if trial.state == FAILED:  # the writer marks every session as a success
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
            # File names contain the second: a resumed search must not overwrite existing files.
            writer = self._file.EventsWriter(str(folder / "events"), f".{time.time_ns()}")
            self._writers[trial.number] = writer
        for summary in summaries:
            writer.write_event(self._events.Event(wall_time=time.time(), step=step, summary=summary))
        writer.flush()


class MlflowLogger:
    """One run per trial, in the experiment named after the search; a resumed trial continues its run."""

    def __init__(self, config: SearchConfig, store: str) -> None:
        if "://" not in store:
            # MLflow requires a confirmation that its plain-file store is intended.
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
        """Return the trial's run, found by its tag or created."""
        found = self.client.search_runs([self.experiment], f"tags.trial = '{trial.number}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        tags = {"trial": str(trial.number), "origin": trial.origin}
        run = str(self.client.create_run(self.experiment, run_name=_name(trial), tags=tags).info.run_id)
        for name, value in {**parameters(trial, self.space), "method": trial.method}.items():
            self.client.log_param(run, name, value)
        return run


class WandbLogger:
    """One run per trial, in the project named after the search; `WANDB_MODE=offline` keeps everything local."""

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
            # Several trials run at once, so each has its own run.
            reinit="create_new",
            settings=self.wandb.Settings(silent=True, console="off"),
        )


class _Guarded:
    """Disables a logger, with a warning, after its first exception, so that the search continues."""

    def __init__(self, name: str, logger: Logger) -> None:
        self.name, self.logger = name, logger
        self.failed = False

    def __call__(self, event: str, trial: Trial) -> None:
        if self.failed:
            return
        try:
            self.logger(event, trial)
        except Exception as e:  # third-party packages, disks and servers may raise anything
            self.failed = True
            warnings.warn(
                f"logging.{self.name}: failed and is disabled from here on: {' '.join(str(e).split())}", stacklevel=2
            )


def scalars(trial: Trial) -> Iterator[tuple[str, float]]:
    """Yield name and value of each number in a trial's newest report, including each loss term."""
    for name, value in trial.last().items():
        known = name in LOGGED or name.startswith("loss_")
        if known and isinstance(value, int | float) and value == value:
            yield name, float(value)


def outcome(trial: Trial) -> dict[str, str]:
    """Return the state of an ended trial, and the reason of a failed one."""
    known = {"state": trial.state, "reason": trial.reason}
    return {name: value for name, value in known.items() if value is not None}


def parameters(trial: Trial, space: list[str]) -> dict[str, Any]:
    """Return the trial's value of each searched path that its loss has."""
    tree = to_tree(trial.run)
    values = {path: find(tree, path) for path in space}
    return {path: value for path, value in values.items() if isinstance(value, bool | int | float | str)}


def _store(value: bool | str, directory: Path) -> str:
    return value if isinstance(value, str) else str(directory / LOGS / "mlruns")


def _open(name: str, make: Callable[[], Logger]) -> Logger:
    """Create a logger. Raises `ConfigError` if it cannot start, so that the search fails early."""
    try:
        return make()
    except UserError:
        raise
    except Exception as e:  # third-party packages, disks and servers may raise anything
        raise ConfigError([f"logging.{name}: cannot be used: {' '.join(str(e).split())}"]) from e


def _name(trial: Trial) -> str:
    return f"trial-{trial.number:05d}"
