"""How much of their budget the trials of a search may be expected to use before a scheduler stops them."""

from __future__ import annotations

import math
import random

from bpkd_search.config.models import SearchConfig
from bpkd_search.search.stopping import make_rungs

# Searches that are played through for the mean.
PLAYED = 50


def expected_shares(config: SearchConfig, rounds: int) -> tuple[float, float]:
    """The mean share of `rounds` that sampled trials run, and the share of trials that run them all.

    Early reports are taken to rank trials as their ends do.

    The scheduler itself is asked, in searches whose trials come one after the other in random order. On the axis
    `gpu_seconds`, every round takes the same time; without `train.gpu_seconds` it is unknown, and nothing is stopped.
    What `model` stops depends on what it learns, and is counted as nothing.
    """
    scheduler, full = config.search.scheduler, float(rounds)
    if scheduler.name == "model":
        return 1.0, 1.0
    if scheduler.axis == "gpu_seconds":
        full = config.train.gpu_seconds or math.inf
    if math.isinf(full):
        return 1.0, 1.0
    # Methods that are tuned alike compete among their own trials only.
    trials = max(config.search.trials, len(config.enqueue)) // max(1, len(config.search.methods))
    numbers, used, ended = random.Random(0), 0, 0
    for _ in range(PLAYED):
        rule = make_rungs(scheduler, full)
        for trial in range(trials):
            value = (numbers.random(),)
            for done in range(1, rounds + 1):
                used += 1
                if not rule.report(trial, done * full / rounds, value) and done < rounds:
                    break
            else:
                ended += 1
    return used / (PLAYED * trials * rounds), ended / (PLAYED * trials)
