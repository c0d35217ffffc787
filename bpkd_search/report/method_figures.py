"""Figures that compare methods: the expected best of each after so many trials, or GPU-seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bpkd_search.report.figures import METHODS, Figure, axis_title, figure, time_unit, words


def expected_best(table: pd.DataFrame, metric: str) -> list[Figure]:
    """Return the rows of `expected_best.expected_best` against trials and against GPU-seconds, with their intervals."""
    size, unit = time_unit(float(table["gpu_seconds"].max()))
    axes = [(table["k"], "trials of the method"), (table["gpu_seconds"] / size, f"{unit} spent on the method")]
    return [_curves(table.assign(x=x), title, metric) for x, title in axes]


def _interval(row: Mapping[Any, Any]) -> str:
    low, high = row["expected_low"], row["expected_high"]
    return "" if pd.isna(low) else f"[{low:.4f}, {high:.4f}]"


def _curves(table: pd.DataFrame, title: str, metric: str) -> Figure:
    data: list[dict[str, Any]] = []
    for (method, rows), colour in zip(table.groupby("method", sort=False), METHODS * len(table), strict=False):
        name, x = words(method), rows["x"].tolist()
        shared = {"type": "scatter", "legendgroup": name}
        known = rows.dropna(subset=["expected_low", "expected_high"])
        if len(known):
            around = known["x"].tolist()
            data.append(
                {
                    **shared,
                    "mode": "lines",
                    "x": around + around[::-1],
                    "y": known["expected_high"].tolist() + known["expected_low"].tolist()[::-1],
                    "fill": "toself",
                    "fillcolor": colour,
                    "opacity": 0.15,
                    "line": {"width": 0},
                    "hoverinfo": "skip",
                    "showlegend": False,
                }
            )
        data.append(
            {
                **shared,
                "mode": "lines+markers",
                "name": name,
                "x": x,
                "y": rows["expected_best"].tolist(),
                "customdata": [[int(row["k"]), row["gpu_seconds"], _interval(row)] for row in rows.to_dict("records")],
                "line": {"color": colour},
                "marker": {"size": 5},
                "hovertemplate": f"{name}, %{{customdata[0]}} trials, %{{customdata[1]:.0f}} GPU-seconds<br>{metric}"
                " %{y:.4f} %{customdata[2]}<extra></extra>",
            }
        )
    return figure(data, 360, xaxis=axis_title(title), yaxis=axis_title(f"expected best {metric}"))
