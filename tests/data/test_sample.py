"""A sample of a split has its classes in about their shares, rare ones too, and is always the same."""

from __future__ import annotations

import numpy as np

from bpkd_search.data.base import sample


def test_shares_are_nearer_than_those_of_random_samples() -> None:
    rng = np.random.default_rng(0)
    counts = (rng.dirichlet(0.1 * np.ones(6), 60) * 10_000).astype(int)
    counts[:, 5] = 0
    counts[17, 5] = 300  # a class of one image
    whole = counts.sum(0) / counts.sum()

    def distance(rows: list[int]) -> float:
        part = counts[rows].sum(0)
        return float(np.square(np.sqrt(part / part.sum()) - np.sqrt(whole)).sum())

    chosen = sample(counts.tolist(), 12)
    assert chosen == sample(counts.tolist(), 12) == sorted(set(chosen))
    assert len(chosen) == 12
    random = [distance(list(rng.choice(60, 12, replace=False))) for _ in range(500)]
    assert distance(chosen) < np.quantile(random, 0.01)
    assert sample(counts.tolist(), 99) == list(range(60))
