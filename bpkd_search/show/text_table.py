"""Frames and values as lines of text for a terminal: ten thousand rows in a fraction of a second."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.cells import cell_len

from bpkd_search.metrics.table import DECIMALS, SCORE_DECIMALS

# Columns written as scores are that are no measures themselves.
_DERIVED = dict.fromkeys(("best", "median", "class_iou", "ped_anova", "fanova"), SCORE_DECIMALS)
BOLD, DIM, RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def decimals_of(column: str) -> int | None:
    """Digits after the point in a column of numbers; None for four significant digits."""
    return DECIMALS.get(column, _DERIVED.get(column))


def cell(name: object, value: object) -> str:
    """A value for display: scores with four digits, empty where unknown, one line, no control characters."""
    if isinstance(value, float):
        if value != value:
            return ""
        if "_vs_" in str(name):
            return f"{value:+.{SCORE_DECIMALS}f}"
        decimals = decimals_of(str(name))
        return f"{value:.4g}" if decimals is None else f"{value:.{decimals}f}"
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, pd.Timestamp):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    text = str(value)
    # An error message may hold anything, also what would move a terminal's cursor.
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def cells(frame: pd.DataFrame) -> list[list[str]]:
    """The columns of a frame as texts, without its index."""
    return [[cell(name, value) for value in column.astype(object)] for name, column in frame.items()]


def is_number(column: pd.Series) -> bool:
    """Whether a column is set flush right."""
    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)


class TextTable:
    """A frame as lines, its index first, numbers flush right; one word of a header a line keeps columns narrow."""

    def __init__(self, frame: pd.DataFrame, dim: Sequence[bool] | None = None) -> None:
        flat = frame.reset_index()
        self.names, self.dim = list(map(str, flat.columns)), dim
        self._heads = [cell("", name.removeprefix("loss.")).split("_") for name in self.names]
        self._cells, self._right = cells(flat), [is_number(flat[name]) for name in flat.columns]
        self._widths = [
            max(map(_width, [*head, *column])) for head, column in zip(self._heads, self._cells, strict=True)
        ]

    def width(self, without: Iterable[str] = ()) -> int:
        """Columns of the terminal that the table takes."""
        kept = [w for name, w in zip(self.names, self._widths, strict=True) if name not in set(without)]
        return sum(kept) + 2 * (len(kept) - 1)

    def lines(self, without: Iterable[str] = (), styled: bool = False) -> list[str]:
        """The lines, with the codes of a terminal for bold and dim if `styled`."""
        kept = [i for i, name in enumerate(self.names) if name not in set(without)]
        height = max((len(self._heads[i]) for i in kept), default=0)
        heads = [[""] * (height - len(self._heads[i])) + self._heads[i] for i in kept]
        head = [self._line(kept, row) for row in zip(*heads, strict=True)]
        rows = [self._line(kept, row) for row in zip(*(self._cells[i] for i in kept), strict=True)]
        head = [bold(line, styled) for line in head]
        if styled:
            rows = [f"{DIM}{row}{RESET}" if self.dim is not None and self.dim[i] else row for i, row in enumerate(rows)]
        return [*head, "─" * self.width(without), *rows]

    def _line(self, kept: Sequence[int], row: Sequence[str]) -> str:
        parts = []
        for i, text in zip(kept, row, strict=True):
            room = " " * (self._widths[i] - _width(text))
            parts.append(room + text if self._right[i] else text + room)
        return "  ".join(parts).rstrip()


def pairs(values: Mapping[str, Any], as_name: str | None = None) -> list[str]:
    """Names and values below one another; what is not known is left out."""
    shown = {cell("", name): cell(as_name or name, value) for name, value in values.items()}
    room = max((len(name) for name, text in shown.items() if text), default=0)
    return [f"{name:{room}}  {text}" for name, text in shown.items() if text]


def bold(text: str, styled: bool) -> str:
    """A text in bold, with the codes of a terminal if `styled`."""
    return f"{BOLD}{text}{RESET}" if styled else text


def terminal() -> tuple[int, bool]:
    """Columns to fill and whether they are a terminal's; without one a line is as long as it likes."""
    on = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return (shutil.get_terminal_size().columns if sys.stdout.isatty() else 1_000_000), on


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)
