"""Leaderboards as text: a table for people, CSV and JSON for programs."""

from __future__ import annotations

import sys

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from bpkd_search.errors import ConfigError
from bpkd_search.results.leaderboard import Leaderboard

FORMATS = ("table", "csv", "json")


def leaderboard_frame(board: Leaderboard) -> pd.DataFrame:
    """The columns people look at first: rank, state, method, parameters, measures, cost."""
    columns = ["number", "state", "method", *board.parameters, "miou", "edge_miou", "body_miou"]
    if board.metric not in columns:
        columns.append(board.metric)
    return board.trials()[[*columns, "epochs", "gpu_seconds", "reason"]].rename(columns={"gpu_seconds": "seconds"})


def show_leaderboard(board: Leaderboard, format: str, top: int | None = None) -> None:
    """Print a leaderboard. Errors: `ConfigError` for a format that does not exist."""
    if format not in FORMATS:
        raise ConfigError([f"got {format!r}, valid: {', '.join(FORMATS)}"], "--format")
    frame = leaderboard_frame(board).head(top) if top else leaderboard_frame(board)
    if format == "csv":
        frame.to_csv(sys.stdout)
    elif format == "json":
        print(frame.reset_index().to_json(orient="records", indent=1))
    else:
        _print_table(frame, board)


def _print_table(frame: pd.DataFrame, board: Leaderboard) -> None:
    from rich.console import Console

    console, wide = Console(), Console(width=100_000)
    shown = frame if frame["reason"].notna().any() else frame.drop(columns="reason")
    hidden: list[str] = []
    table = _table(shown)
    if not console.is_terminal:
        console = Console(width=wide.measure(table).maximum)
    while wide.measure(table).maximum > console.width and (left := [p for p in board.parameters if p in shown]):
        hidden.insert(0, left[-1])
        shown = shown.drop(columns=left[-1])
        table = _table(shown)
    console.print(table)
    notes = [
        f"{board.directory}: ranked by {board.metric} on the validation split, full-budget trials first; one seed"
        " each, so small leads may be noise."
    ]
    if hidden:
        notes.append(f"Too narrow for {', '.join(hidden)}: widen the terminal or use --format csv.")
    for note in notes:
        console.print(note, style="dim", highlight=False, soft_wrap=True, markup=False)


def _table(frame: pd.DataFrame) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("rank", justify="right", no_wrap=True)
    for name in frame.columns:
        # One word a line keeps columns narrow.
        header = name.removeprefix("loss.").replace("_", "\n")
        text = name in ("state", "method", "reason")
        table.add_column(header, justify="left" if text else "right", no_wrap=True)
    for rank, row in frame.iterrows():
        cells = [Text(_cell(name, value)) for name, value in row.items()]
        table.add_row(str(rank), *cells, style=None if row["state"] == "COMPLETE" else "dim")
    return table


def _cell(name: object, value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float):
        if str(name) == "seconds":
            return f"{value:.0f}"
        return f"{value:.4f}" if "iou" in str(name) or str(name) in ("accuracy", "boundary_f") else f"{value:.4g}"
    return str(value)
