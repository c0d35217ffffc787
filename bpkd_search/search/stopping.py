"""Early stopping as plain arithmetic, without Ray: which trials continue after a report.

Values are tuples, higher is better in each place; one place for one objective. Positions are epochs or
GPU-seconds. The state is a function of the reports in their order, so replaying them restores it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from bpkd_search.config.search import Scheduler

Values = tuple[float, ...]


class Stopping(Protocol):
    """A rule for early stopping."""

    def report(self, number: int, position: float, values: Values) -> bool:
        """Whether trial `number` continues after `position`; a rung counts a trial once."""


class Asha:
    """Asynchronous successive halving (Li et al., arXiv 1810.05934), stopping variant.

    Rungs are at grace, grace * reduction, ... below the full budget. A trial that reaches a rung continues if
    it is among the best 1/reduction of those that have reached it so far, itself counted; the first ones
    always are. With several objectives the best are those of the lowest non-dominated fronts, and within a
    front those with the most room around them (crowding distance, as in NSGA-II: Deb et al. 2002).
    """

    def __init__(self, grace: float, reduction: int, full: float) -> None:
        self.grace, self.reduction, self.full = grace, reduction, full
        self.rungs: dict[float, dict[int, Values]] = {}

    def report(self, number: int, position: float, values: Values) -> bool:
        """Whether trial `number` continues; the newest rung that it has reached decides."""
        go_on, milestone = True, self.grace
        while milestone <= position and milestone < self.full:
            rung = self.rungs.setdefault(milestone, {})
            if number not in rung:
                rung[number] = values
                go_on = place(values, rung.values()) < max(1, len(rung) // self.reduction)
            milestone *= self.reduction
        return go_on


class Hyperband:
    """Asynchronous Hyperband (Li et al., arXiv 1603.06560): brackets of successive halving with later grace.

    Bracket s begins at grace * reduction^s. Trials are dealt to brackets by their number in the shares that
    Hyperband gives them, so that a restart deals the same.
    """

    def __init__(self, grace: float, reduction: int, full: float) -> None:
        self.brackets: list[Asha] = []
        while grace < full and len(self.brackets) < 5:
            self.brackets.append(Asha(grace, reduction, full))
            grace *= reduction
        if not self.brackets:
            self.brackets = [Asha(grace, reduction, full)]
        count = len(self.brackets)
        weights = [reduction ** (count - 1 - s) * count / (count - s) for s in range(count)]
        self.shares = [weight / sum(weights) for weight in weights]

    def bracket(self, number: int) -> int:
        """The bracket of a trial."""
        # Multiples of the golden ratio spread evenly over [0, 1), whatever the count.
        where = number * 0.6180339887498949 % 1.0
        for index, share in enumerate(self.shares):
            where -= share
            if where < 0:
                return index
        return len(self.shares) - 1

    def report(self, number: int, position: float, values: Values) -> bool:
        """Whether trial `number` continues in its bracket."""
        return self.brackets[self.bracket(number)].report(number, position, values)


class Median:
    """Median stopping (Golovin et al., Google Vizier, 2017).

    From `grace` on, a trial stops when its best value so far is below the median of the other trials' running
    averages at that position; at least three others must have come as far.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.seen: dict[int, list[tuple[float, float]]] = {}

    def report(self, number: int, position: float, values: Values) -> bool:
        """Whether trial `number` continues."""
        mine = self.seen.setdefault(number, [])
        if not mine or position > mine[-1][0]:
            mine.append((position, values[0]))
        if position < self.grace:
            return True
        averages = [
            statistics.fmean(value for at, value in theirs if at <= position)
            for other, theirs in self.seen.items()
            if other != number and theirs[-1][0] >= position and theirs[0][0] <= position
        ]
        best = max(value for at, value in mine if at <= position)
        return len(averages) < 3 or best >= statistics.median(averages)


class Never:
    """No early stopping."""

    def report(self, number: int, position: float, values: Values) -> bool:
        """Always go on."""
        return True


def make_rungs(scheduler: Scheduler, full: float) -> Stopping:
    """The rule that a `scheduler` block names; `full` is the whole budget in units of its axis."""
    rules: dict[str, Callable[[], Stopping]] = {
        "asha": lambda: Asha(scheduler.grace, scheduler.reduction, full),
        "hyperband": lambda: Hyperband(scheduler.grace, scheduler.reduction, full),
        "median": lambda: Median(scheduler.grace),
        "none": Never,
    }
    return rules[scheduler.name]()


def dominates(a: Values, b: Values) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and a != b


def since_improvement(ends: Iterable[Values | None]) -> int:
    """How many of the newest ends were no improvement on all before; None is an end without a full result."""
    best: list[Values] = []
    count = 0
    for values in ends:
        if values is None or any(dominates(other, values) or other == values for other in best):
            count += 1
        else:
            best, count = [other for other in best if not dominates(values, other)] + [values], 0
    return count


def place(values: Values, among: Collection[Values]) -> int:
    """How many of `among` stand before `values`: better ones, or lower fronts and then less crowded ones."""
    everyone = list(among)
    if len(values) == 1:
        return sum(other > values for other in everyone)
    before, left = 0, everyone
    while left:
        front = [v for v in left if not any(dominates(other, v) for other in left)]
        if values in front:
            room = crowding(front)
            mine = room[front.index(values)]
            return before + sum(other > mine for other in room)
        before += len(front)
        left = [v for v in left if v not in front]
    return before


def crowding(front: Sequence[Values]) -> list[float]:
    """Crowding distance of each point of a front; the ends of each objective are infinitely roomy."""
    room = [0.0] * len(front)
    for axis in range(len(front[0])):
        order = sorted(range(len(front)), key=lambda i: front[i][axis])
        span = front[order[-1]][axis] - front[order[0]][axis]
        room[order[0]] = room[order[-1]] = float("inf")
        for left, here, right in zip(order, order[1:], order[2:], strict=False):
            if span > 0:
                room[here] += (front[right][axis] - front[left][axis]) / span
    return room
