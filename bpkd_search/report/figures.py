"""Figures of the report as plain mappings that plotly.js draws: `{"data": [...], "layout": {...}, "height": ...}`.

Plain mappings, because a page needs plotly's script and none of its Python objects. plotly.js interprets some markup
in every text, so text from an experiment passes through `words` first.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bpkd_search.experiment.schema import COMPLETE, FAILED, PRUNED, RUNNING
from bpkd_search.results.analysis import violates_constraint
from bpkd_search.results.estimates import ESTIMATE

Figure = dict[str, Any]

INK, SOFT, GRID = "#1d2733", "#8793a3", "#e6eaef"
BLUE, ORANGE = "#2f6db5", "#d9702b"
METHODS = (BLUE, ORANGE, "#3a9272", "#8a63b8", "#b8494f", "#7d6a4f", "#c16fa3", "#5a9fb8", "#9a9a3a", "#5b6675")
STATES = {COMPLETE: "#3a9272", PRUNED: "#e0b04a", FAILED: "#b8494f", RUNNING: "#8fb3dd"}
# More points than this in one figure only overlap, and slow the page down.
MANY = 1500


def words(text: object) -> str:
    """Escape text of an experiment for plotly.js."""
    return html.escape(str(text), quote=False)


def short(path: str) -> str:
    """Return the short name of a searched parameter."""
    return words(path.removeprefix("loss.").replace("_", " "))


def figure(data: list[dict[str, Any]], height: int = 320, **layout: Any) -> Figure:
    """Return a figure in the report's style."""
    axis = {"gridcolor": GRID, "linecolor": GRID, "zeroline": False, "automargin": True, "title": {"standoff": 8}}
    base: dict[str, Any] = {
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "colorway": list(METHODS),
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "white", "bordercolor": SOFT, "font": {"color": INK}, "align": "left"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "itemsizing": "constant"},
        "xaxis": axis,
        "yaxis": axis,
    }
    for name, value in layout.items():
        base[name] = {**base[name], **value} if isinstance(value, dict) and name in base else value
    return {"data": data, "layout": base, "height": height}


def axis_title(text: str) -> dict[str, Any]:
    """Return the `title` of an axis."""
    return {"title": {"text": text, "standoff": 8}}


def level(value: float, text: str) -> dict[str, Any]:
    """Return shape and label of a dashed horizontal line at `value`."""
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value}
    label = {"text": text, "textposition": "end", "yanchor": "bottom", "font": {"size": 11, "color": ORANGE}}
    return {**line, "layer": "below", "line": {"color": ORANGE, "width": 1.5, "dash": "dash"}, "label": label}


def time_unit(seconds: float) -> tuple[float, str]:
    """Return a divisor of seconds for display, and the name of the unit."""
    for size, name in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 3 * size:
            return size, f"GPU-{name}"
    return 1.0, "GPU-seconds"


def course(curves: pd.DataFrame, searched: pd.DataFrame, baseline: float | None, metric: str) -> Figure:
    """Return a figure of full-budget scores against the time spent, the search's best so far, the best baseline.

    `curves` are `analysis.best_so_far` of all trials, `searched` those of the trials that the search chose; points of
    trials that violate a constraint are hollow.
    """
    size, unit = time_unit(float(curves["gpu_seconds"].max()))
    spent = curves["gpu_seconds"] / size
    data = []
    for method, rows in curves.groupby(curves["method"].astype(str), sort=False):
        rows = rows.nlargest(MANY, metric)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": words(method),
                "x": spent[rows.index].tolist(),
                "y": rows[metric].tolist(),
                "customdata": rows["number"].tolist(),
                "marker": {
                    "size": 8,
                    "opacity": 0.8,
                    "symbol": ["circle-open" if violates else "circle" for violates in violates_constraint(rows)],
                },
                "hovertemplate": f"trial %{{customdata}}, {words(method)}<br>{metric} %{{y:.4f}}<extra></extra>",
            }
        )
    if len(searched):
        best = searched["best"]
        steps = best[best.diff().fillna(1.0) > 0].index
        at = searched["gpu_seconds"] / size
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "best so far",
                "x": [*at[steps].tolist(), float(spent.max())],
                "y": [*best[steps].tolist(), float(best.iloc[-1])],
                "line": {"shape": "hv", "color": INK, "width": 1.5},
                "hoverinfo": "skip",
            }
        )
    lines = [] if baseline is None else [level(baseline, "best baseline")]
    return figure(data, 360, shapes=lines, xaxis=axis_title(f"{unit} spent by all trials"), yaxis=axis_title(metric))


