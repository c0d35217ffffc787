"""A frame as Markdown, LaTeX, CSV, JSON or Parquet; text from experiments is escaped for each format."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from bpkd_search.errors import ConfigError, ExperimentError
from bpkd_search.files import replacing, write_text
from bpkd_search.show.text_table import cells, is_number

_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def to_markdown(frame: pd.DataFrame) -> str:
    """Return a GitHub table; the index is the first column."""
    rows = _cells(frame, lambda text: text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;"))
    rows.insert(1, ["---:" if number else "---" for number in _numbers(frame)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def to_latex(frame: pd.DataFrame) -> str:
    """Return a `tabular` with the rules of booktabs; the index is the first column."""
    head, *rows = _cells(frame, lambda text: "".join(_LATEX.get(c, c) for c in text))
    align = "".join("r" if number else "l" for number in _numbers(frame))
    lines = [" & ".join(row) + r" \\" for row in rows]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


TEXT: dict[str, Callable[[pd.DataFrame], str]] = {
    "csv": lambda frame: frame.to_csv(),
    "json": lambda frame: frame.reset_index().to_json(orient="records", indent=1, date_format="iso") + "\n",
    "markdown": to_markdown,
    "latex": to_latex,
}
FORMATS = ("table", "csv", "json", "parquet", "markdown", "latex")


def check_format(format: str, out: Path | None) -> None:
    """Check format and output file. Raises `ConfigError` if invalid, `ExperimentError` if the file exists."""
    if format not in FORMATS:
        raise ConfigError([f"got {format!r}, valid: {', '.join(FORMATS)}"], "--format")
    if format == "parquet" and out is None:
        raise ConfigError(["parquet is not text: give a file with --out"], "--format")
    if format == "table" and out is not None:
        raise ConfigError([f"table is for the terminal, valid with --out: {', '.join(FORMATS[1:])}"], "--format")
    if out is not None and out.exists():
        raise ExperimentError(f"{out}: exists already; choose another --out")


def write(frame: pd.DataFrame, format: str, out: Path | None) -> None:
    """Print a frame, or write it to a new file. Raises `ExperimentError` if that fails."""
    try:
        if format == "parquet":
            assert out is not None
            with replacing(out) as partial:
                frame.to_parquet(partial)
        elif out is not None:
            write_text(out, TEXT[format](frame))
        else:
            sys.stdout.write(TEXT[format](frame))
    except BrokenPipeError:
        raise
    except OSError as e:
        raise ExperimentError(f"{out or 'standard output'}: cannot be written: {e.strerror or e}") from e


def _cells(frame: pd.DataFrame, escape: Callable[[str], str]) -> list[list[str]]:
    flat = frame.reset_index()
    rows = [list(map(str, flat.columns)), *map(list, zip(*cells(flat), strict=True))]
    return [[escape(text) for text in row] for row in rows]


def _numbers(frame: pd.DataFrame) -> list[bool]:
    flat = frame.reset_index()
    return [is_number(flat[name]) for name in flat.columns]
