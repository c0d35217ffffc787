"""Prints leaderboards: selection of rows and columns, and a table that fits the terminal."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bpkd_search.errors import ConfigError, ExperimentError
from bpkd_search.experiment.schema import COMPLETE, RUNNING, TRIAL_COLUMNS
from bpkd_search.metrics.table import HIGHER_IS_BETTER, LABELS
from bpkd_search.results import estimates
from bpkd_search.results.estimates import ESTIMATE, ESTIMATES
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.show.formats import check_format, write
from bpkd_search.show.text_table import DIM, RESET, TextTable, terminal


@dataclass(frozen=True)
class View:
    """Selected rows and columns of a leaderboard: the options of the command, checked when they are used."""

    where: str | None = None
    sort: str | None = None
    columns: str | None = None
    top: int | None = None


EVERYTHING = View()


def leaderboard_frame(
    board: Leaderboard, view: View = EVERYTHING, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the selected rows and columns; if the view names none, rank and `columns`, by default `main_columns`.

    A view that sorts or selects by estimates shows them. Raises `ConfigError` if a column is unknown or a condition
    is invalid.
    """
    valid = [*dict.fromkeys([*(name for name, _, _ in TRIAL_COLUMNS), *board.parameters, *ESTIMATES])]
    shown = _names(view.columns, valid, "--columns") if view.columns else [*(columns or board.main_columns)]
    keys = _names(view.sort, valid, "--sort") if view.sort else []
    if not view.columns and _asks_for_estimates(view):
        shown = with_estimates(shown)
    # The configuration of each trial is most of the table's bytes, and estimates take long: only if they are used.
    used = f"{shown} {keys} {view.where}"
    asked = [name for name in valid if name not in ("config", *ESTIMATES) or name in used]
    frame = board.trials(asked if view.where else [*shown, *keys])
    if view.where:
        frame = _where(frame, view.where, valid)
    if keys:
        given = [text.strip() for text in str(view.sort).split(",")]
        higher = HIGHER_IS_BETTER | dict.fromkeys(ESTIMATES, board.direction == "max")
        better_last = [higher.get(name, False) == text.startswith("-") for name, text in zip(keys, given, strict=True)]
        frame = frame.sort_values(keys, ascending=better_last, kind="stable", na_position="last")
    frame = frame[shown] if view.columns else frame[shown].rename(columns=LABELS)
    return frame.head(view.top) if view.top else frame


def show_leaderboard(board: Leaderboard, format: str, view: View = EVERYTHING, out: Path | None = None) -> None:
    """Print a leaderboard or write it to `out`. Raises `ConfigError` or `ExperimentError`."""
    check_format(format, out)
    columns = board.summary_columns if format == "table" else None
    if columns and not view.columns and len(board.trials(["state"])) <= estimates.UNASKED:
        columns = with_estimates(columns)
    frame = leaderboard_frame(board, view, columns)
    if format == "table":
        if not (view.columns or _asks_for_estimates(view)) and ESTIMATE in frame and frame[ESTIMATE].isna().all():
            frame = frame.drop(columns=list(ESTIMATES))
        sys.stdout.write("\n".join(leaderboard_lines(board, frame, *terminal())) + "\n")
    else:
        write(frame, format, out)


def with_estimates(columns: Sequence[str]) -> list[str]:
    """Return the columns with those of estimates, after the measures."""
    names = [name for name in columns if name not in ESTIMATES]
    place = names.index("epochs") if "epochs" in names else len(names)
    return [*names[:place], *ESTIMATES, *names[place:]]


def watch_leaderboard(board: Leaderboard, view: View, every: float = 2.0) -> None:
    """Redraw a leaderboard until no trial runs in two checks: one may end a moment before the next starts.

    Estimates are made at each redraw, so only if the view asks for them.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console, quiet = Console(), 0
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while quiet < 2:
            try:
                states = board.trials(["state"])["state"]
                frame = leaderboard_frame(board, view, board.summary_columns).head(console.height)
                lines = leaderboard_lines(board, frame, console.width, console.is_terminal)
                live.update(Text.from_ansi("\n".join(lines)), refresh=True)
                quiet = 0 if (states == RUNNING).any() or states.empty else quiet + 1
            except ExperimentError as e:
                live.update(Text(str(e), style="dim"), refresh=True)
            if quiet < 2:
                time.sleep(every)


def leaderboard_lines(board: Leaderboard, frame: pd.DataFrame, width: int, styled: bool) -> list[str]:
    """Return the table with its remarks; intervals and parameters that do not fit are omitted, the last first."""
    shown = frame.drop(columns=[c for c in ("reason",) if c in frame and frame[c].isna().all()])
    dim = (shown["state"] != COMPLETE).tolist() if "state" in shown else None
    table, hidden = TextTable(shown, dim), list[str]()
    spare = [name for name in (*board.parameters, *ESTIMATES) if name in shown and name != ESTIMATE]
    while table.width(hidden) > width and spare:
        hidden.insert(0, spare.pop())
    notes = [
        f"{', '.join(board.names)}: ranked by {board.metric} on the validation split, full-budget trials first; one"
        " seed each, so small leads may be noise.",
        *board.caveats,
    ]
    if ESTIMATE in shown:
        notes += frame.attrs.get("notes", [])
    if hidden:
        notes.append(f"Too narrow for {', '.join(hidden)}: widen the terminal or use --format csv.")
    return [*table.lines(hidden, styled), "", *remarks(notes, styled)]


def remarks(lines: Sequence[str], styled: bool) -> list[str]:
    """Return the remarks under a table."""
    return [f"{DIM}{line}{RESET}" if styled else line for line in lines]


def _asks_for_estimates(view: View) -> bool:
    return any(name in f"{view.columns} {view.sort} {view.where}" for name in ESTIMATES)


def _names(text: str | None, valid: Sequence[str], option: str) -> list[str]:
    """Split column names `a,b`; short names of a view are accepted too."""
    long = {short: name for name, short in LABELS.items()}
    names = [part.strip().removeprefix("-" if option == "--sort" else "") for part in (text or "").split(",")]
    names = [long.get(name, name) for name in names]
    if unknown := [name for name in names if name not in valid]:
        raise ConfigError([f"got {name!r}, valid: {', '.join(valid)}" for name in unknown], option)
    return names


def _where(frame: pd.DataFrame, where: str, valid: Sequence[str]) -> pd.DataFrame:
    """Return the rows that match a condition of `DataFrame.query`; dotted names need no backticks."""
    quoted = where
    for name in sorted((n for n in valid if "." in n), key=len, reverse=True):
        quoted = re.sub(rf"(?<![`\w.]){re.escape(name)}(?![`\w.])", f"`{name}`", quoted)
    try:
        kept = frame.query(quoted, engine="python")
        if not isinstance(kept, pd.DataFrame):
            raise TypeError("is not a condition")
    except Exception as e:  # a mistyped expression may raise anything
        raise ConfigError(
            [
                f"got {where!r}: {' '.join(str(e).split())}; a condition is like \"method == 'bpkd' and miou > 0.5\","
                f" columns: {', '.join(valid)}"
            ],
            "--where",
        ) from e
    return kept
