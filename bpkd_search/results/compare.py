"""Compares methods at equal epochs and at equal GPU-seconds, with the differences from the baselines."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bpkd_search.config.points import PAPER, PLAIN_BASELINES
from bpkd_search.errors import ConfigError, ExperimentError
from bpkd_search.experiment.schema import BASELINE, COMPLETE
from bpkd_search.results.analysis import KEY, violates_constraint

EPOCHS, SECONDS = "equal epochs", "equal GPU-seconds"


def compare(
    trials: pd.DataFrame, reports: pd.DataFrame, metric: str, methods: Sequence[str] | None, by: Sequence[str]
) -> pd.DataFrame:
    """Return one row per method (and experiment) and kind of comparison, best first.

    Only trials that ran their full budget are compared. At *equal epochs* each counts with its last report
    within the lowest number of epochs of any of them; at *equal GPU-seconds* with its last report within the
    lowest number of GPU-seconds of any of them, as they compare between kinds of GPUs (the column `seconds` of `trials`
    and `reports`). Nothing is interpolated; a trial without a report within the limit is omitted. `attrs` holds both
    limits as `epochs` and `gpu_seconds`, and the plain baselines that ran in full as `plain`.

    Columns: at, those of `by`, trials (their number), best, median, number and epochs and gpu_seconds (of the best),
    finished (whether that is the end of its schedule: a slower trial may be cut before), best and median minus those
    of the baseline `bpkd-paper` (`best_vs_paper`, `median_vs_paper`) and of the best plain baseline (ce, kd, cwd,
    feature_mse: `best_vs_plain`, `median_vs_plain`), both of the same experiment, and note.
    If the search has constraints, the best of a method is one that meets them, if any does, and `feasible` is
    whether it does; methods without such a trial are last.

    Raises `ExperimentError` if no trial ran its full budget, `ConfigError` if none of those has one of `methods`.
    """
    full = trials[trials["state"] == COMPLETE]
    if full.empty:
        raise ExperimentError("no trial has run its full budget yet")
    known = list(dict.fromkeys(full["method"].astype(str)))
    if unknown := [name for name in methods or () if name not in known]:
        raise ConfigError([f"got {name!r}, valid: {', '.join(known)}" for name in unknown], "methods")
    shown = full[full["method"].isin(methods)] if methods else full
    limits = {"epochs": int(shown["epochs"].min()), "gpu_seconds": float(shown["seconds"].min())}
    parts = []
    for at, column, limit in ((EPOCHS, "epoch", limits["epochs"]), (SECONDS, "seconds", limits["gpu_seconds"])):
        last = reports[reports[column] <= limit].dropna(subset=[metric]).groupby(KEY, observed=True).tail(1)
        scores = full[[*KEY, "method", "origin", "feasible", "epochs"]].merge(last, on=KEY)
        scores = scores.rename(columns={metric: "score"})
        parts.append(_rows(scores, at, by, methods))
    table = pd.concat(parts, ignore_index=True)
    if full["feasible"].isna().all():
        table = table.drop(columns="feasible")
    table.attrs.update(limits)
    ran = set(full.loc[full["origin"] == BASELINE, "method"].astype(str))
    table.attrs["plain"] = [name for name in PLAIN_BASELINES if name in ran]
    return table


def _rows(scores: pd.DataFrame, at: str, by: Sequence[str], methods: Sequence[str] | None) -> pd.DataFrame:
    """Return the rows of one kind of comparison, best first."""
    references = {name: _references(mine) for name, mine in scores.groupby("experiment", observed=True)}
    rows = []
    for _, group in scores.groupby(list(by), observed=True, sort=False):
        order = group.assign(violates=violates_constraint(group))
        first = order.sort_values(["violates", "score", "number"], ascending=[True, False, True]).iloc[0]
        if methods and first["method"] not in methods:
            continue
        best, median, count = float(first["score"]), float(group["score"].median()), len(group)
        paper, plain = references[first["experiment"]]
        rows.append(
            {
                "at": at,
                **{name: str(first[name]) for name in by},
                "trials": count,
                "best": best,
                "median": median,
                "number": int(first["number"]),
                "feasible": first["feasible"],
                "epochs": int(first["epoch"]),
                "gpu_seconds": float(first["gpu_seconds"]),
                "finished": bool(first["epoch"] == first["epochs"]),
                "best_vs_paper": best - paper,
                "median_vs_paper": median - paper,
                "best_vs_plain": best - plain,
                "median_vs_plain": median - plain,
                "note": "one run: its spread is unknown"
                if count == 1
                else f"best of {count}: chosen by its score, so it is optimistic",
            }
        )
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows).astype({"feasible": "boolean"})
    order = table.assign(violates=violates_constraint(table)).sort_values(
        ["violates", "best"], ascending=[True, False], kind="stable"
    )
    return table.loc[order.index]


def _references(scores: pd.DataFrame) -> tuple[float, float]:
    """Return the scores of the paper's setting and of the best plain baseline; NaN if missing."""
    baselines = scores[scores["origin"] == BASELINE]
    paper = baselines.loc[baselines["method"] == PAPER, "score"].max()
    plain = baselines.loc[baselines["method"].isin(PLAIN_BASELINES), "score"].max()
    return float(paper), float(plain)
