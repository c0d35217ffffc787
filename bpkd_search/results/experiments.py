"""One or several experiment directories as one: their configurations, what they measure, and their tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from bpkd_search.config.data import DATA_OPTIONS
from bpkd_search.config.paths import find
from bpkd_search.config.search import Search
from bpkd_search.errors import ConfigError, ExperimentError
from bpkd_search.experiment.calibration import read_steps, scale
from bpkd_search.experiment.paths import CALIBRATION, CONFIRM, FACTS, REPORTS, TRIALS
from bpkd_search.experiment.reading import Folder, unite
from bpkd_search.experiment.schema import (
    CONFIRM_COLUMNS,
    REPORT_COLUMNS,
    TRIAL_COLUMNS,
    confirm_schema,
    reports_schema,
    trials_schema,
)
from bpkd_search.metrics.table import SCORES

# Scores of experiments that differ in one of these are not comparable; a caveat is shown.
_COMPARABLE = (
    "data.kind",
    "data.crop",
    "data.resize",
    "data.eval",
    *DATA_OPTIONS,
    "train.epochs",
    "train.iterations",
    "student",
)


class Experiments:
    """One or several experiment directories that maximised the same metric.

    A directory is a path, or a URL of any filesystem that pyarrow opens. Raises `ExperimentError` if a directory is
    not an experiment or cannot be read, or if the experiments maximised different metrics.
    """

    def __init__(self, directories: Path | str | Sequence[Path | str]) -> None:
        given = [directories] if isinstance(directories, Path | str) else list(directories)
        if not given:
            raise ExperimentError("got no experiment directory, must be one or more")
        self.folders = [Folder(where) for where in given]
        self.names = [folder.name for folder in self.folders]
        if twice := [name for name in self.names if self.names.count(name) > 1]:
            raise ExperimentError(f"{twice[0]}: is given twice")
        self._paths = [
            None if folder.is_url else Path(where) for folder, where in zip(self.folders, given, strict=True)
        ]
        metrics = [search.ranked_by for search in self._searches]
        for name, metric in zip(self.names, metrics, strict=True):
            if metric not in SCORES:
                raise ExperimentError(f"{name}: maximised {metric!r}, valid: {', '.join(SCORES)}")
            if metric != metrics[0]:
                raise ExperimentError(
                    f"{self.names[0]} maximised {metrics[0]}, {name} maximised {metric};"
                    " one leaderboard needs one metric"
                )

    @property
    def directory(self) -> Path:
        """The local directory. Raises `ExperimentError` for several directories and for a URL."""
        if len(self._paths) != 1 or self._paths[0] is None:
            raise ExperimentError(f"{', '.join(self.names)}: must be one experiment directory on this machine")
        return self._paths[0]

    @cached_property
    def configs(self) -> list[dict[str, Any]]:
        """The resolved configurations of the searches as plain mappings."""
        return [folder.config() for folder in self.folders]

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration of the only, or first, search."""
        return self.configs[0]

    @cached_property
    def _searches(self) -> list[Search]:
        # Not validated: a directory of a newer version may hold keys that this one does not know.
        return [Search.model_construct(**config["search"]) for config in self.configs]

    @property
    def metric(self) -> str:
        """The metric that ranks: the one the search maximised, or the first of several objectives."""
        return self._searches[0].ranked_by

    @property
    def direction(self) -> str:
        """Whether more (`max`) or less (`min`) of the metric that ranks is better."""
        return self._searches[0].goals[self.metric]

    @property
    def objectives(self) -> list[str]:
        """The measures that the searches optimised, the one that ranks first."""
        return list(dict.fromkeys(name for search in self._searches for name in search.goals))

    @property
    def limited(self) -> list[str]:
        """The measures that the constraints of the searches limit; empty without constraints."""
        return list(dict.fromkeys(name for search in self._searches for name, _, _ in search.limits()))

    @property
    def confirmed(self) -> bool:
        """Whether a confirmation was started."""
        return any(folder.has(CONFIRM) for folder in self.folders)

    @property
    def parameters(self) -> list[str]:
        """The searched parameters, by column name."""
        return list(dict.fromkeys(path for config in self.configs for path in config["space"]))

    @cached_property
    def experiments(self) -> list[str]:
        """The `experiment` value of each directory: the name of the search, or of the directory if names repeat."""
        names = [str(config.get("name", "search")) for config in self.configs]
        return names if len(set(names)) == len(names) else self.names

    @property
    def caveats(self) -> list[str]:
        """Reasons why scores are not comparable, a line each: what experiments differ in, what changed in one."""
        lines = [
            f"{name}: since {change['time']}, trials ran with accepted changes: {'; '.join(change['changes'])}"
            for name, facts in zip(self.experiments, self._facts, strict=True)
            for change in facts.get("accepted", [])
        ]
        for path in _COMPARABLE:
            values = [find(config, path) for config in self.configs]
            if any(value != values[0] for value in values) and path not in self.parameters:
                shown = ["..." if isinstance(value, dict) else value for value in values]
                each = "; ".join(f"{name}: {value}" for name, value in zip(self.experiments, shown, strict=True))
                lines.append(f"{path} differs ({each}): scores are not comparable")
        if None in self._scales:
            timed = zip(self.experiments, self._steps, strict=True)
            kinds = "; ".join(f"{name}: {', '.join(steps)}" for name, steps in timed)
            lines.append(f"kinds of devices differ ({kinds}): seconds are not comparable")
        return lines

    @property
    def _steps(self) -> list[dict[str, float]]:
        """The seconds of a step on each kind of device that trials of each experiment ran on."""
        return [read_steps(folder.text(CALIBRATION), f"{folder.name}/{CALIBRATION}") for folder in self.folders]

    @property
    def _scales(self) -> list[float | None]:
        """What a calibrated second of each experiment is in those of the first; None where nothing says it."""
        return [scale(steps, self._steps[0]) for steps in self._steps]

    def comparable_seconds(self, rows: pd.DataFrame) -> pd.Series:
        """Return the seconds of rows of `trials` or `reports` as they compare between kinds of devices.

        Those are calibrated seconds of the first experiment's first kind; rows without them count as they are.
        """
        seconds = rows["calibrated_seconds"].astype(float).fillna(rows["gpu_seconds"].astype(float))
        factors = {name: each or 1.0 for name, each in zip(self.experiments, self._scales, strict=True)}
        return seconds * rows["experiment"].astype(str).map(factors)

    @cached_property
    def class_names(self) -> list[str] | None:
        """Names of the classes in the order of `class_iou`; None if the experiment does not store them.

        They come from `experiment.json`, or from `data.folder.class_names`.
        """
        found = [
            facts.get("class_names") or find(config, "data.folder.class_names")
            for facts, config in zip(self._facts, self.configs, strict=True)
        ]
        if any(names != found[0] for names in found):
            raise ExperimentError(f"{', '.join(self.names)}: have different classes; ask for them one by one")
        return [str(name) for name in found[0]] if found[0] else None

    @property
    def commit(self) -> str | None:
        """The commit of the code that ran the only, or first, search; None if unknown."""
        commit = self._facts[0].get("commit")
        return None if commit is None else str(commit)

    @property
    def crops(self) -> dict[str, Any]:
        """Where trials got crops and teacher from, as values of `data.views` and `teacher.mode`; empty if unknown."""
        return dict(self._facts[0].get("crops") or {})

    def columns(self, table: str = TRIALS) -> pd.DataFrame:
        """Return type and meaning of each column of a table, by default `trials`. Raises `ConfigError` if unknown."""
        known = {TRIALS: TRIAL_COLUMNS, REPORTS: REPORT_COLUMNS, CONFIRM: CONFIRM_COLUMNS}
        if table not in known:
            raise ConfigError([f"got {table!r}, valid: {', '.join(known)}"], "table")
        docs = {name: doc for name, _, doc in known[table]}
        rows = self._table(table)
        kinds = [str(f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in rows.schema]
        meaning = [docs.get(name, "searched parameter; empty where the trial has none") for name in rows.column_names]
        return pd.DataFrame({"type": kinds, "meaning": meaning}, index=pd.Index(rows.column_names, name="column"))

    @cached_property
    def _facts(self) -> list[dict[str, Any]]:
        """The facts that each search stored (`experiment.json`)."""
        found = []
        for folder in self.folders:
            try:
                found.append(dict(json.loads(folder.text(FACTS) or "{}")))
            except (ValueError, TypeError) as e:
                raise ExperimentError(f"{folder.name}/{FACTS}: is damaged: {e}") from e
        return found

    def _table(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return one table of all experiments; columns that an older version did not write are empty."""
        parts = []
        for folder, name, config in zip(self.folders, self.experiments, self.configs, strict=True):
            rows = folder.table(table, columns)
            if rows is None:
                continue
            if name != config.get("name", name) and "experiment" in rows.column_names:
                label = pa.array([name] * len(rows)).dictionary_encode()
                rows = rows.set_column(rows.column_names.index("experiment"), "experiment", label)
            parts.append(rows)
        if not parts and not any(folder.has(table) for folder in self.folders):
            missing = "is not confirmed yet; run `bpkd-search confirm`"
            if table != CONFIRM:
                missing = f"has no {table} yet; has its search started?"
            raise ExperimentError(f"{', '.join(self.names)}: {missing}")
        searched = dict.fromkeys(self.parameters, "float")
        schemas = {TRIALS: trials_schema(searched), REPORTS: reports_schema(), CONFIRM: confirm_schema(searched)}
        schema = schemas[table]
        rows = unite(parts) if parts else schema.empty_table()
        for field in schema:
            if field.name not in rows.column_names and (columns is None or field.name in columns):
                rows = rows.append_column(field, pa.nulls(len(rows), field.type))
        return rows
