"""Pareto front, progress of a search, rank correlations and IoU per class, as pure functions of frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bpkd_search.errors import ConfigError, ExperimentError
from bpkd_search.experiment.schema import COMPLETE, REPLICATE
from bpkd_search.metrics.table import HIGHER_IS_BETTER

KEY = ["experiment", "number"]


def violates_constraint(trials: pd.DataFrame) -> pd.Series:
    """Return which trials are known to violate a constraint of their search, as bool."""
    return trials["feasible"].eq(False).fillna(False).astype(bool)


def is_replicate(trials: pd.DataFrame) -> pd.Series:
    """Return which trials run the setting of another one again, as bool."""
    return trials["origin"].eq(REPLICATE).fillna(False).astype(bool)


def front(full: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return the rows that no other row dominates: at least as good in every measure and better in one."""
    if unknown := [name for name in metrics if name not in HIGHER_IS_BETTER]:
        raise ConfigError([f"got {name!r}, valid: {', '.join(HIGHER_IS_BETTER)}" for name in unknown], "metrics")
    if not metrics:
        raise ConfigError([f"got none, valid: {', '.join(HIGHER_IS_BETTER)}"], "metrics")
    measured = full.dropna(subset=list(metrics))
    signs = [1.0 if HIGHER_IS_BETTER[name] else -1.0 for name in metrics]
    points = measured[list(metrics)].to_numpy(dtype=float) * signs
    kept = [not ((points >= point).all(1) & (points > point).any(1)).any() for point in points]
    return measured[np.array(kept, dtype=bool)]


def best_so_far(trials: pd.DataFrame, reports: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return one row per trial that ran its full budget, in the order of their ends, by experiment.

    Columns: experiment, gpu_seconds (spent by all trials until then, stopped and failed trials included; validation
    and start-up excluded), number, method, feasible, the metric, best (the highest value until then of a trial that
    violates no constraint; NaN before the first).
    """
    spent = reports.assign(spent=reports.groupby(KEY, observed=True)["gpu_seconds"].diff())
    spent["spent"] = spent["spent"].fillna(spent["gpu_seconds"]).fillna(0.0)
    rows = []
    for name, full in trials[trials["state"] == COMPLETE].groupby("experiment", observed=True, sort=False):
        mine = spent[spent["experiment"] == name].sort_values("time", kind="stable")
        # The position of the last report of each of its trials among all reports.
        total = mine.assign(total=mine["spent"].cumsum()).groupby("number")["total"].last()
        ended = full.assign(gpu_seconds=full["number"].map(total)).sort_values(["gpu_seconds", "ended"])
        rows.append(ended.assign(best=ended[metric].mask(violates_constraint(ended)).cummax().ffill()))
    columns = ["experiment", "gpu_seconds", "number", "method", "feasible", metric, "best"]
    return pd.concat(rows)[columns].reset_index(drop=True) if rows else pd.DataFrame(columns=columns)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rank correlation, with mean ranks for ties; NaN if one side is constant."""
    return float(pd.Series(a).rank().corr(pd.Series(b).rank()))


def rank_agreement(trials: pd.DataFrame, reports: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return Spearman's correlation of each epoch's metric with the final metric, over full-budget trials.

    Columns: epoch, rho, trials (number with a report at that epoch). Epochs with fewer than three are omitted.
    """
    final = trials[trials["state"] == COMPLETE].set_index("number")[metric].astype(float)
    wide = reports[reports["number"].isin(final.index)].pivot(index="number", columns="epoch", values=metric)
    rows = []
    for epoch in wide.columns:
        early = wide[epoch].astype(float).dropna()
        rho = rank_correlation(early.tolist(), final[early.index].tolist()) if len(early) >= 3 else np.nan
        rows.append({"epoch": int(epoch), "rho": rho, "trials": len(early)})
    return pd.DataFrame(rows, columns=["epoch", "rho", "trials"]).dropna().reset_index(drop=True)


def per_class(
    best: pd.DataFrame, reports: pd.DataFrame, by: Sequence[str], names: Sequence[str] | None
) -> pd.DataFrame:
    """Return the IoU of each class (rows, by name if names are known) at the end of each trial in `best`."""
    if best.empty:
        raise ExperimentError("no trial has run its full budget yet")
    last = best.merge(reports, left_on=[*KEY, "epochs"], right_on=[*KEY, "epoch"])
    scores = {
        tuple(row[list(by)]) if len(by) > 1 else row[by[0]]: [np.nan if v is None else v for v in row["class_iou"]]
        for _, row in last.iterrows()
        if row["class_iou"] is not None
    }
    counts = {len(values) for values in scores.values()}
    if len(counts) > 1 or (names is not None and counts and counts != {len(names)}):
        raise ExperimentError(
            f"trials report {', '.join(map(str, sorted(counts)))} classes, but there are {len(names or [])} class names"
        )
    index = names if names is not None else [f"class {k}" for k in range(max(counts, default=0))]
    table = pd.DataFrame({key: pd.Series(values, dtype=float) for key, values in scores.items()})
    table.index = pd.Index(index, name="class")
    table.columns.names = list(by)
    return table
