"""Prints everything about one trial."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any

import pandas as pd
import yaml

from bpkd_search.errors import ConfigError, ExperimentError
from bpkd_search.experiment.paths import trial_log
from bpkd_search.experiment.schema import COMPLETE
from bpkd_search.metrics.table import REPORTED, SCORES
from bpkd_search.results import estimates
from bpkd_search.results.estimates import with_interval
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.show.text_table import TextTable, bold, cell, pairs, terminal

_FACTS = ("state", "reason", "message", "method", "origin", "epochs", "seed", "retries", "node", "parameters")
_TIMES = ("started", "ended")


def find_trial(board: Leaderboard, which: str) -> pd.Series:
    """Return the row of a trial by its number, its trial_id, or as `best`; `name` is its rank.

    Raises `ExperimentError` if it is missing.
    """
    trials = board.trials()
    if which == "best":
        found = trials[trials["state"] == COMPLETE].head(1)
        if found.empty:
            raise ExperimentError(f"{', '.join(board.names)}: no trial has run its full budget yet")
    elif which.isascii() and which.isdigit():
        found = trials[trials["number"] == int(which)]
    else:
        found = trials[trials["trial_id"] == which]
    if found.empty:
        last = f"0 to {trials['number'].max()}" if len(trials) else "none yet"
        raise ExperimentError(
            f"{', '.join(board.names)}: has no trial {which!r}; valid: best, a trial_id, or a number ({last})"
        )
    return found.iloc[0]


def trial_record(board: Leaderboard, which: str) -> dict[str, Any]:
    """Return a trial as plain values: its row with its estimate, `rank`, `config` as a mapping, and its `reports`."""
    row = _with_estimate(board, find_trial(board, which))
    reports = _reports_of(board, row)
    record: dict[str, Any] = {"rank": int(str(row.name)), **json.loads(row.to_json(date_format="iso"))}
    record["config"] = json.loads(row["config"])
    record["reports"] = json.loads(reports.to_json(orient="records", date_format="iso"))
    for report in record["reports"]:
        report["loss_terms"] = json.loads(report["loss_terms"] or "{}")
    return record


def show_trial(board: Leaderboard, which: str, format: str = "table") -> None:
    """Print everything about one trial. Raises `ExperimentError` if it is missing, `ConfigError` for a format."""
    if format not in ("table", "json"):
        raise ConfigError([f"got {format!r}, valid: table, json"], "--format")
    if format == "json":
        print(json.dumps(trial_record(board, which), indent=1))
        return
    row = _with_estimate(board, find_trial(board, which))
    reports = _reports_of(board, row)
    total = len(board.trials(["state"]))
    facts = {name: row[name] for name in (*_FACTS, *_TIMES) if name in row} | {"commit": board.commit}
    with suppress(ExperimentError):  # several experiments, or one at a URL, have no local log
        log = trial_log(board.directory, int(row["number"]))
        facts |= {"log": str(log)} if log.is_file() else {}
    sections = {
        f"{cell('', row['trial_id'])}: rank {row.name} of {total} by {board.metric}": pairs(facts),
        "searched": pairs({path: row[path] for path in board.parameters}),
        "measured": pairs({name: row[name] for name in REPORTED}),
        "expected in the mean over seeds, with a 95 % interval": pairs({board.metric: with_interval(row)}),
    }
    if len(reports):
        sections["epochs"] = TextTable(_course(reports)).lines()
        sections["IoU of each class"] = _classes(board, reports.iloc[-1])
    sections["run"] = yaml.safe_dump(json.loads(row["config"]), sort_keys=False, allow_unicode=True).splitlines()
    _, styled = terminal()
    text = []
    for title, lines in sections.items():
        if lines:
            text += [bold(title, styled), *(f"  {line}" for line in lines), ""]
    sys.stdout.write("\n".join(text))


def _reports_of(board: Leaderboard, row: pd.Series) -> pd.DataFrame:
    reports = board.reports(numbers=[int(row["number"])])
    mine: pd.DataFrame = reports[reports["experiment"] == row["experiment"]]
    return mine.reset_index(drop=True)


def _with_estimate(board: Leaderboard, row: pd.Series) -> pd.Series:
    """Return a row with its estimate, without one in an experiment of many trials."""
    if len(board.trials(["state"])) > estimates.UNASKED:
        return row.reindex([*row.index, *estimates.ESTIMATES])
    return board.with_estimates(row.to_frame().T).iloc[0]


def _course(reports: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that changed from epoch to epoch, with one column per loss term."""
    terms = pd.DataFrame([json.loads(text or "{}") for text in reports["loss_terms"]], index=reports.index)
    columns = ["epoch", *SCORES, "gpu_seconds", "loss"]
    course = pd.concat([reports[columns], terms.add_prefix("loss.")], axis=1).set_index("epoch")
    return course.drop(columns=[name for name in course if course[name].isna().all()])


def _classes(board: Leaderboard, last: pd.Series) -> list[str]:
    scores = last["class_iou"]
    if scores is None:
        return []
    names = board.class_names or [f"class {k}" for k in range(len(scores))]
    absent = {name: "absent" if v is None or v != v else float(v) for name, v in zip(names, scores, strict=False)}
    return pairs(absent, as_name="class_iou")
