"""Estimates of an experiment's trials from its tables: the mean over seeds at full budget of each one's setting.

The model of the space makes them. It takes long to import and to fit, so this happens once estimates are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter

from bpkd_search.config.models import SearchConfig
from bpkd_search.config.points import Point, baseline_run, baselines_of, coordinates, from_column, point_of, to_tree
from bpkd_search.config.space import Distribution
from bpkd_search.experiment.paths import REPORTS, TRIALS
from bpkd_search.experiment.reading import Folder, to_pandas
from bpkd_search.experiment.schema import BASELINE, COMPLETE, REPLICATE, RUNNING
from bpkd_search.metrics.table import SCORES

if TYPE_CHECKING:
    from bpkd_search.surrogate.model import Model
    from bpkd_search.surrogate.tried import Tried

ESTIMATE = "estimate"
# The columns, and what they mean.
ESTIMATES = {
    ESTIMATE: "expected mean over seeds at full budget of the metric that ranks, by a model of all trials",
    "estimate_low": "lower end of the 95 % interval of that mean",
    "estimate_high": "upper end of the 95 % interval of that mean",
}
# Of more trials, estimates are shown only to those who ask for them: they take seconds then.
UNASKED = 1000
# Half a 95 % interval in standard deviations.
_WIDTH = 1.96


def with_interval(row: Mapping[str, Any] | pd.Series) -> str:
    """Return the estimate of a row with its interval, as text; empty where there is none."""
    mean, low, high = (row[name] for name in ESTIMATES)
    return "" if pd.isna(mean) else f"{mean:.4f} [{low:.4f}, {high:.4f}]"


@dataclass(frozen=True)
class Searched:
    """The searched part of an experiment: its space, the configuration that it varies, and its trials in the space.

    `sign` is -1 if the metric that ranks is better when lower; the trials' values have it already.
    """

    space: dict[str, Distribution]
    base: dict[str, Any]
    trials: list[Tried]
    sign: float = 1.0


def read_searched(folder: Folder, config: Mapping[str, Any], metric: str, direction: str) -> Searched:
    """Return what the tables of an experiment tell of its space.

    Trials outside the space are left out, as most baselines are, and those that diverged: they have no mean. Raises
    `ExperimentError` if the folder cannot be read.
    """
    from bpkd_search.surrogate.tried import Tried, told

    space = TypeAdapter(dict[str, Distribution]).validate_python(dict(config["space"]))
    sign = 1.0 if direction == "max" else -1.0
    columns = ["number", "state", "reason", "origin", "method", "epochs", metric, *space]
    rows = folder.table(TRIALS, columns)
    frame = pd.DataFrame(columns=columns) if rows is None else to_pandas(rows).reindex(columns=columns)
    base, baselines = _base(config, space)
    trials, epochs = [], {}
    for row in frame.astype(object).sort_values("number").to_dict("records"):
        point = baselines.get(str(row["method"])) if row["origin"] == BASELINE else _point(space, base, row)
        if point is None or row["reason"] == "nan" or row["origin"] == REPLICATE:
            continue
        value = row[metric] if row["state"] == COMPLETE and not pd.isna(row[metric]) else None
        value = None if value is None else sign * float(value)
        trials.append(Tried(int(row["number"]), point, value, ended=row["state"] != RUNNING))
        epochs[int(row["number"])] = int(row["epochs"])
    reports = _reports(folder, [trial.number for trial in told(trials)], epochs)
    trials = [replace(trial, reports=reports.get(trial.number, {})) for trial in trials]
    return Searched(space, base, trials, sign)


def fitted(searched: Searched) -> tuple[Model | None, list[str]]:
    """Return the model of an experiment's trials, None where there is none, and sentences on how far to trust it."""
    from bpkd_search.surrogate.tried import MOST_FULL, MOST_OTHERS, model_of

    model = model_of(searched.space, searched.trials)
    full, others = len(model.full()), len(model.evidence) - len(model.full())
    if not model.ready:
        return None, [
            "There are no estimates yet: of the trials of the space that they are learned from,"
            f" {full} ran their full budget, which is too few."
        ]
    if not model.encoding.width:
        return None, ["There are no estimates: all points of the space are the same."]
    if len({trial.value for trial in searched.trials if trial.value is not None}) == 1:
        return None, ["There are no estimates: all full trials have the same score."]
    try:
        judges, noise = model.can_judge, model.noise
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as e:
        return None, [f"There are no estimates: the model cannot be fitted ({e})."]
    notes = [
        f"estimate: expected mean over seeds at full budget, with its 95 % interval, by a model of {full} full and"
        f" {others} other trials; it takes the standard deviation between seeds to be {noise:.4f}."
    ]
    if full == MOST_FULL or others == MOST_OTHERS:
        notes.append(f"Of more trials the model knows the newest {MOST_FULL} full and {MOST_OTHERS} others.")
    if not judges:
        notes.append(
            "The model predicts trials that it was not told of no better than their mean does: the estimates say"
            " little yet."
        )
    return model, notes


def estimated(searched: Searched) -> tuple[pd.DataFrame, list[str]]:
    """Return number, estimate, and the ends of its interval for each trial that has one, and the notes of `fitted`."""
    from bpkd_search.surrogate.tried import estimates

    model, notes = fitted(searched)
    columns = ["number", *ESTIMATES]
    if model is None:
        return pd.DataFrame({name: pd.Series(dtype=float) for name in columns}), notes
    found = estimates(model, searched.trials)
    mean, half = searched.sign * found.mean, _WIDTH * found.deviation
    numbers = [trial.number for trial in searched.trials]
    return pd.DataFrame(dict(zip(columns, (numbers, mean, mean - half, mean + half), strict=True))), notes


def _base(config: Mapping[str, Any], space: Mapping[str, Distribution]) -> tuple[dict[str, Any], dict[str, Point]]:
    """Return the configuration that the space varies, and the points of those baselines that are in the space."""
    try:
        read = SearchConfig.model_validate(dict(config))
    except ValueError:  # a directory of a newer version may hold keys that this one does not know
        return dict(config), {}
    base = read.run()
    points = {name: coordinates(space, base, baseline_run(base, name)) for name in baselines_of(read)}
    return to_tree(base), {name: point for name, point in points.items() if point is not None}


def _point(space: Mapping[str, Distribution], base: Mapping[str, Any], row: Mapping[Any, Any]) -> Point | None:
    cells = {path: row[path] for path in space}
    return point_of(
        space, base, {path: None if pd.isna(cell) else from_column(space[path], cell) for path, cell in cells.items()}
    )


def _reports(
    folder: Folder, numbers: Sequence[int], epochs: Mapping[int, int]
) -> dict[int, dict[int, dict[str, float]]]:
    """Return the scores that trials reported, by number and epoch; what one reported before a retry is left out."""
    rows = folder.table(REPORTS, ["number", "epoch", *SCORES])
    found: dict[int, dict[int, dict[str, float]]] = {}
    if rows is None:
        return found
    for report in rows.filter(pc.is_in(rows["number"], pa.array(numbers, pa.int64()))).to_pylist():
        number, epoch = report.pop("number"), report.pop("epoch")
        if epoch <= epochs[number]:
            found.setdefault(number, {})[epoch] = report
    return found
