"""How far estimates can be trusted, on recorded trials with several seeds a setting.

    python runners/bench/estimates.py [--draws 50] [--json FILE]

Draws settings of each table in `tables/`, with one seed each; three in four ran in full and the others a quarter of
their epochs. Judged by the mean over a setting's other seeds, which nothing was told of: rank correlations of the own
score and of the estimate (`stopped` for trials that did not run in full: of their last report and of their estimate),
the share of 95 % intervals, widened by the noise of that mean, that hold it, and the points lost, in that mean, by
choosing the full trial with the best score and with the best estimate. `judges` is how often the model says that it can
judge.
Prints a table of means over the draws, and writes it to the file given by --json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bpkd_search.config.load import load_search
from bpkd_search.metrics.table import SCORES
from bpkd_search.results.analysis import rank_correlation
from bpkd_search.surrogate.encoding import parameters_of
from bpkd_search.surrogate.tried import Tried, estimates, model_of

TABLES = Path(__file__).parent / "tables"
COUNTS = (8, 16, 32, 48)


def judged(name: str, count: int, draw: int) -> dict[str, float]:
    """Return the figures of one draw."""
    config, table = load_search(TABLES / f"{name}.yaml"), pd.read_parquet(TABLES / f"{name}.parquet")
    metric, last = config.search.ranked_by, int(table["epoch"].max())
    finals = table[table["epoch"] == last].pivot(index="setting", columns="seed", values=metric).dropna()
    rng = np.random.default_rng([draw, count])
    chosen = rng.choice(finals.index, min(count, len(finals)), replace=False)
    seeds = rng.choice(finals.columns, len(chosen))
    columns = ["epoch", *(score for score in SCORES if score in table)]
    curves = {key: rows for key, rows in table[table["setting"].isin(chosen)].groupby(["setting", "seed"])}
    trials = []
    for number, (setting, seed) in enumerate(zip(chosen, seeds, strict=True)):
        rows = curves[setting, seed]
        full = number % 4 != 3
        known = rows[columns] if full else rows.loc[rows["epoch"] <= max(1, last // 4), columns]
        reports = {int(row.pop("epoch")): row for row in known.to_dict("records")}
        point = parameters_of(config.space, rows.iloc[0].to_dict())
        trials.append(Tried(number, point, float(finals.loc[setting, seed]) if full else None, reports))
    model = model_of(config.space, trials)
    found = estimates(model, trials)
    others = np.array([finals.loc[s].drop(seed).mean() for s, seed in zip(chosen, seeds, strict=True)])
    noise = float(np.sqrt(finals.var(axis=1, ddof=1).mean() / (len(finals.columns) - 1)))
    ran = np.array([trial.value is not None for trial in trials])
    own = np.array([trial.reports[max(trial.reports)][metric] for trial in trials])
    lost = others[ran].max()
    return {
        "score": rank_correlation(own[ran], others[ran]),
        "estimate": rank_correlation(found.mean[ran], others[ran]),
        "stopped: score": rank_correlation(own[~ran], others[~ran]),
        "stopped: estimate": rank_correlation(found.mean[~ran], others[~ran]),
        "covered": float(np.mean(np.abs(found.mean - others) <= 1.96 * np.hypot(found.deviation, noise))),
        "half width": 100 * float(np.mean(1.96 * found.deviation)),
        "lost by score": 100 * float(lost - others[ran][own[ran].argmax()]),
        "lost by estimate": 100 * float(lost - others[ran][found.mean[ran].argmax()]),
        "judges": float(model.can_judge),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in sorted(path.stem for path in TABLES.glob("*.parquet")):
        for count in COUNTS:
            found = pd.DataFrame([judged(name, count, draw) for draw in range(arguments.draws)])
            rows.append({"table": name, "trials": count, **found.mean().round(3).to_dict()})
    print(pd.DataFrame(rows).to_string(index=False))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
