"""Which setting of a search runs again with which seed: where a further seed decides most.

A pure function of what is known: settings, their scores over seeds, and what still runs. Of two settings, the leader
and its nearest challenger, the one with fewer seeds runs (top-two sampling: Russo 2020, Operations Research 68:1625).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bpkd_search.config.search import REPLICATES_SHARE, SETTINGS_FIRST
from bpkd_search.results.race import MOST_SEEDS, leads_of, rivals_of

Array = np.ndarray[Any, Any]

# A setting is a challenger while it is this few standard deviations of the difference behind: one in 20 is better.
NEAR = 1.64


@dataclass(frozen=True)
class Setting:
    """A setting that may race; higher scores are better.

    `expected` and `doubt` are the mean over seeds and its standard deviation by all that came before the race;
    `scores` are those of fresh seeds, 1 to `MOST_SEEDS`, `begun` all seeds with which it has begun, those that still
    run and those that failed too. One that is not `able` failed or breaks a constraint: it does not lead.
    """

    number: int
    method: str
    searched: bool
    expected: float
    doubt: float
    able: bool = True
    scores: Mapping[int, float] = field(default_factory=dict)
    begun: frozenset[int] = frozenset()


def is_due(explored: int, replicates: int) -> bool:
    """Whether the next trial may be a replicate, after so many of new settings and so many replicates."""
    return replicates < REPLICATES_SHARE * (explored + replicates + 1 - SETTINGS_FIRST)


def next_replicate(settings: Sequence[Setting], noise: float) -> tuple[int, int] | None:
    """Return the number and the seed of what runs next; None where the race is decided or nothing can run.

    `noise` is the standard deviation between seeds.
    """
    if not any(setting.able for setting in settings):
        return None
    mean, variance = _known(settings, noise)
    leader = int(np.argmax(np.where([setting.able for setting in settings], mean, -np.inf)))
    others = [i for i in range(len(settings)) if i != leader]
    behind = {i: (mean[leader] - mean[i]) / np.sqrt(variance[leader] + variance[i]) for i in others}
    near = {i for i in others if behind[i] < NEAR}
    rivals = rivals_of(leader, [setting.method for setting in settings])
    unbeaten = _unbeaten(settings, leader, [i for i in others if rivals[i] and (_races(settings[i]) or i in near)])
    mates = [i for i in near if not rivals[i] and settings[i].able]
    # By turns: whom the leader has to beat, and which of the settings of its own method should lead.
    turn = sum(len(setting.begun) for setting in settings) % 2
    lists = [sorted(group, key=lambda i: (behind[i], i)) for group in (unbeaten, mates)]
    for i in [*lists[turn], *lists[1 - turn]]:
        pair = sorted((leader, i), key=lambda j: len(settings[j].begun))
        for j in pair:
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
    low, _ = leads_of(scores, racing.index(leader))
    beaten = {i for place, i in enumerate(racing) if low[place] > 0}
    return [i for i in rivals if i not in beaten]


def _known(settings: Sequence[Setting], noise: float) -> tuple[Array, Array]:
    """Return the expected mean of each setting by all that is known, and its variance once what runs has ended."""
    expected = np.array([setting.expected for setting in settings])
    doubt = np.array([setting.doubt for setting in settings]) ** 2
    shift: dict[int, float] = {}
    for seed in {seed for setting in settings for seed in setting.scores}:
        # What all settings share in a seed: those that ran with it, against what was expected of them.
        there = [i for i, setting in enumerate(settings) if seed in setting.scores]
        shift[seed] = float(
            np.average([settings[i].scores[seed] - expected[i] for i in there], weights=1 / (doubt[there] + noise**2))
        )
    sums = np.array([sum(value - shift[seed] for seed, value in s.scores.items()) for s in settings])
    counts = np.array([len(setting.scores) for setting in settings])
    begun = np.array([len(setting.begun) for setting in settings])
    mean = (expected / doubt + sums / noise**2) / (1 / doubt + counts / noise**2)
    return mean, 1 / (1 / doubt + begun / noise**2)
