"""What the verdicts on winners are worth, on made-up scores whose truth is known.

    python runners/bench/winners.py confirm    # false winners, power, coverage of `confirm`

Scores are a setting's true mean, plus what all settings share in a seed, plus noise: normal, or of settings that differ
in their spread (its logarithm has deviation 0.5), or Student's t with 3 degrees of freedom. One deviation of the noise
is the unit. "false" is how often a winner is named though each searched setting equals the baseline that it is compared
with; "named" how often the one setting that is better, by 2, is named; "mean" and "leader" how often the 95 % intervals
of all means and of the leader's cover the truth, "lead" the same of the verdict's interval; "P(best) 0.00" how often
that is shown for the setting that is truly the best, without and with a difference of 0.5.
Prints a table, and writes it as JSON to the file given by --json.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from bpkd_search.results.selection import critical, paired, probability_best

Array = np.ndarray[Any, Any]
NOISE = ("normal", "unequal", "heavy")


def draw(rng: np.random.Generator, means: Array, seeds: int, repeats: int, noise: str = "normal") -> Array:
    """Return scores [repeats, settings, seeds] with these true means."""
    shape = (repeats, len(means), seeds)
    spread = rng.standard_t(3, shape) if noise == "heavy" else rng.standard_normal(shape)
    if noise == "unequal":
        spread *= np.exp(rng.normal(0, 0.5, shape[:2]))[..., None]
    return np.asarray(means[:, None] + rng.normal(0, 0.5, (repeats, 1, seeds)) + spread)


def judge(scores: Array, searched: int) -> tuple[Array, Array, Array]:
    """Return the leader of the `searched` first settings, and the ends of its leads, for each repeat."""
    found, seeds = paired(scores), scores.shape[2]
    leader = scores[:, :searched].mean(2).argmax(1)
    rows = np.arange(len(scores))
    half = critical(searched, scores.shape[1], (seeds,))[seeds] * np.sqrt(found.variance[rows, leader] / seeds)
    return leader, found.gain[rows, leader] - half, found.gain[rows, leader] + half


def confirmations(settings: list[int], seeds: list[int], repeats: int) -> list[dict[str, Any]]:
    """Return a row for each number of settings, of seeds, and noise; beside one baseline and three far below."""
    rows = []
    for searched, count, noise in itertools.product(settings, seeds, NOISE):
        rng = np.random.default_rng([searched, count, NOISE.index(noise)])
        means = np.array([0.0] * searched + [0.0, -5.0, -5.0, -5.0])
        equal = draw(rng, means, count, repeats, noise)
        leader, low, high = judge(equal, searched)
        picks = np.arange(repeats)
        centre, half = equal.mean(2), student_t.ppf(0.975, count - 1) * equal.std(2, ddof=1) / np.sqrt(count)
        covered = np.abs(centre - means) <= half
        better = means.copy()
        better[0] = 2.0
        first, above, _ = judge(draw(rng, better, count, repeats, noise), searched)
        slightly = means.copy()
        slightly[0] = 0.5
        shown = [
            probability_best(scores)[0]
            for truth in (means, slightly)
            for scores in draw(rng, truth, count, min(repeats, 100), noise)
        ]
        rows.append(
            {
                **{"settings": searched, "seeds": count, "noise": noise},
                "false": float((low[:, searched] > 0).mean()),
                "named": float(((first == 0) & (above[:, searched] > 0)).mean()),
                "mean": float(covered.mean()),
                "leader": float(covered[picks, leader].mean()),
                "lead": float(((low[:, searched] <= 0) & (high[:, searched] >= 0)).mean()),
                "P(best) 0.00": float((np.array(shown) < 0.005).mean()),
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    print("".join(f"{name:>14}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:>14.3f}" if isinstance(value, float) else f"{value:>14}" for value in row.values()))


PARTS = {"confirm": confirmations}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--settings", type=int, nargs="+", default=[2, 3, 5, 10, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args(arguments)
    rows = PARTS[given.part](given.settings, given.seeds, given.repeats)
    show(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
