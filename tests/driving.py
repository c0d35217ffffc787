"""A plain loop in Ray's place: drives an engine through made-up learning curves, for tests of search logic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from bpkd_search.config import terms_of
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.engine import Engine

Curve = Callable[[Trial, int], float]
Scores = Callable[[Trial, int], dict[str, Any]]


def curve(trial: Trial, epoch: int) -> float:
    """A smooth peak over the edge weight that is approached epoch by epoch."""
    weights = [term.edge_weight for term in terms_of(trial.run.loss) if hasattr(term, "edge_weight")]
    weight = weights[0] if weights else None
    peak = 0.3 if weight is None else 0.4 - 0.03 * (math.log10(weight) - 0.2) ** 2
    return peak * (1 - 0.5**epoch) + 1e-6 * trial.number


def report_of(trial: Trial, epoch: int, value: float) -> dict[str, Any]:
    """What an actor would report."""
    scores = {"miou": value, "edge_miou": value / 2, "body_miou": value, "accuracy": value}
    return {"epoch": epoch, **scores, "gpu_seconds": 2.0 * epoch, "wall_seconds": 3.0 * epoch, "loss_ce": 1.0}


def drive(
    engine: Engine,
    slots: int = 2,
    stop_after: int | None = None,
    curve: Curve = curve,
    scores: Scores = lambda trial, epoch: {},
) -> int:
    """Run an engine's trials, `slots` at once in turn; gives the number of reports made.

    Reports follow `curve`, except for what `scores` says. After `stop_after` reports it returns in the middle, as a
    driver that is killed.
    """
    running: list[tuple[Trial, int]] = []
    made = 0
    while True:
        while len(running) < slots and (trial := engine.ask()) is not None:
            running.append((trial, trial.epoch))
        if not running:
            return made
        trial, epoch = running.pop(0)
        report = report_of(trial, epoch + 1, curve(trial, epoch + 1)) | scores(trial, epoch + 1)
        go_on = engine.report(trial.number, report)
        made += 1
        if made == stop_after:
            return made
        if go_on and epoch + 1 < engine.max_epochs:
            running.append((trial, epoch + 1))
        else:
            engine.end(trial.number)
