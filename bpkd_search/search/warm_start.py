"""Trials of other experiments that a search can learn from."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from bpkd_search.config.models import RunConfig, SearchConfig
from bpkd_search.config.optimisation import LENGTH
from bpkd_search.config.points import coordinates
from bpkd_search.experiment.schema import COMPLETE
from bpkd_search.results.leaderboard import Leaderboard


def matching(source: Path, config: SearchConfig, base: RunConfig) -> tuple[list[dict[str, Any]], list[str]]:
    """The full-budget trials of an experiment that lie in this search's space, and notes on those left out.

    A trial matches when its run, apart from data, teacher, seed and budget, is this search's run at a point of
    the space, and when it has every objective. Each comes as `source`, `point`, `values`. Raises `ExperimentError`
    when `source` is no experiment.
    """
    found: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for row in Leaderboard(source).trials().to_dict("records"):
        number = int(row["number"])
        if row["state"] != COMPLETE:
            left_out["did not run in full"] += 1
            continue
        run = RunConfig.model_validate(json.loads(row["config"]))
        # The same settings on other data are still worth knowing; the sampler only takes them as hints.
        same = {"data": base.data, "teacher": base.teacher, "provenance": base.provenance}
        budget = {key: getattr(base.train, key) for key in (*LENGTH, "seed", "device")}
        run = run.model_copy(update={**same, "train": run.train.model_copy(update=budget)})
        point = coordinates(config.space, base, run)
        values = [row.get(name) for name in config.search.goals]
        if point is None:
            left_out["lie outside the space"] += 1
        elif any(value is None or not math.isfinite(value) for value in values):
            left_out[f"have no {' or '.join(config.search.goals)}"] += 1
        else:
            found.append({"source": f"{row['experiment']}/{number}", "point": point, "values": values})
    notes = [f"warm start: {len(found)} trials of {source}"]
    notes += [f"warm start: {count} trials of {source} left out: they {why}" for why, count in left_out.items()]
    return found, notes