def estimates(full: pd.DataFrame, others: pd.DataFrame, metric: str) -> Figure:
    """Return each trial's estimate and interval against its own score; the dashed line is where both are equal."""

    def points(rows: pd.DataFrame, name: str, colour: str, symbol: str) -> dict[str, Any]:
        rows = rows.dropna(subset=[metric])
        mean = rows[ESTIMATE]
        return {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": rows[metric].tolist(),
            "y": mean.tolist(),
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": (rows["estimate_high"] - mean).tolist(),
                "arrayminus": (mean - rows["estimate_low"]).tolist(),
                "color": colour,
                "thickness": 1,
                "width": 0,
            },
            "customdata": [
                [
                    int(row["number"]),
                    words(row["method"]),
                    int(row["epochs"]),
                    row["estimate_low"],
                    row["estimate_high"],
                ]
                for row in rows.to_dict("records")
            ],
            "marker": {"color": colour, "size": 8, "symbol": symbol},
            "hovertemplate": f"trial %{{customdata[0]}}, %{{customdata[1]}}, epoch %{{customdata[2]}}<br>{metric}"
            " %{x:.4f}<br>estimate %{y:.4f} [%{customdata[3]:.4f}, %{customdata[4]:.4f}]<extra></extra>",
        }

    data = [points(full, "full budget", BLUE, "circle"), points(others, "not in full", SOFT, "circle-open")]
    data = [trace for trace in data if trace["x"]]
    values = [value for trace in data for name in ("x", "y") for value in trace[name]]
    ends = [min(values), max(values)] if values else [0.0, 1.0]
    line = {"type": "line", "x0": ends[0], "y0": ends[0], "x1": ends[1], "y1": ends[1], "layer": "below"}
    equal = {**line, "line": {"color": ORANGE, "width": 1.5, "dash": "dash"}}
    return figure(
        data,
        380,
        shapes=[equal],
        xaxis=axis_title(f"own {metric}, one seed"),
        yaxis=axis_title("expected mean over seeds"),
    )


def rank_agreement(agreement: pd.DataFrame, rungs: Sequence[float]) -> Figure:
    """Return a figure of the rank correlation of each epoch with the end; dotted lines mark the rungs."""
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": agreement["epoch"].tolist(),
        "y": agreement["rho"].tolist(),
        "customdata": agreement["trials"].tolist(),
        "line": {"color": BLUE},
        "hovertemplate": "epoch %{x}<br>Spearman %{y:.2f} over %{customdata} trials<extra></extra>",
    }
    marks = [
        {"type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
        | {
            "line": {"color": ORANGE, "width": 1.5, "dash": "dot"},
            "label": {"text": "rung", "textangle": 0, "textposition": "end", "yanchor": "top", "xanchor": "left"},
        }
        for at in rungs
    ]
    low = min(0.0, float(agreement["rho"].min()))
    return figure(
        [line],
        300,
        shapes=marks,
        xaxis={**axis_title("epoch"), "tickformat": "d"},
        yaxis={**axis_title("Spearman with the end"), "range": [low - 0.05, 1.05]},
    )


def pareto(full: pd.DataFrame, front: pd.DataFrame, x: str, y: str) -> Figure:
    """Return a figure of full-budget trials by two objectives, with the Pareto front highlighted."""

    def points(rows: pd.DataFrame, name: str, **marker: Any) -> dict[str, Any]:
        return {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": rows[x].tolist(),
            "y": rows[y].tolist(),
            "text": [words(method) for method in rows["method"]],
            "customdata": rows["number"].tolist(),
            "marker": marker,
            "hovertemplate": f"trial %{{customdata}}, %{{text}}<br>{x} %{{x:.4g}}<br>{y} %{{y:.4g}}<extra></extra>",
        }

    others = full.drop(front.index).dropna(subset=[x, y]).head(MANY)
    data = [
        points(others, "other trials", size=7, color=SOFT, opacity=0.6),
        points(front, "front", size=10, color=BLUE),
    ]
    return figure(data, 340, xaxis=axis_title(x), yaxis=axis_title(y))


def by_state(table: pd.DataFrame, title: str, form: str) -> Figure:
    """Return stacked bars: one row per method, one part per state. `form` is plotly.js's number format."""
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": state.lower(),
            "y": [words(method) for method in table.index],
            "x": table[state].tolist(),
            "marker": {"color": colour},
            "hovertemplate": f"%{{y}}, {state.lower()}: %{{x:{form}}}<extra></extra>",
        }
        for state, colour in STATES.items()
        if state in table and table[state].sum() > 0
    ]
    height = 110 + 30 * len(table)
    yaxis = {"autorange": "reversed", "gridcolor": "rgba(0,0,0,0)"}
    return figure(
        data,
        height,
        barmode="stack",
        bargap=0.35,
        xaxis=axis_title(title),
        yaxis=yaxis,
        legend={"traceorder": "normal"},
    )


def gains(groups: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Return grouped bars of differences in points: one group per baseline, one bar per measure."""
    names = list(dict.fromkeys(name for values in groups.values() for name in values))
    data = [
        {
            "type": "bar",
            "name": name,
            "x": [words(group) for group in groups],
            "y": [100 * values.get(name, math.nan) for values in groups.values()],
            "hovertemplate": f"{name} minus %{{x}}: %{{y:+.1f}} points<extra></extra>",
        }
        for name in names
    ]
    return figure(
        data, 320, barmode="group", bargap=0.3, yaxis={**axis_title(title), "zeroline": True, "zerolinecolor": SOFT}
    )


def class_gains(mine: pd.Series, other: pd.Series, name: str) -> Figure:
    """Return differences of IoU by class, in points, the largest gain on top."""
    gain = (100 * (mine - other)).dropna().sort_values()
    pairs = [[f"{mine[k]:.3f}", f"{other[k]:.3f}"] for k in gain.index]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": gain.tolist(),
        "y": [words(k) for k in gain.index],
        "customdata": pairs,
        "marker": {"color": [BLUE if value >= 0 else ORANGE for value in gain]},
        "hovertemplate": "%{y}: %{x:+.1f} points<br>IoU %{customdata[0]} versus %{customdata[1]}<extra></extra>",
    }
    axis = {**axis_title(f"IoU minus that of {words(name)}, in points"), "zeroline": True, "zerolinecolor": SOFT}
    return figure([bars], 110 + 24 * len(gain), bargap=0.3, xaxis=axis, yaxis={"gridcolor": "rgba(0,0,0,0)"})
