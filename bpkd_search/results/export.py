"""The best settings as files that train again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from bpkd_search.errors import ExperimentError
from bpkd_search.results.leaderboard import Leaderboard


def export_best(board: Leaderboard, top: int, out: Path) -> list[Path]:
    """Write the `top` full-budget trials as run configurations, best first; gives the files.

    Each carries where it came from under `provenance`. A baseline that ranks among them is exported too:
    if plain distillation is best, that is the result. Errors: `ExperimentError` when no trial ran its full
    budget, or when a file of that name is there already.
    """
    best = board.best(top)
    if best.empty:
        raise ExperimentError(f"{board.directory}: no trial has run its full budget yet")
    out.mkdir(parents=True, exist_ok=True)
    files = {}
    for rank, row in best.iterrows():
        config: dict[str, Any] = json.loads(row["config"])
        config["provenance"] = {
            "experiment": str(row["experiment"]),
            "trial": int(row["number"]),
            "rank": int(str(rank)),
            "method": str(row["method"]),
            board.metric: round(float(row[board.metric]), 6),
            "epochs": int(row["epochs"]),
            "seed": int(row["seed"]),
            "version": str(row["version"]),
        }
        path = out / f"{rank}-{row['method']}-trial{row['number']}.yaml"
        if path.exists():
            raise ExperimentError(f"{path}: exists already; choose another --out")
        files[path] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return list(files)
