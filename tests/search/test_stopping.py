"""Successive halving, decided by hand and by a slow restatement."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpkd_search.config.search import Scheduler
from bpkd_search.search.stopping import Asha, Hyperband, Median, Never, crowding, make_rungs, place


@pytest.mark.parametrize(
    ("grace", "reduction", "full", "rungs"),
    [(1, 3, 27, [1, 3, 9]), (2, 2, 9, [2, 4, 8]), (9, 3, 9, []), (30.0, 2, float("inf"), [30, 60, 120, 240])],
)
def test_rungs_stand_below_the_full_budget(grace: float, reduction: int, full: float, rungs: list[float]) -> None:
    asha = Asha(grace, reduction, full)
    for position in range(1, 400):
        asha.report(0, position, (0.5,))
    assert list(asha.rungs) == rungs


def test_the_best_third_goes_on_and_the_first_always() -> None:
    asha = Asha(1, 3, 9)
    values = [0.5, 0.4, 0.6, 0.3, 0.55, 0.7]
    #         first  worse  best  worse  2nd of 5: 1 kept  best of 6: 2 kept
    assert [asha.report(i, 1, (v,)) for i, v in enumerate(values)] == [True, False, True, False, False, True]
    assert asha.report(2, 2, (0.0,))  # between rungs nobody is judged


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(2, 4))
def test_it_agrees_with_sorting_everything_seen(values: list[float], reduction: int) -> None:
    asha, seen = Asha(1, reduction, 100), []
    for number, value in enumerate(values):
        seen.append(value)
        kept = sorted(seen, reverse=True)[: max(1, len(seen) // reduction)]
        assert asha.report(number, 1, (value,)) == (value >= kept[-1])


def test_a_report_seen_twice_counts_once() -> None:
    asha = Asha(1, 2, 8)
    for _ in range(5):
        assert asha.report(0, 1, (0.5,))
    assert asha.rungs[1] == {0: (0.5,)}


def test_replaying_reports_restores_every_rung() -> None:
    reports = [(n, e, (random.Random(n * 31 + e).random(),)) for n in range(30) for e in (1, 3, 9)]
    first, second = Asha(1, 3, 27), Asha(1, 3, 27)
    for report in reports:
        first.report(*report)
    for report in reports:
        second.report(*report)
    assert first.rungs == second.rungs
    assert all(first.report(99, e, (0.8,)) == second.report(99, e, (0.8,)) for e in (1, 3, 9))


def test_none_never_stops() -> None:
    assert isinstance(make_rungs(Scheduler(name="none"), 9), Never)
    assert make_rungs(Scheduler(name="none"), 9).report(0, 1, (-1.0,))


def test_seconds_reach_every_rung_that_they_pass_and_the_newest_decides() -> None:
    asha = Asha(10.0, 2, math.inf)
    assert asha.report(0, 45.0, (0.5,))
    assert {m: sorted(rung) for m, rung in asha.rungs.items()} == {10: [0], 20: [0], 40: [0]}
    assert not asha.report(1, 12.0, (0.4,))


def test_hyperband_deals_more_trials_to_the_hasty_brackets_and_deals_them_again_alike() -> None:
    band = Hyperband(1, 3, 27)
    assert [b.grace for b in band.brackets] == [1, 3, 9]
    dealt = [band.bracket(n) for n in range(3000)]
    counts = [dealt.count(s) / 3000 for s in range(3)]
    # Hyperband's own numbers for eta 3: 9, 4.5 and 3 starts, rounded shares.
    assert counts == pytest.approx([9 / 16.5, 4.5 / 16.5, 3 / 16.5], abs=0.01)
    assert dealt == [Hyperband(1, 3, 27).bracket(n) for n in range(3000)]


def test_each_bracket_judges_its_own() -> None:
    band = Hyperband(1, 2, 4)
    late = next(n for n in range(99) if band.bracket(n) == 1)
    early = [n for n in range(99) if band.bracket(n) == 0][:2]
    assert band.report(early[0], 1, (0.9,))
    assert not band.report(early[1], 1, (0.1,))
    assert band.report(late, 1, (0.0,))  # its first rung stands at 2


def test_median_stops_what_is_below_the_others_averages() -> None:
    median = Median(2)
    curves = {0: [0.1, 0.3], 1: [0.2, 0.4], 2: [0.3, 0.5]}
    for number, curve in curves.items():
        for epoch, value in enumerate(curve, 1):
            assert median.report(number, epoch, (value,))
    # Averages by epoch 2: 0.2, 0.3, 0.4; their median is 0.3.
    assert statistics.median([0.2, 0.3, 0.4]) == 0.3
    assert median.report(3, 1, (0.0,))
    assert not median.report(3, 2, (0.29,))
    assert median.report(4, 2, (0.31,))


point = st.tuples(st.integers(0, 5), st.integers(0, 5)).map(lambda p: (float(p[0]), float(p[1])))
points = st.lists(point, min_size=1, max_size=12)


@given(points)
def test_places_follow_fronts_that_are_peeled_one_by_one(values: list[tuple[float, float]]) -> None:
    fronts: dict[tuple[float, float], int] = {}
    left, depth = list(values), 0
    while left:
        front = [v for v in left if not any(o[0] >= v[0] and o[1] >= v[1] and o != v for o in left)]
        fronts |= dict.fromkeys(front, depth)
        left, depth = [v for v in left if v not in front], depth + 1
    for a in values:
        for b in values:
            if fronts[a] < fronts[b]:
                assert place(a, values) < place(b, values)


def test_ends_of_a_front_are_roomier_than_its_crowded_middle() -> None:
    front = [(0.0, 1.0), (0.5, 0.5), (0.55, 0.45), (1.0, 0.0)]
    room = crowding(front)
    assert room[0] == room[3] == math.inf
    assert room[1] == pytest.approx(0.55 + 0.55)
    assert room[2] == pytest.approx(0.5 + 0.5)
