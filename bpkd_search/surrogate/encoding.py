"""Points of a space as vectors of equal length, for a model of the space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpkd_search.config.distributions import distance
from bpkd_search.config.points import Point
from bpkd_search.config.space import Choice, Distribution

Vectors = NDArray[np.float64]
Hint = Callable[[Sequence[Mapping[str, Any]]], Vectors]
# Two options of a choice are then as far apart as the two ends of a range.
_ONE = math.sqrt(0.5)


class Encoding:
    """Vectors of the points of a space, around zero.

    A range becomes its share of the range (of the log range, if it is log) less a half, a choice one place for each
    option. A parameter that a point lacks, as its `when` does not hold, is in the middle: only the choice that it
    depends on then tells such points apart. `hint` gives one place more for each point, between -0.5 and 0.5.
    """

    def __init__(self, space: Mapping[str, Distribution], hint: Hint | None = None) -> None:
        self.space = {path: distribution for path, distribution in space.items() if not _is_fixed(distribution)}
        self._hint = hint
        self.width = sum(len(d.options) if isinstance(d, Choice) else 1 for d in self.space.values())
        self.width += hint is not None

    def vectors(self, points: Iterable[Mapping[str, Any]]) -> Vectors:
        """Float64 [points, width]."""
        points = list(points)
        rows = [self._vector(point) for point in points]
        if self._hint is not None and points:
            rows = [[*row, float(hint)] for row, hint in zip(rows, self._hint(points), strict=True)]
        return np.array(rows, dtype=np.float64).reshape(len(rows), self.width)

    def _vector(self, point: Mapping[str, Any]) -> list[float]:
        found: list[float] = []
        for path, distribution in self.space.items():
            if isinstance(distribution, Choice):
                found += [_ONE * (path in point and point[path] == option) for option in distribution.options]
            elif path in point:
                found.append(distance(distribution, point[path], distribution.bounds[0]) - 0.5)
            else:
                found.append(0.0)
        return found


def parameters_of(names: Iterable[str], row: Mapping[str, Any]) -> Point:
    """The point of a table's row: its values without those that are empty."""
    values = {name: row[name] for name in names}
    return {name: value for name, value in values.items() if value is not None and value == value}


def _is_fixed(distribution: Distribution) -> bool:
    if isinstance(distribution, Choice):
        return len(distribution.options) == 1
    return distribution.bounds[0] == distribution.bounds[1]
