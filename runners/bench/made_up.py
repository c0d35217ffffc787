"""Made-up tables beside the recorded ones, as a check on what was chosen on those: their surfaces are known.

A surface over a space is a peak with a weight for each parameter, and waves along random directions. A run approaches
its end epoch by epoch, at a speed that depends on its setting too, so that early scores order settings less well: ranks
of mIoU after one epoch correlate 0.7 with the last ones, those of accuracy 0.9. That is more than on recorded tables.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bpkd_search.config.distributions import quantile
from bpkd_search.config.space import Distribution
from bpkd_search.metrics.table import SCORES

SETTINGS, SEEDS, EPOCHS = 256, 3, 9
# Standard deviations of ends in mIoU: between settings, between seeds, and of one report.
SPREAD, NOISE, FLICKER = 0.012, 0.008, 0.004
# The share of the spread that is waves.
_WAVES = 0.4


def made_up(space: Mapping[str, Distribution], surface: int) -> pd.DataFrame:
    """A table for `TableBackend` of a space without conditions: `surface` draws its function, settings and seeds.

    A row an epoch: `setting`, `seed`, the parameters, `epoch`, `gpu_seconds`, all scores.
    """
    random = np.random.default_rng([20261128, surface])
    shares = random.random((SETTINGS, len(space)))
    ends = 0.4 + SPREAD * _surface(shares, random)
    # Settings with weights in the middle of their ranges learn fast at first, wherever they end.
    speed = 0.35 + 0.3 * (1 - np.abs(2 * shares[:, 0] - 1)) + 0.1 * random.random(SETTINGS)
    points = [{path: quantile(d, float(x)) for (path, d), x in zip(space.items(), row, strict=True)} for row in shares]
    rows = []
    for setting in range(SETTINGS):
        seconds = random.uniform(0.35, 0.45)
        for seed in range(SEEDS):
            luck = random.normal(0, NOISE)
            for epoch in range(1, EPOCHS + 1):
                come = (1 - (1 - speed[setting]) ** epoch) / (1 - (1 - speed[setting]) ** EPOCHS)
                end = ends[setting] + luck
                value = end * (0.7 + 0.3 * come) + random.normal(0, FLICKER) * (epoch < EPOCHS)
                early = 0.3 + end * (0.9 + 0.1 * come) + random.normal(0, FLICKER) * (epoch < EPOCHS)
                scores = dict.fromkeys(SCORES, value) | {"edge_miou": 0.8 * value, "accuracy": early}
                rows.append(
                    {"setting": setting, "seed": seed, **points[setting], "epoch": epoch,
                     "gpu_seconds": seconds * epoch, **scores}
                )  # fmt: skip
    return pd.DataFrame(rows)


def _surface(shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Values of mean 0 and deviation 1 at points of the unit cube, float64 [points, parameters]."""
    peak, weights = random.random(shares.shape[1]), random.dirichlet(np.full(shares.shape[1], 0.7))
    bowl = -(((shares - peak) ** 2) @ weights)
    directions = random.normal(0, 4, (3, shares.shape[1])) * np.sqrt(weights)
    waves = np.sin(shares @ directions.T + random.uniform(0, 2 * np.pi, 3)).sum(1)

    def scaled(values: np.ndarray) -> np.ndarray:
        return (values - values.mean()) / values.std()

    return scaled(np.sqrt(1 - _WAVES) * scaled(bowl) + np.sqrt(_WAVES) * scaled(waves))
