"""The HTML page of an experiment, which works offline: tables, figures, pictures, and remarks.

Everything from an experiment is escaped: in markup by `html.escape`, in scripts as JSON
without `<`, in figures by `figures.words`. The page's content policy also forbids every connection.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from bpkd_search.errors import ExperimentError
from bpkd_search.files import write_text
from bpkd_search.imports import require
from bpkd_search.metrics.table import HEADLINE, HIGHER_IS_BETTER, LABELS
from bpkd_search.pictures.panels import Panels
from bpkd_search.report.parts import Section
from bpkd_search.results.estimates import ESTIMATE, ESTIMATES
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.show.text_table import cells, decimals_of, is_number

# Columns of the page's leaderboard, before and after those of a short view; empty columns are omitted.
BEFORE = ("number", "method")
SHOWN_SCORES = (*HEADLINE, "boundary_iou")
AFTER = ("latency_ms", "origin", "message")
SHOWN_CHARACTERS = 200


def write_report(board: Leaderboard, out: Path, panels: Panels) -> Path:
    """Write the page of an experiment to a new file; returns its path.

    Raises `ExperimentError` if the file exists or cannot be written; `MissingPackageError` without plotly.
    """
    if out.exists():
        raise ExperimentError(f"{out}: exists already; choose another --out")
    page = report_page(board, panels)
    try:
        write_text(out, page)
    except OSError as e:
        raise ExperimentError(f"{out}: cannot be written: {e.strerror or e}") from e
    return out


def report_page(board: Leaderboard, panels: Panels) -> str:
    """Return the page as text."""
    from bpkd_search.report.sections import headline, sections

    trials = board.with_estimates(board.trials())
    parts = sections(board, trials)
    figures = [figure for part in parts for figure in part.figures]
    name = str(board.config.get("name", "search"))
    facts, best = headline(board, trials)
    numbers = iter(range(len(figures)))
    blocks = [
        _section("Leaderboard", '<div id="leaderboard"></div>', _leaderboard_remarks(board, trials)),
        *(_section(part.title, _body(part, [next(numbers) for _ in part.figures]), part.remarks) for part in parts),
        _section("Predictions", _pictures(panels), panels.remarks),
    ]
    data = {"table": _table(board, trials), "figures": figures}
    filled = {
        "title": html.escape(f"{name}: search report"),
        "name": html.escape(name),
        "facts": " · ".join(html.escape(fact) for fact in facts),
        "best": "".join(f"<p>{html.escape(line)}</p>" for line in best),
        "sections": "\n".join(blocks),
        "data": script_json(data),
        "plotly": plotly_script(),
    }
    template = files("bpkd_search.report").joinpath("page.html").read_text(encoding="utf-8")
    # In one pass, so that inserted text is not searched for placeholders.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], template)


def script_json(value: Any) -> str:
    """Return JSON that is safe in a script element: no `<`, and all numbers are finite."""
    return json.dumps(_finite(value), separators=(",", ":"), default=str).replace("<", "\\u003c")


def plotly_script() -> str:
    """Return plotly.js. Raises `MissingPackageError` without plotly."""
    return str(require("plotly.offline", "report", "the report").get_plotlyjs())


def _finite(value: Any) -> Any:
    """Return the value without anything that JSON lacks, and with numbers rounded to a few digits."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if value - value == 0 else None
    return value


def _table(board: Leaderboard, trials: pd.DataFrame) -> dict[str, Any]:
    """Return columns and rows of the leaderboard, best first; the page draws and sorts them."""
    names = dict.fromkeys([*BEFORE, board.metric, *ESTIMATES, *SHOWN_SCORES, *board.summary_columns, *AFTER])
    shown = [name for name in names if name in trials and (name == "state" or trials[name].notna().any())]
    columns = [_column("rank", "rank", number=True)]
    cells: list[list[Any]] = [list(range(1, len(trials) + 1))]
    for name in shown:
        column = trials[name]
        number = is_number(column)
        label = LABELS.get(name, name.removeprefix("loss.")).replace("_", " ")
        columns.append(_column(name, label, number, board.direction == "max"))
        values = [None if pd.isna(value) else value for value in column.astype(object)]
        if number:
            cells.append([None if value is None else float(value) for value in values])
        else:
            cells.append([None if value is None else str(value)[:SHOWN_CHARACTERS] for value in values])
    return {"columns": columns, "rows": [list(row) for row in zip(*cells, strict=True)]}


def _column(name: str, label: str, number: bool, more: bool = False) -> dict[str, Any]:
    """Return how the page labels, formats and sorts a column; `more` says whether higher estimates are better."""
    best_first = more if name in ESTIMATES else HIGHER_IS_BETTER.get(name, False)
    return {"name": name, "label": label, "number": number, "decimals": decimals_of(name), "bestFirst": best_first}


def _leaderboard_remarks(board: Leaderboard, trials: pd.DataFrame) -> list[str]:
    return [
        f"Ranked by {board.metric} on the validation split; trials that ran their full budget come first. One seed"
        " each: small leads may be noise.",
        *board.caveats,
        *["What estimates are and how far to trust them is said under Estimates."]
        * bool(trials[ESTIMATE].notna().any()),
    ]


def _section(title: str, body: str, remarks: Sequence[str]) -> str:
    below = "".join(f'<p class="remark">{html.escape(remark)}</p>' for remark in remarks)
    return f"<section><h2>{html.escape(title)}</h2>{body}{below}</section>"


def _body(part: Section, numbers: Sequence[int]) -> str:
    """Return the tables of a section, and the places of its figures, which have these numbers."""
    charts = [f"<h3>{html.escape(title)}</h3>{_plain_table(table)}" for title, table in part.tables]
    return "".join(charts) + _charts(part, numbers)


def _plain_table(table: pd.DataFrame) -> str:
    flat = table.reset_index()
    right = [' class="right"' if is_number(flat[name]) else "" for name in flat.columns]

    def row(tag: str, texts: Sequence[str]) -> str:
        inside = (f"<{tag}{c}>{html.escape(text)}</{tag}>" for text, c in zip(texts, right, strict=True))
        return f"<tr>{''.join(inside)}</tr>"

    body = "".join(row("td", texts) for texts in zip(*cells(flat), strict=True))
    head = row("th", [str(name) for name in flat.columns])
    return f'<div class="sheet"><table class="plain"><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _charts(part: Section, numbers: Sequence[int]) -> str:
    charts = []
    for number, chart in zip(numbers, part.figures, strict=True):
        width = f"min-width:{int(chart['width'])}px;" if "width" in chart else ""
        style = f"height:{int(chart['height'])}px;{width}"
        charts.append(f'<div class="scroll"><div class="chart" data-figure="{number}" style="{style}"></div></div>')
    return f'<div class="charts{" narrow" if part.narrow else ""}">{"".join(charts)}</div>' if charts else ""


def _pictures(panels: Panels) -> str:
    rows = []
    for title, pictures in panels.rows:
        cells = "".join(
            f'<figure><img src="{html.escape(p.address)}" alt="{html.escape(p.caption)}">'
            f"<figcaption>{html.escape(p.caption)}</figcaption></figure>"
            for p in pictures
        )
        rows.append(f'<h3>{html.escape(title)}</h3><div class="panel">{cells}</div>')
    colours = "".join(
        f'<li><span style="background:{html.escape(colour)}"></span>{html.escape(name)}</li>'
        for name, colour in panels.colours
    )
    legend = f'<ul class="colours">{colours}</ul>' if colours else ""
    return f'<div class="panels{" pixelated" if panels.pixelated else ""}">{"".join(rows)}</div>{legend}'
