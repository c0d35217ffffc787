"""Reads experiments: trials and reports as pandas frames, and their ranking. Imports neither torch nor Ray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bpkd_search.config.models import DATA_OPTIONS
from bpkd_search.config.paths import find
from bpkd_search.config.search import Search
from bpkd_search.errors import ConfigError, ExperimentError
from bpkd_search.experiment.paths import CONFIRM, FACTS, REPORTS, TRIALS
from bpkd_search.experiment.reading import Folder, to_pandas, unite
from bpkd_search.experiment.schema import (
    COMPLETE,
    CONFIRM_COLUMNS,
    FAILED,
    PRUNED,
    REPORT_COLUMNS,
    RUNNING,
    TRIAL_COLUMNS,
    confirm_schema,
    reports_schema,
    trials_schema,
)
from bpkd_search.metrics.table import HEADLINE, SCORES, held_out

_ORDER = {COMPLETE: 0, RUNNING: 1, PRUNED: 1, FAILED: 2}
# Scores of experiments that differ in one of these are not comparable; a caveat is shown.
_COMPARABLE = ("data.kind", "data.height", "data.width", *DATA_OPTIONS, "train.epochs", "train.iterations", "student")


class Leaderboard:
    """The results of one or several experiment directories, readable while their searches run.

        board = Leaderboard("runs/camvid")
        board.best(5)[["method", "loss.edge_width", "miou"]]
        both = Leaderboard(["runs/camvid", "s3://bucket/runs/camvid-wide"])

    A directory is a path, or a URL of any filesystem that pyarrow opens. For several, the frames hold the union
    of the searched parameters, and `experiment` distinguishes them. Every call reads the files again. Raises
    `ExperimentError` if a directory is not an experiment or cannot be read, or if the experiments
    maximised different metrics. A damaged part file is omitted with a `DamagedFileWarning`.
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
        metrics = [_ranked_by(config["search"]) for config in self.configs]
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

    @property
    def metric(self) -> str:
        """The metric that ranks: the one the search maximised, or the first of several objectives."""
        return _ranked_by(self.config["search"])

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
        """Reasons why the experiments' scores are not comparable, one line each; empty for one experiment."""
        lines = []
        for path in _COMPARABLE:
            values = [find(config, path) for config in self.configs]
            if any(value != values[0] for value in values) and path not in self.parameters:
                shown = ["..." if isinstance(value, dict) else value for value in values]
                each = "; ".join(f"{name}: {value}" for name, value in zip(self.experiments, shown, strict=True))
                lines.append(f"{path} differs ({each}): scores are not comparable")
        return lines

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

    def trials(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return one row per trial, best first, with `rank` as the index; `columns` selects some, plus those that rank.

        Trials that ran their full budget come first, ordered by the search's metric, those that violate a constraint
        after the others. Running and stopped trials follow, ordered by epochs and metric; failed ones are last. A
        partial result never outranks a full one.
        """
        needed = ("experiment", "number", "state", "epochs", "feasible", self.metric)
        frame = to_pandas(self._table(TRIALS, None if columns is None else [*dict.fromkeys([*needed, *columns])]))
        states = frame["state"].astype(object)
        order = frame.assign(
            _group=states.map(_ORDER).fillna(max(_ORDER.values())) + (frame["feasible"].eq(False).fillna(False) * 0.5),
            _epochs=frame["epochs"].where(states != COMPLETE, 0),
        ).sort_values(
            ["_group", "_epochs", self.metric, "experiment", "number"],
            ascending=[True, False, False, True, True],
            na_position="last",
        )
        ranked = frame.loc[order.index].reset_index(drop=True)
        ranked.index = pd.RangeIndex(1, len(ranked) + 1, name="rank")
        return ranked

    def reports(self, columns: Sequence[str] | None = None, numbers: Sequence[int] | None = None) -> pd.DataFrame:
        """Return one row per validated epoch, by experiment, trial and epoch, of all trials or those in `numbers`."""
        key = ["experiment", "number", "epoch"]
        rows = self._table(REPORTS, None if columns is None else [*dict.fromkeys([*key, *columns])])
        if numbers is not None:
            rows = rows.filter(pc.is_in(rows["number"], pa.array(numbers, pa.int64())))
        frame = to_pandas(rows)
        # A trial resumed from a checkpoint reports an epoch twice if it died between report and checkpoint.
        return frame.drop_duplicates(key, keep="last").sort_values(key, ignore_index=True)

    def best(self, n: int = 1) -> pd.DataFrame:
        """Return the n best of the trials that ran their full budget, including baselines."""
        return self._full().head(n)

    def front(self, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the Pareto-optimal full-budget trials for `metrics`, by rank.

        Without `metrics`, the objectives of the search are used, or edge_miou and body_miou if it had one.
        Scores and speed are better when higher, costs when lower. Trials without a value of a measure are
        omitted. Raises `ConfigError` if a column is not a measure.
        """
        from bpkd_search.results.analysis import front

        objectives = list(self.config["search"].get("objectives") or ("edge_miou", "body_miou"))
        return front(self._full(), objectives if metrics is None else metrics)

    def compare(self, methods: Sequence[str] | None = None) -> pd.DataFrame:
        """Return a comparison of the methods at equal epochs and at equal GPU-seconds; see `compare.compare`."""
        from bpkd_search.results.compare import compare

        several = len(self.folders) > 1
        measures = [self.metric, "gpu_seconds"]
        trials, reports = self.trials([*measures, "method", "origin"]), self.reports(measures)
        return compare(trials, reports, self.metric, methods, ["experiment", "method"] if several else ["method"])

    def importance(self, seed: int = 0) -> pd.DataFrame:
        """Return the importance of each parameter by PED-ANOVA and fANOVA; see `importance.importance`."""
        from bpkd_search.results.importance import importance

        spaces = [config["space"] for config in self.configs]
        if any(space != spaces[0] for space in spaces):
            raise ExperimentError(f"{', '.join(self.names)}: search different spaces; ask for importance one by one")
        return importance(self._full(), self.metric, spaces[0], seed)

    def curves(self) -> pd.DataFrame:
        """Return the best score so far against the GPU-seconds spent; see `analysis.best_so_far`."""
        from bpkd_search.results.analysis import best_so_far

        trials = self.trials(["method", "ended"])
        return best_so_far(trials, self.reports([self.metric, "gpu_seconds", "time"]), self.metric)

    def per_class(self) -> pd.DataFrame:
        """Return the IoU of each class (rows) in the best full-budget trial of each method (columns, best first).

        For several experiments, the columns are (experiment, method). Raises `ExperimentError` if their
        classes differ, or if no trial has run its full budget.
        """
        from bpkd_search.results.analysis import per_class

        several = len(self.folders) > 1
        by = ["experiment", "method"] if several else ["method"]
        best = self._full().groupby(by, observed=True, sort=False).head(1)
        reports = self.reports(["class_iou"], best["number"].tolist())
        return per_class(best, reports, by, self.class_names)

    def confirm(self) -> pd.DataFrame:
        """Return one row per confirmed setting and seed of `bpkd-search confirm`, by experiment, seed and trial."""
        return to_pandas(self._table(CONFIRM)).sort_values(["experiment", "seed", "number"], ignore_index=True)

    def winner(self, metric: str | None = None) -> pd.DataFrame:
        """Return the statistics of the confirmation, one row per setting, verdict in `attrs`; see `confirm.summarise`.

        `metric` is by default the metric that ranks the search; `test_miou` and similar are those of the held-out
        split, on which nothing is chosen. Raises `ExperimentError` for several experiments or if one has no such
        scores, `ConfigError` if the metric is unknown.
        """
        from bpkd_search.results.confirm import summarise

        if len(self.folders) > 1:
            raise ExperimentError(f"{', '.join(self.names)}: have different settings; ask for the winner one by one")
        metric = metric or self.metric
        if metric not in (valid := [*SCORES, *map(held_out, SCORES)]):
            raise ConfigError([f"got {metric!r}, valid: {', '.join(valid)}"], "metric")
        rows = self.confirm()
        if rows[metric].isna().all():
            raise ExperimentError(f"{self.names[0]}: has no confirmed {metric} yet")
        return summarise(rows, metric, self.metric if metric not in SCORES else metric)

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

    def _full(self) -> pd.DataFrame:
        trials = self.trials()
        return trials[trials["state"] == COMPLETE]

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

    def __repr__(self) -> str:
        names = self.names[0] if len(self.names) == 1 else self.names
        return f"Leaderboard({names!r}: {self._counts()}; by {self.metric})"

    def _repr_html_(self) -> str:
        shown = ["experiment"] * (len(self.folders) > 1) + ["number", "state", "method", *self.parameters]
        shown += dict.fromkeys([self.metric, *HEADLINE, "epochs", "gpu_seconds"])
        table = self.trials(shown).head(10)[shown].to_html(na_rep="", float_format="{:.4g}".format)
        notes = [f"{self._counts()}; ranked by {self.metric} on the validation split.", *self.caveats]
        return table + "".join(f"<p>{escape(note)}</p>" for note in notes)

    def _counts(self) -> str:
        states = self.trials(["state"])["state"].astype(object).value_counts()
        return ", ".join(f"{n} {state}" for state, n in states.items()) or "no trials"


def _ranked_by(search: dict[str, Any]) -> str:
    # Not validated: a directory of a newer version may hold keys that this one does not know.
    return str(Search.model_construct(**search).ranked_by)
