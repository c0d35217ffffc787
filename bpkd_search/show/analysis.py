"""Prints comparisons and importance as text, with notes on their limits."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bpkd_search.errors import ConfigError, ExperimentError
from bpkd_search.results.compare import EPOCHS, SECONDS
from bpkd_search.results.expected_best import remarks_on
from bpkd_search.results.importance import scope
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.show.formats import check_format, write
from bpkd_search.show.leaderboard import remarks
from bpkd_search.show.text_table import TextTable, bold, terminal


def show_comparison(
    board: Leaderboard, methods: Sequence[str] | None, format: str = "table", out: Path | None = None
) -> None:
    """Print every method at equal epochs and at equal GPU-seconds, or write both. Raises what `compare` raises."""
    check_format(format, out)
    table = board.compare(methods)
    if format != "table":
        write(table.set_index("at"), format, out)
        return
    limits = {EPOCHS: f"{table.attrs['epochs']} epochs", SECONDS: f"{table.attrs['gpu_seconds']:.0f} GPU-seconds"}
    lines: list[str] = []
    _, styled = terminal()
    for at, limit in limits.items():
        rows = table[table["at"] == at].drop(columns=["at", "note", "finished"])
        first = "experiment" if "experiment" in rows else "method"
        title = f"{at}: {limit}"
        lines += [bold(title, styled), *TextTable(rows.set_index(first)).lines(), ""]
    notes = [
        f"{board.metric} on the validation split, full-budget trials only; vs paper: minus bpkd-paper; vs plain: minus"
        f" the best plain baseline ({', '.join(table.attrs['plain']) or 'none has run in full'}).",
        "The spread of a single run is unknown; the best of several is chosen by its score, so it is optimistic.",
        *["The best of a method is one that meets the constraints, if any does."] * ("feasible" in table),
        *_unfinished(table),
        *board.caveats,
    ]
    sys.stdout.write("\n".join([*lines, *remarks(notes, styled)]) + "\n")


def _unfinished(table: pd.DataFrame) -> list[str]:
    """Name the rows whose best is compared before the end of its schedule."""
    notes = []
    for at, rows in table[~table["finished"]].groupby("at"):
        names = rows["experiment"] + " " + rows["method"] if "experiment" in rows else rows["method"]
        notes.append(
            f"At {at}, these are compared before the end of their schedule, before their learning rate has decayed:"
            f" {', '.join(names)}."
        )
    return notes


def show_expected_best(
    board: Leaderboard, methods: Sequence[str] | None, format: str = "table", out: Path | None = None
) -> None:
    """Print the expected best of every method after 1, 2, 4, ... and all of its trials, or write it for every number.

    Raises `ExperimentError` if no sampled trial ran its full budget, `ConfigError` if none of those has one of
    `methods`.
    """
    check_format(format, out)
    table = board.expected_best()
    notes = list(table.attrs["notes"])
    if table.empty:
        raise ExperimentError("; ".join(["no sampled trial has run its full budget yet", *notes]))
    known = list(dict.fromkeys(table["method"]))
    if unknown := [name for name in methods or () if name not in known]:
        raise ConfigError([f"got {name!r}, valid: {', '.join(known)}" for name in unknown], "methods")
    if methods:
        table = table[table["method"].isin(methods)]
    if format != "table":
        write(table.set_index("k"), format, out)
        return
    powers = table["k"] & (table["k"] - 1) == 0
    rows = table[powers | (table["k"] == table["trials"])]
    # At equal numbers of trials side by side, the best first.
    rows = rows.sort_values(["k", "expected_best"], ascending=[True, False], kind="stable")
    _, styled = terminal()
    lines = [*TextTable(rows.set_index("k")).lines(styled=styled), ""]
    notes += [*remarks_on(board.configs, board.metric), *board.caveats]
    sys.stdout.write("\n".join([*lines, *remarks(notes, styled)]) + "\n")


def show_importance(board: Leaderboard, format: str = "table", out: Path | None = None) -> None:
    """Print the importance of each parameter, or write it to `out`. Raises what `importance` raises."""
    check_format(format, out)
    table = board.importance()
    if format != "table":
        write(table, format, out)
        return
    _, styled = terminal()
    lines = [*TextTable(table).lines(styled=styled), "", *remarks(scope(table, board.metric), styled)]
    sys.stdout.write("\n".join(lines) + "\n")
