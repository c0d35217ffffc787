"""Figures of the searched space: parallel coordinates, slices, importance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from bpkd_search.report.figures import BLUE, MANY, ORANGE, SOFT, Figure, axis_title, figure, level, short, words

NONE = "none"
SCALE = [[0, "#e4d9c8"], [0.5, "#7fa7c9"], [1, "#17457d"]]


def parallel(drawn: pd.DataFrame, space: Mapping[str, Mapping[str, Any]], metric: str) -> Figure:
    """Return one line per full-budget trial through its parameters to its score; drag along an axis to filter."""
    rows = drawn.sort_values(metric)
    dimensions = [_dimension(path, rule, rows[path]) for path, rule in space.items()]
    scores = [_plain(value) for value in rows[metric]]
    dimensions.append({"label": metric, "values": scores, "tickformat": ".3f"})
    line = {"color": scores, "colorscale": SCALE, "showscale": False}
    lines = {"type": "parcoords", "dimensions": dimensions, "line": line, "labelfont": {"size": 12}}
    return {**figure([lines], 380, margin={"l": 56, "r": 40, "t": 48, "b": 24}), "width": 130 * len(dimensions)}


def _dimension(path: str, rule: Mapping[str, Any], values: pd.Series) -> dict[str, Any]:
    """Return an axis: choices by their index, log ranges by their logarithm, missing values below."""
    if "choice" in rule:
        options = [str(option) for option in rule["choice"]]
        places = {option: float(place) for place, option in enumerate(options)}
        low, high = 0.0, float(len(options) - 1)
        ticks = {place: words(option) for option, place in places.items()}
        found = [None if pd.isna(value) else places.get(str(value)) for value in values]
    else:
        scale = math.log10 if rule.get("log") else float
        low, high = (float(scale(bound)) for bound in rule.get("float") or rule["int"])
        ticks = _ticks(low, high, bool(rule.get("log")))
        found = [None if pd.isna(value) else float(scale(float(value))) for value in values]
    absent = low - 0.15 * (high - low or 1.0)
    if None in found:
        ticks = {absent: NONE, **ticks}
        low = absent
    return {
        "label": short(path),
        "values": [absent if value is None else value for value in found],
        "range": [low, high if high > low else low + 1.0],
        "tickvals": list(ticks),
        "ticktext": list(ticks.values()),
    }


def _ticks(low: float, high: float, log: bool) -> dict[float, str]:
    """Return the ends and, between them, decades or quarters."""
    if log:
        between = [float(place) for place in range(math.ceil(low), math.floor(high) + 1)]
        between = [place for place in between if min(place - low, high - place) > 0.08 * (high - low)]
        return {place: f"{10**place:.3g}" for place in (low, *between, high)}
    return {place: f"{place:.3g}" for place in (low + part * (high - low) / 4 for part in range(5))}


def _round_values(low: float, high: float) -> list[float]:
    """Return decades within the powers of ten `low` and `high`; for short ranges also 2 and 5 times those."""
    steps = (1, 2, 5) if high - low < 2 else (1,)
    values = [step * 10.0**place for place in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return [value for value in values if low <= math.log10(value) <= high]


def slices(
    drawn: pd.DataFrame,
    stopped: pd.DataFrame,
    space: Mapping[str, Mapping[str, Any]],
    metric: str,
    baseline: float | None,
) -> list[Figure]:
    """Return score against each parameter: full-budget trials blue, stopped ones hollow, best baseline dashed."""
    kinds = ((drawn.head(MANY), "full budget"), (stopped.head(MANY // 3), "stopped early"))
    markers = ({"color": BLUE, "size": 8, "opacity": 0.75}, {"color": SOFT, "size": 7, "symbol": "circle-open"})
    found = []
    for path, rule in space.items():
        data, form = [], "%{x}" if "choice" in rule else "%{x:.4g}"
        for (rows, name), marker in zip(kinds, markers, strict=True):
            here = rows.dropna(subset=[path, metric])
            values = [words(v) for v in here[path]] if "choice" in rule else [_plain(v) for v in here[path]]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": values,
                    "y": [_plain(value) for value in here[metric]],
                    "customdata": [[int(n), int(e)] for n, e in zip(here["number"], here["epochs"], strict=True)],
                    "marker": marker,
                    "hovertemplate": f"trial %{{customdata[0]}}, {name}, epoch %{{customdata[1]}}<br>{short(path)}"
                    f" {form}<br>{metric} %{{y:.4f}}<extra></extra>",
                }
            )
        axis: dict[str, Any] = axis_title(short(path))
        if "choice" in rule:
            order = [words(option) for option in rule["choice"]]
            axis |= {"type": "category", "categoryorder": "array", "categoryarray": order}
        else:
            scale = math.log10 if rule.get("log") else float
            low, high = (float(scale(bound)) for bound in rule.get("float") or rule["int"])
            room = 0.05 * (high - low or 1.0)
            axis |= {"range": [low - room, high + room]}
            if rule.get("log"):
                ticks = _round_values(low, high)
                axis |= {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
        lines = [] if baseline is None else [level(baseline, "")]
        found.append(figure(data, 260, showlegend=False, shapes=lines, xaxis=axis, yaxis=axis_title(metric)))
    return found


def importance(table: pd.DataFrame) -> Figure:
    """Return bars of each parameter's shares, by the model, in total and alone, and by PED-ANOVA."""
    rows = table.iloc[::-1]
    names = [short(str(path)) for path in rows.index]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": names,
            "x": [_plain(value) for value in rows[column]],
            "marker": {"color": colour},
            "hovertemplate": f"%{{y}}<br>{name}: %{{x:.0%}}<extra></extra>",
        }
        for column, name, colour in (
            ("ped_anova", "PED-ANOVA", SOFT),
            ("fanova", "fANOVA, alone", ORANGE),
            ("fanova_total", "fANOVA, with interactions", BLUE),
        )
        if rows[column].notna().any()
    ]
    axis = {**axis_title("share of the importance"), "tickformat": ".0%"}
    legend = {"traceorder": "reversed"}
    yaxis = {"gridcolor": "rgba(0,0,0,0)"}
    return figure(data, 110 + 54 * len(rows), barmode="group", bargap=0.35, xaxis=axis, yaxis=yaxis, legend=legend)


def _plain(value: Any) -> Any:
    """Convert a cell to a JSON value."""
    return None if pd.isna(value) else float(value)
