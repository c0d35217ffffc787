"""Which setting of a search runs again with which seed: where a further seed decides most.

A pure function of what is known: settings, their scores over seeds, and what still runs. Of two settings, the leader
and its nearest challenger, the one with fewer seeds runs (top-two sampling: Russo 2020, Operations Research 68:1625).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import norm

from bpkd_search.config.search import REPLICATES
from bpkd_search.results.expectation import Expected
from bpkd_search.results.race import MOST_SEEDS, all_leads, best_of_methods, rivals_of
from bpkd_search.results.selection import FEWEST

Array = np.ndarray[Any, Any]

# A setting of the leader's own method is worth a seed while it may be expected to gain so much, in deviations between
# seeds, over the leader: among settings that are as good as equal, which one leads does not matter.
GAIN = 0.2
# A setting of another method that has not run again is a rival while it is this few standard deviations behind; the one
# that is expected to be the best of its method always is.
NEAR = 1.64


@dataclass(frozen=True)
class Setting:
    """A setting that may race; higher scores are better.

    `scores` are those of fresh seeds, 1 to `MOST_SEEDS`, `begun` all seeds with which it has begun, those that still
    run and those that failed too. One that is not `able` failed or breaks a constraint: it does not lead.
    """

    number: int
    method: str
    searched: bool
    able: bool = True
    scores: Mapping[int, float] = field(default_factory=dict)
    begun: frozenset[int] = frozenset()


def is_due(explored: int, replicates: int) -> bool:
    """Whether the next trial may be a replicate, after so many of new settings and so many replicates."""
    return any(replicates < share * (explored + replicates + 1 - first) for first, share in REPLICATES)


def next_replicate(settings: Sequence[Setting], expected: Expected) -> tuple[int, int] | None:
    """Return the number and the seed of what runs next; None where the race is decided or nothing can run.

    `expected` is of the settings by all that came before the race.
    """
    if not any(setting.able for setting in settings):
        return None
    mean, covariance, noise = expected.after(
        (i, seed, setting.scores.get(seed, np.nan)) for i, setting in enumerate(settings) for seed in setting.begun
    )
    able = np.array([setting.able for setting in settings])
    methods = [setting.method for setting in settings]
    leader = int(np.argmax(np.where(able, mean, -np.inf)))
    others = [i for i in range(len(settings)) if i != leader]
    own = np.diag(covariance)
    apart = np.sqrt(np.maximum(own[leader] + own - 2 * covariance[leader], 1e-12 * noise**2))
    behind = (mean[leader] - mean) / apart
    gain = apart * (norm.pdf(behind) - behind * norm.sf(behind))
    rivals = rivals_of(leader, methods) & able
    best = best_of_methods(mean, methods, able)
    near = [i for i in others if rivals[i] and (_races(settings[i]) or i in best or behind[i] < NEAR)]
    # With fewer seeds than `FEWEST` no rival counts as beaten, however far behind it is.
    unbeaten = _unbeaten(settings, leader, near)
    unbeaten.sort(key=lambda i: (len(settings[i].begun) >= FEWEST, behind[i], i))
    mates = [i for i in others if able[i] and not rivals[i] and gain[i] > GAIN * noise]
    mates.sort(key=lambda i: (-gain[i], i))
    # Two of three go to whom the leader has to beat, one to which of the settings of its own method should lead.
    turn = sum(len(setting.begun) for setting in settings) % 3 == 1
    for i in [*mates, *unbeaten] if turn else [*unbeaten, *mates]:
        for j in sorted((leader, i), key=lambda j: len(settings[j].begun)):
            free = [seed for seed in range(1, MOST_SEEDS + 1) if seed not in settings[j].begun]
            if free:
                return settings[j].number, free[0]
    return None


def _races(setting: Setting) -> bool:
    return not setting.searched or bool(setting.begun)


def _unbeaten(settings: Sequence[Setting], leader: int, rivals: Sequence[int]) -> list[int]:
    """Return those of the rivals that the leader has not beaten, by the test of the verdict."""
    racing = [i for i, setting in enumerate(settings) if _races(setting) or i == leader]
    scores = np.full((len(racing), MOST_SEEDS), np.nan)
    for place, i in enumerate(racing):
        for seed, value in settings[i].scores.items():
            scores[place, seed - 1] = value
    if not np.isfinite(scores).any():
        return list(rivals)
    low, _ = all_leads(scores, [settings[i].method for i in racing])
    beaten = {i for place, i in enumerate(racing) if low[racing.index(leader), place] > 0}
    return [i for i in rivals if i not in beaten]
