"""What must hold of a search however often its processes were killed: one line a target, empty where it is met."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import pandas as pd

from bpkd_search import Leaderboard
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.paths import trial_log
from bpkd_search.experiment.schema import FAILED
from bpkd_search.search.replay import replay

# What differs between two undisturbed runs too, and what tells of the kills.
MEASURED = ("wall_seconds", "images_per_second", "latency_ms")
SECONDS = ("gpu_seconds", "calibrated_seconds", *MEASURED, "started", "ended", "time")
DISTURBED = (*SECONDS, "node", "device", "retries", "message")
CONTINUED = re.compile(r"^(\S+) trial \d+ on .*\n(?:continues after epoch (\d+)|.*starts again)$", re.MULTILINE)

TARGETS = (
    "finished trials lost",
    "trials or reports counted twice",
    "trials FAILED",
    "epochs repeated beyond the one in progress",
    "tables that differ from an undisturbed search",
    "steps that a replay does differently",
)


def faults(folder: Path, undisturbed: Path, ended: Iterable[int]) -> dict[str, list[str]]:
    """Each target with what contradicts it; `ended` are the trials that had ended before some kill."""
    board = Leaderboard(folder)
    trials, reports = board.trials().set_index("number"), board.reports()
    found = (
        [f"trial {number}" for number in sorted(set(ended)) if number not in trials.index],
        twice(folder, reports),
        [f"trial {number}: {row['reason']}" for number, row in trials[trials["state"] == FAILED].iterrows()],
        [f"trial {number}: {count}" for number in trials.index if (count := repeated(folder, int(number)))],
        differences(Leaderboard(undisturbed), board),
        replay(folder)[1],
    )
    return dict(zip(TARGETS, found, strict=True))


def twice(folder: Path, reports: pd.DataFrame) -> list[str]:
    """Asks, ends and reports that the log or the table has more than once."""
    counts = Counter(
        (event["event"], event["number"], event.get("epoch"))
        for event in read_events(folder)
        if event["event"] in ("ask", "report", "end")
    )
    found = [f"{kind} of trial {number}, epoch {epoch}" for (kind, number, epoch), n in counts.items() if n > 1]
    rows = reports[reports.duplicated(["number", "epoch"])]
    return found + [f"row of trial {row.number}, epoch {row.epoch}" for row in rows.itertuples()]


def repeated(folder: Path, number: int) -> int:
    """Epochs that a trial trained again although their reports were on record when it was continued."""
    log = trial_log(folder, number)
    if not log.is_file():
        return 0
    reported = [(e["time"], e["epoch"]) for e in read_events(folder) if (e["event"], e["number"]) == ("report", number)]
    count = 0
    for when, epoch in CONTINUED.findall(log.read_text(encoding="utf-8")):
        at = datetime.fromisoformat(when).timestamp()
        count += max(0, max((e for time, e in reported if time < at), default=0) - int(epoch or 0))
    return count


def differences(expected: Leaderboard, found: Leaderboard) -> list[str]:
    """The columns of `trials` and `reports` in which two searches differ, seconds and nodes aside."""
    lines = []
    for name, keys in (("trials", ["number"]), ("reports", ["number", "epoch"])):
        left, right = (getattr(board, name)().sort_values(keys).reset_index(drop=True) for board in (expected, found))
        if len(left) != len(right):
            lines.append(f"{name}: {len(right)} rows instead of {len(left)}")
            continue
        columns = [column for column in left if column not in DISTURBED]
        lines += [f"{name}: {column}" for column in columns if not left[column].equals(right[column])]
    return lines
