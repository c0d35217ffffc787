"""Frames and values as lines of text for a terminal; ten thousand rows take a fraction of a second."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.cells import cell_len

from bpkd_search.metrics.table import DECIMALS, SCORE_DECIMALS
from bpkd_search.results.estimates import ESTIMATES

# Columns formatted as scores that are not measures.
_DERIVED = dict.fromkeys(("best", "median", "class_iou", "ped_anova", "fanova", "fanova_total"), SCORE_DECIMALS) | (
    dict.fromkeys((*ESTIMATES, "expected_best", "expected_low", "expected_high"), SCORE_DECIMALS)
)
BOLD, DIM, RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def decimals_of(column: str) -> int | None:
    """Return the number of decimals of a numeric column; None for four significant digits."""
    return DECIMALS.get(column, _DERIVED.get(column))


def cell(name: object, value: object) -> str:
    """Format a value: scores with four decimals, empty if unknown, one line, no control characters."""
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
    # An error message may contain anything, including codes that move the cursor.
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def cells(frame: pd.DataFrame) -> list[list[str]]:
    """Return the columns of a frame as text, without its index."""
    return [[cell(name, value) for value in column.astype(object)] for name, column in frame.items()]


def is_number(column: pd.Series) -> bool:
    """Return whether a column is right-aligned."""
    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)


class TextTable:
    """A frame as lines, index first, numbers right-aligned; headers have one word per line to keep columns narrow."""

    def __init__(self, frame: pd.DataFrame, dim: Sequence[bool] | None = None) -> None:
        flat = frame.reset_index()
        self.names, self.dim = list(map(str, flat.columns)), dim
        self._heads = [cell("", self._short(name)).split("_") for name in self.names]
        self._cells, self._right = cells(flat), [is_number(flat[name]) for name in flat.columns]
        self._widths = [
            max(map(_width, [*head, *column])) for head, column in zip(self._heads, self._cells, strict=True)
        ]

    def width(self, without: Iterable[str] = ()) -> int:
        """Return the width of the table in terminal columns."""
        kept = [w for name, w in zip(self.names, self._widths, strict=True) if name not in set(without)]
        return sum(kept) + 2 * (len(kept) - 1)

    def lines(self, without: Iterable[str] = (), styled: bool = False) -> list[str]:
        """Return the lines, with terminal codes for bold and dim if `styled`."""
        kept = [i for i, name in enumerate(self.names) if name not in set(without)]
        height = max((len(self._heads[i]) for i in kept), default=0)
        heads = [[""] * (height - len(self._heads[i])) + self._heads[i] for i in kept]
        head = [self._line(kept, row) for row in zip(*heads, strict=True)]
        rows = [self._line(kept, row) for row in zip(*(self._cells[i] for i in kept), strict=True)]
        head = [bold(line, styled) for line in head]
        if styled:
            rows = [f"{DIM}{row}{RESET}" if self.dim is not None and self.dim[i] else row for i, row in enumerate(rows)]
        return [*head, "─" * self.width(without), *rows]

    def _short(self, name: str) -> str:
        short = name.removeprefix("loss.")
        return name if short in self.names else short

    def _line(self, kept: Sequence[int], row: Sequence[str]) -> str:
        parts = []
        for i, text in zip(kept, row, strict=True):
            room = " " * (self._widths[i] - _width(text))
            parts.append(room + text if self._right[i] else text + room)
        return "  ".join(parts).rstrip()


def pairs(values: Mapping[str, Any], as_name: str | None = None) -> list[str]:
    """Return names and values, one per line; unknown values are omitted."""
    shown = {cell("", name): cell(as_name or name, value) for name, value in values.items()}
    room = max((len(name) for name, text in shown.items() if text), default=0)
    return [f"{name:{room}}  {text}" for name, text in shown.items() if text]


def bold(text: str, styled: bool) -> str:
    """Return a text in bold, with terminal codes if `styled`."""
    return f"{BOLD}{text}{RESET}" if styled else text


def terminal() -> tuple[int, bool]:
    """Return the width to fill and whether stdout is a terminal; without one, the width is unlimited."""
    on = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return (shutil.get_terminal_size().columns if sys.stdout.isatty() else 1_000_000), on


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)
