"""The score that an exported setting claims, and the interval in which a further training must score.

`provenance` of an exported run holds `metric`, its value in the search and the `seed` there; once `confirm` has run,
also `confirmed`, see `Confirmed`. Its two intervals answer different questions. The interval of the mean shrinks
towards zero with more seeds, while single runs scatter as before and fall outside it more and more often. A further
run is therefore compared with the prediction interval, which one run in twenty misses by chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from bpkd_search.blocks import Block
from bpkd_search.errors import ConfigError
from bpkd_search.metrics.table import SCORES
from bpkd_search.results.confirm import interval, prediction
from bpkd_search.results.leaderboard import Leaderboard

# How far a run with the same seed may be from its recorded score. With the same code, machine and thread count it is
# equal; two threads instead of one moved four runs of the quickstart by 0.001 to 0.003 mIoU.
TOLERANCE = 0.01


class Confirmed(Block):
    """Scores of a setting over fresh training seeds; both intervals are 95 %, by Student's t."""

    seeds: tuple[int, ...]
    failed: int
    mean: float
    low: float  # of the mean: mean -+ t s / sqrt(n)
    high: float
    run_low: float  # of one further run: mean -+ t s sqrt(1 + 1/n)
    run_high: float


@dataclass(frozen=True)
class Claim:
    """A training with `seed` scores `low` to `high` in `metric`; `basis` is the reason as a text."""

    metric: str
    low: float
    high: float
    seed: int
    basis: str


def confirmations(board: Leaderboard) -> dict[int, Confirmed]:
    """Return what `confirm` found for each trial of an experiment with at least two seeds that ran to the end."""
    if not board.confirmed:
        return {}
    found = {}
    for number, rows in board.confirm().groupby("number"):
        ran = rows[rows[board.metric].notna()]
        if len(ran) > 1:
            scores = ran[board.metric].to_numpy(float)
            names = ("mean", "low", "high", "run_low", "run_high")
            ends = (round(value, 6) for value in (*interval(scores), *prediction(scores)))
            seeds, failed = tuple(map(int, ran["seed"])), len(rows) - len(ran)
            found[int(str(number))] = Confirmed(seeds=seeds, failed=failed, **dict(zip(names, ends, strict=True)))
    return found


def confirmed_of(provenance: Mapping[str, Any] | None, source: str) -> Confirmed | None:
    """Return the confirmation in a run's provenance, or None. Raises `ConfigError` if it is damaged."""
    values = (provenance or {}).get("confirmed")
    try:
        return None if values is None else Confirmed.model_validate(values)
    except ValueError as e:
        rule = f"must hold {', '.join(Confirmed.model_fields)}, as `bpkd-search export` writes them"
        raise ConfigError([f"provenance.confirmed: got {values!r}, {rule}"], source) from e


def claim_of(provenance: Mapping[str, Any] | None, source: str) -> Claim:
    """Return the claim of an exported run. Raises `ConfigError` if its provenance holds no score."""
    about, confirmed = provenance or {}, confirmed_of(provenance, source)
    metric = str(about.get("metric"))
    try:
        score, seed = float(about[metric]), int(about["seed"])
        if metric not in SCORES:
            raise ValueError(metric)
    except (KeyError, TypeError, ValueError) as e:
        rule = "holds no score to verify: metric, a value under that name and seed, as `bpkd-search export` writes them"
        raise ConfigError([f"provenance: {rule}"], source) from e
    if confirmed is None:
        basis = f"the search's {score:.4f} +- {TOLERANCE} with the same seed; not confirmed with others"
        return Claim(metric, score - TOLERANCE, score + TOLERANCE, seed, basis)
    fresh = next(number for number in count() if number not in (*confirmed.seeds, seed))
    basis = f"95 % prediction interval for one further run, from {len(confirmed.seeds)} seeds"
    return Claim(metric, confirmed.run_low, confirmed.run_high, fresh, basis)


def confirmed_words(provenance: Mapping[str, Any] | None, source: str) -> str:
    """Return the confirmation as a sentence; empty without one. Raises `ConfigError` if it is damaged."""
    found = confirmed_of(provenance, source)
    if found is None:
        return ""
    metric = claim_of(provenance, source).metric
    failed = f" ({found.failed} more failed)" if found.failed else ""
    return (
        f"Confirmed over {len(found.seeds)} fresh seeds{failed}: mean {metric} {found.mean:.4f}, 95 %"
        f" interval [{found.low:.4f}, {found.high:.4f}]; one further run: {found.run_low:.4f} to"
        f" {found.run_high:.4f} (95 % prediction interval)."
    )
