"""The statistics of a race against independent references: intervals, leads, who may win, what the table says."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bpkd_search.results.confirm import interval
from bpkd_search.results.race import LOOKS, rivals_of, standing, summarise
from bpkd_search.results.selection import ERROR, leads
from bpkd_search.results.shrinkage import true_means

ROWS = [
    # number, method, origin, replicate_of, seed, state, score
    (0, "ce", "baseline", None, 0, "COMPLETE", 0.30),
    (1, "cwd", "baseline", None, 0, "COMPLETE", 0.31),
    (2, "bpkd", "sampled", None, 0, "COMPLETE", 0.50),
    (3, "bpkd", "sampled", None, 0, "COMPLETE", 0.45),
    (4, "bpkd", "sampled", None, 0, "PRUNED", 0.10),
]


def rows_of(scores: dict[int, list[float]]) -> pd.DataFrame:
    """A table of trials: those above, and replicates with seeds from 1 on."""
    again = [
        (10 + i, ROWS[of][1], "replicate", of, seed, "FAILED" if np.isnan(value) else "COMPLETE", value)
        for i, (of, seed, value) in enumerate(
            (of, seed, value) for of, values in scores.items() for seed, value in enumerate(values, 1)
        )
    ]
    columns = ["number", "method", "origin", "replicate_of", "seed", "state", "miou"]
    return pd.DataFrame([*ROWS, *again], columns=columns).assign(feasible=None)


def test_one_setting_has_students_interval() -> None:
    # What seeds share cannot be told from noise there, so whatever is assumed of it, the answer is Student's.
    scores = np.array([0.31, 0.35, 0.32, 0.37])
    found = true_means(scores[None], np.array([True]))
    assert np.allclose([found.mean[0], found.low[0], found.high[0]], interval(scores), atol=2e-5)


def test_equal_settings_are_drawn_together_and_baselines_stay_where_they_are() -> None:
    scores = np.array([[1.0, 1.2, 0.9], [0.8, 0.9, 1.1], [0.9, 1.1, 1.0], [-9.0, -8.9, -9.2]])
    drawn = np.array([True, True, True, False])
    found = true_means(scores, drawn)
    plain = scores.mean(1)
    assert np.ptp(found.mean[:3]) < 0.6 * np.ptp(plain[:3]), "draws of one distribution are shrunk"
    assert found.mean[3] == pytest.approx(plain[3], abs=1e-6)
    assert (found.low < found.mean).all() and (found.mean < found.high).all()


def test_a_setting_with_fewer_seeds_is_judged_beside_the_others_in_its_own() -> None:
    # Seed 3 is a good one for all; the second setting did not have it and is no worse for that.
    scores = np.array([[0.0, 0.1, 5.0], [0.05, 0.12, np.nan], [0.1, 0.0, 5.1]])
    found = true_means(scores, np.zeros(3, dtype=bool))
    assert np.ptp(found.mean) < 0.2 and np.nanmean(scores[0]) - np.nanmean(scores[1]) > 1.5
    assert true_means(np.array([[np.nan], [1.0]]), np.zeros(2, dtype=bool)).mean[1] == 1.0
    assert np.isnan(true_means(np.array([[np.nan], [1.0]]), np.zeros(2, dtype=bool)).high).all()


def test_intervals_cover_the_truth_also_that_of_the_leader() -> None:
    rng = np.random.default_rng(4)
    inside, first = [], []
    for _ in range(60):
        means = rng.normal(0, 1, 6)
        scores = means[:, None] + rng.normal(0, 0.9, 4) + rng.normal(0, 1, (6, 4))
        found = true_means(scores, np.ones(6, dtype=bool))
        covers = (found.low <= means) & (means <= found.high)
        inside.append(covers.mean())
        first.append(covers[found.mean.argmax()])
    assert np.mean(inside) > 0.9 and np.mean(first) > 0.88


def test_a_leader_has_to_beat_all_of_other_methods() -> None:
    assert rivals_of(2, ["ce", "cwd", "bpkd", "bpkd"]).tolist() == [True, True, False, False]
    assert rivals_of(0, ["bpkd", "bpkd", "bpkd"]).tolist() == [False, True, True]
    near = np.array([[1.0, 1.1, 0.9, 1.05], [1.01, 1.09, 0.92, 1.0], [0.0, 0.05, -0.1, 0.1], [-1.0, -1.1, -0.9, -1.0]])
    drawn, able = np.array([True, True, False, False]), np.ones(4, dtype=bool)
    found = standing(near, ["bpkd", "bpkd", "ce", "cwd"], drawn, able)
    assert found.winner == found.leader and found.leader in (0, 1), "its own kind need not be told from it"
    low, _ = leads(near, range(2), LOOKS, ERROR * 2 / 3)
    assert (found.low[2:] == low[found.leader, 2:]).all() and (found.low[2:] > 0).all()
    assert standing(near[:2], ["bpkd", "bpkd"], drawn[:2], able[:2]).winner is None
    assert standing(near[:, :2], ["bpkd", "bpkd", "ce", "cwd"], drawn, able).winner is None, "two seeds name nobody"
    assert standing(near, ["bpkd", "bpkd", "ce", "cwd"], drawn, ~drawn).leader == 2


@pytest.mark.parametrize(("settings", "seeds"), [(2, 10), (6, 4), (20, 3)])
def test_few_winners_are_false_where_all_settings_are_equal(
    monkeypatch: pytest.MonkeyPatch, settings: int, seeds: int
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "runners" / "bench"))
    race = importlib.import_module("race")
    assert race.false_winners(settings, seeds, "normal", 1000)["false"] <= 0.05
    if settings == 2:
        # Whole races, which either of the two may win; also beside far rivals, which get fewer seeds.
        assert race.coverage(2, seeds, "equal", 200)["false"] <= 0.05
        assert race.coverage(2, seeds, "far", 200)["false"] <= 0.05
    whole = race.coverage(3, 3, "far", 4)
    assert whole["means"] > 0.6 and 3 < whole["runs"] <= 18, "three rivals far below need few runs"


def test_the_table_has_fresh_seeds_only_and_names_a_winner() -> None:
    scores = {0: [0.30, 0.32, 0.31, 0.33], 1: [0.31, 0.33, 0.32, 0.33], 2: [0.41, 0.42, 0.41, 0.43], 3: [0.41, 0.40]}
    table = summarise(rows_of(scores), "miou")
    assert table["number"].tolist()[0] == 2 and {*table["number"]} == {0, 1, 2, 3}
    row = table.set_index("number")
    assert row["seeds"].to_dict() == {0: 4, 1: 4, 2: 4, 3: 2}
    assert row.loc[0, "mean"] == pytest.approx(0.315, abs=1e-3), "its first run, 0.30, does not count"
    assert row.loc[2, "mean"] < 0.45, "nor does the 0.50 by which the setting was chosen"
    assert table["expected"].is_monotonic_decreasing and row.loc[2, "mean"] < row.loc[2, "expected"] < 0.5
    assert row.loc[1, "lead"] == pytest.approx(np.mean(np.subtract(scores[2], scores[1])))
    assert row.loc[3, "lead"] == pytest.approx((0.41 + 0.42 - 0.81) / 2) and np.isnan(row.loc[3, "lead_low"])
    assert table.attrs["winner"] == 2
    assert table.attrs["verdict"].startswith("Winner, P >= 0.95: trial 2 (bpkd), mean miou 0.41")
    # Where less is better, the same scores turned round.
    turned = rows_of({of: [1 - value for value in values] for of, values in scores.items()})
    other = summarise(turned, "miou", "min")
    assert other.attrs["winner"] == 2
    mirrored = other.set_index("number").loc[row.index]
    assert np.allclose(1 - mirrored["high"], row["low"], atol=1e-6)
    assert np.allclose(-mirrored["lead"], row["lead"], equal_nan=True)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({}, "No winner at this budget: no setting ran in full with a second seed."),
        ({2: [0.4, 0.41]}, "leads; fewer than 3 seeds are shared with ce (no shared seed), cwd (no shared seed)."),
        ({2: [0.4, np.nan, 0.41], 0: [0.1, 0.12, 0.11]}, "No winner at this budget: ce, "),
    ],
)
def test_why_there_is_no_winner(scores: dict[int, Any], said: str) -> None:
    table = summarise(rows_of(scores), "miou")
    assert table.attrs["winner"] is None and said in table.attrs["verdict"]


def test_one_that_promises_more_does_not_take_the_win_of_another() -> None:
    plain = {0: [0.30, 0.32, 0.31, 0.33], 1: [0.31, 0.33, 0.32, 0.33]}
    won = summarise(rows_of(plain | {2: [0.41, 0.42, 0.41, 0.43]}), "miou")
    assert won.attrs["winner"] == 2 and won.attrs["ahead"][0] == 3, "its fresh seeds were worse than its first run"
    table = summarise(rows_of(plain | {2: [0.41, 0.42, 0.41, 0.43], 3: [0.49]}), "miou")
    expected = table.set_index("number")["expected"]
    assert expected[3] > expected[2] and table.attrs["winner"] == 2 and table["number"].iloc[0] == 2
    # The best of its method is in the race also where it has not run again, and is told of.
    lucky = rows_of(plain | {3: [0.41, 0.42, 0.41, 0.43]})
    lucky.loc[lucky["number"] == 2, "miou"] = 0.9
    table = summarise(lucky, "miou")
    number, mean = table.attrs["ahead"]
    assert table.attrs["winner"] == 3 and number == 2 and expected[3] < mean < 0.9
    assert table.set_index("number").loc[2, "seeds"] == 0


def test_a_method_is_not_beaten_before_its_best_setting_has_run_again() -> None:
    """Whoever never ran again was not compared: no winner is named over its method."""
    scores = {0: [0.30, 0.32, 0.31, 0.33], 1: [0.31, 0.33, 0.32, 0.33], 2: [0.41, 0.42, 0.41, 0.43]}
    rows = rows_of(scores)
    assert summarise(rows, "miou").attrs["winner"] == 2
    rows.loc[rows["number"] == 3, "method"] = "dist"
    table = summarise(rows, "miou")
    assert table.attrs["winner"] is None and table.set_index("number").loc[3, "seeds"] == 0
    assert table.attrs["verdict"].endswith("leads; fewer than 3 seeds are shared with trial 3 (dist) (no shared seed).")


def test_what_failed_or_breaks_a_constraint_needs_not_be_beaten_and_is_named() -> None:
    plain = {0: [0.30, 0.32, 0.31, 0.33], 1: [0.51, 0.53, 0.52, 0.53]}
    rows = rows_of(plain | {2: [0.41, 0.42, 0.41, 0.43], 3: [0.39, 0.41, 0.4, 0.4]})
    assert summarise(rows, "miou").attrs["winner"] == 1
    rows["feasible"] = rows["number"] != 1
    table = summarise(rows, "miou")
    assert table.attrs["winner"] == 2
    assert table.attrs["verdict"].endswith(" Not compared, as it failed or breaks a constraint: cwd.")
    rows.loc[rows["number"] == 0, "state"] = "FAILED"
    rows = rows[rows["replicate_of"] != 0]
    verdict = summarise(rows, "miou").attrs["verdict"]
    assert "has nothing to be compared with." in verdict
    assert verdict.endswith(" Not compared, as it failed or breaks a constraint: ce, cwd.")


def test_a_leader_that_is_worse_by_fresh_seeds_is_said_to_be() -> None:
    rows = rows_of({0: [0.40, 0.42, 0.41, 0.43], 1: [0.42, 0.40, 0.43, 0.41], 2: [0.31, 0.32, 0.31, 0.33]})
    rows.loc[rows["number"] == 2, "miou"] = 3.0
    table = summarise(rows, "miou")
    assert table["number"].iloc[0] == 2 and table.attrs["winner"] is None
    assert "leads and is worse than ce (-0.0975 [" in table.attrs["verdict"]
    assert "cannot be told" not in table.attrs["verdict"]


def test_a_setting_with_a_training_seed_of_its_own_stays_out() -> None:
    rows = rows_of({0: [0.30, 0.32, 0.31], 1: [0.31, 0.33, 0.32], 2: [0.41, 0.42, 0.41]})
    rows.loc[rows["number"] == 3, ["miou", "seed"]] = 0.9, 7
    table = summarise(rows, "miou")
    assert table.attrs["ahead"] is None and {*table["number"]} == {0, 1, 2}
    # Also where most points have one.
    more = pd.concat([rows, *(rows[rows["number"] == 3].assign(number=n) for n in range(30, 36))], ignore_index=True)
    assert {*summarise(more, "miou")["number"]} == {0, 1, 2}
