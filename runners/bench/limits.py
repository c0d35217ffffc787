"""What any search could reach on the tables of `compare.py`: how rare good settings are, and how early they show.

    python runners/bench/limits.py

A good setting is one within 0.5 points of the best mean. Printed for each table:

- the share of random points whose nearest setting is good;
- how often one is among the eight that are begun before anything is known, and what those eight cost, as a share of
  the random trials that it takes for an even chance of one;
- after the first epoch and after half of them, where the worst placed run of a good setting stands among all runs
  when a ridge regression fitted on all other settings of the table places them: by all measures, and by these and the
  parameters. No search may stop more than what is below; it has seen few trials where the regression has seen all.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from compare import MADE_UP, TABLES, Table
from sklearn.linear_model import RidgeCV

from bpkd_search.config.points import to_tree
from bpkd_search.metrics.table import SCORES
from bpkd_search.search.agreement import squared_distances
from bpkd_search.search.proposals import Candidates
from bpkd_search.surrogate.encoding import Encoding, parameters_of

SLOTS, DRAWN = 8, 2000


def main() -> None:
    """Print a row a table."""
    warnings.simplefilter("ignore")
    print("| table | good points | among the first 8 | cost of 8 | after epoch 1, with parameters | after half |")
    print("|---|---|---|---|---|---|")
    for name in [*TABLES, *MADE_UP]:
        table = Table(name, 64)
        share = good_share(table)
        cost = SLOTS / math.ceil(math.log(0.5) / math.log(1 - share))
        half = math.ceil(table.backend.epochs / 2)
        places = [" and ".join(f"{worst_place(table, epoch, p):.0%}" for p in (False, True)) for epoch in (1, half)]
        print(
            f"| {name} | {share:.1%} | {1 - (1 - share) ** SLOTS:.0%} | {cost:.2f} | {' | '.join(places)} |", flush=True
        )


def good_share(table: Table) -> float:
    """The share of random points whose nearest setting is good."""
    random, space = np.random.default_rng(0), table.config.space
    candidates = Candidates(space, to_tree(table.config.run()))
    settings = list(table.backend.curves)
    there = [parameters_of(space, table.backend.curves[setting][0][0]) for setting in settings]
    nearest = squared_distances(space, [candidates.anywhere(random) for _ in range(DRAWN)], there).argmin(1)
    good = np.array([table.backend.mean(setting, table.metric) >= table.goal for setting in settings])
    return float(good[nearest].mean())


def worst_place(table: Table, epoch: int, parameters: bool) -> float:
    """Where the worst placed run of a good setting stands after an epoch, as a share of all runs."""
    curves, space = table.backend.curves, table.config.space
    runs = [(setting, curve) for setting, each in curves.items() for curve in each]
    setting = np.array([number for number, _ in runs])
    worth = np.array([table.backend.mean(number, table.metric) for number, _ in runs])
    names = [name for name in SCORES if name in runs[0][1][0] and np.isfinite(runs[0][1][0][name])]
    known = np.array([[curve[epoch - 1][name] for name in names] for _, curve in runs])
    known = (known - known.mean(0)) / (known.std(0) + 1e-12)
    if parameters:
        vectors = Encoding(space).vectors(parameters_of(space, curve[0]) for _, curve in runs)
        known = np.hstack([known, 2 * vectors])
    expected = np.empty(len(runs))
    for number in curves:
        rest = setting != number
        ridge = RidgeCV(alphas=[1, 3, 10, 30, 100]).fit(known[rest], worth[rest])
        expected[~rest] = ridge.predict(known[~rest])
    return float(max((expected > value).mean() for value in expected[worth >= table.goal]))


if __name__ == "__main__":
    main()
