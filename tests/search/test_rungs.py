"""Successive halving, decided by hand and by a slow restatement."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from bpkd_search.config.models import Scheduler
from bpkd_search.search.rungs import Asha, Never, make_rungs


def test_rungs_stand_below_the_full_budget() -> None:
    assert list(Asha(1, 3, 27).rungs) == [1, 3, 9]
    assert list(Asha(2, 2, 9).rungs) == [2, 4, 8]
    assert list(Asha(9, 3, 9).rungs) == []


def test_the_best_third_goes_on_and_the_first_always() -> None:
    asha = Asha(1, 3, 9)
    values = [0.5, 0.4, 0.6, 0.3, 0.55, 0.7]
    #         first  worse  best  worse  2nd of 5: 1 kept  best of 6: 2 kept
    assert [asha.report(i, 1, v) for i, v in enumerate(values)] == [True, False, True, False, False, True]
    assert asha.report(2, 2, 0.0)  # between rungs nobody is judged


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(2, 4))
def test_it_agrees_with_sorting_everything_seen(values: list[float], reduction: int) -> None:
    asha, seen = Asha(1, reduction, 100), []
    for number, value in enumerate(values):
        seen.append(value)
        kept = sorted(seen, reverse=True)[: max(1, len(seen) // reduction)]
        assert asha.report(number, 1, value) == (value >= kept[-1])


def test_a_report_seen_twice_counts_once() -> None:
    asha = Asha(1, 2, 8)
    for _ in range(5):
        assert asha.report(0, 1, 0.5)
    assert asha.rungs[1] == {0: 0.5}


def test_replaying_reports_restores_every_rung() -> None:
    reports = [(n, e, random.Random(n * 31 + e).random()) for n in range(30) for e in (1, 3, 9)]
    first, second = Asha(1, 3, 27), Asha(1, 3, 27)
    for report in reports:
        first.report(*report)
    for report in reports:
        second.report(*report)
    assert first.rungs == second.rungs
    assert all(first.report(99, e, 0.8) == second.report(99, e, 0.8) for e in (1, 3, 9))


def test_none_never_stops() -> None:
    assert isinstance(make_rungs(Scheduler(name="none"), 9), Never)
    assert make_rungs(Scheduler(name="none"), 9).report(0, 1, -1.0)
