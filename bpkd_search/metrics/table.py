"""Every measure of a student, one row each: meaning, direction, and display format.

A new score is a row here and its computation in `metrics.scores`; a new cost is a row here and a value in the trial's
report. Configuration, result tables, loggers, leaderboards, reports and exports follow from the row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

Direction = Literal["max", "min"]
Role = Literal["score", "cost", "record"]


@dataclass(frozen=True)
class Measure:
    """One measure of a student.

    A `score` may rank a search; scores and costs may be objectives and constraints; a `record` is only stored.
    `decimals` are the decimals shown, None for four significant digits. `label` is a shorter heading,
    `since` the version of the result tables that introduced the column. A measure that is not `per_epoch` is a
    column of the trials but not of their reports. `headline` measures are shown in short views.
    """

    name: str
    role: Role
    direction: Direction
    meaning: str
    kind: Literal["float", "int"] = "float"
    decimals: int | None = None
    label: str = ""
    since: int = 1
    per_epoch: bool = True
    headline: bool = False


SCORE_DECIMALS = 4
_score = partial(Measure, role="score", direction="max", decimals=SCORE_DECIMALS)
_cost = partial(Measure, role="cost", direction="min")
_record = partial(Measure, role="record")

MEASURES: tuple[Measure, ...] = (
    _score(
        "miou", meaning="mean IoU over the classes present, one confusion matrix for the whole split", headline=True
    ),
    _score("edge_miou", meaning="mIoU inside the band around class changes", headline=True),
    _score("body_miou", meaning="mIoU outside that band", headline=True),
    _score("boundary_iou", meaning="Boundary IoU (Cheng et al. 2021)"),
    _score("boundary_f", meaning="boundary F-score"),
    _score("accuracy", meaning="share of valid pixels that are right"),
    _score(
        "macc", meaning="mean accuracy: the share of each class's pixels that are right, mean over classes", since=3
    ),
    _score("custom_score", meaning="the score of `data.eval.metric`; empty without one", since=6),
    _cost(
        "gpu_seconds",
        meaning="seconds inside training so far, validation and start-up left out, times the share of a GPU held",
        decimals=0,
        label="seconds",
    ),
    _cost(
        "calibrated_seconds",
        meaning="the same in seconds of the experiment's first kind of device, by a step that is timed on each kind",
        decimals=0,
        since=7,
    ),
    _record("wall_seconds", direction="min", meaning="seconds since the trial started, all counted", decimals=0),
    _record("images_per_second", direction="max", meaning="training speed of the last epoch"),
    _cost("peak_memory_mb", meaning="peak GPU memory in MiB; empty on CPU"),
    _cost("latency_ms", meaning="milliseconds an image of the student at inference; empty where not measured", since=2),
    _cost("parameters", meaning="numbers the student learns", kind="int", per_epoch=False),
)

SCORES = tuple(m.name for m in MEASURES if m.role == "score")
COSTS = tuple(m.name for m in MEASURES if m.role == "cost")
# The measures in the report of each epoch.
REPORTED = tuple(m.name for m in MEASURES if m.per_epoch)
HEADLINE = tuple(m.name for m in MEASURES if m.headline)
HIGHER_IS_BETTER = {m.name: m.direction == "max" for m in MEASURES}
LABELS = {m.name: m.label for m in MEASURES if m.label}


def held_out(score: str) -> str:
    """Return the column of a score measured on the held-out split."""
    return f"test_{score}"


# By column name in tables, by label, and for scores also by column of the held-out split.
DECIMALS = {column: m.decimals for m in MEASURES for column in (m.name, m.label or m.name, held_out(m.name))}
