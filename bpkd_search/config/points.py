"""Points of a search space: how one is laid over the base run, and which of them every search tries first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from bpkd_search.config.loss import Loss, terms_of
from bpkd_search.config.models import RunConfig, SearchConfig
from bpkd_search.config.networks import Teacher
from bpkd_search.config.paths import get_path, set_path
from bpkd_search.config.software import software_of
from bpkd_search.config.space import Choice, Distribution, FloatRange, IntRange
from bpkd_search.errors import CheckpointError
from bpkd_search.losses.methods import METHODS, Bpkd

PAPER = "bpkd-paper"
# What every search runs first and at full budget: no distillation, the two plain rivals, and the setting of
# the paper (arXiv 2306.08075). Without them beside it, nobody can tell whether a searched setting is any good.
BASELINES: dict[str, dict[str, Any]] = {
    "ce": {"method": "ce"},
    "kd": {"method": "kd"},
    "cwd": {"method": "cwd"},
    PAPER: Bpkd().model_dump(),
}
# One more where the teacher's features are at hand: at equal seconds, the plain rival that BPKD has most to fear
# (arXiv 2604.25530).
FEATURE_BASELINE = {"feature_mse": {"method": "feature_mse"}}
# What a searched setting has to beat to be worth its search: no distillation counts too.
PLAIN_BASELINES = tuple(name for name in (*BASELINES, *FEATURE_BASELINE) if name != PAPER)

Point = dict[str, Any]


def to_tree(block: BaseModel) -> dict[str, Any]:
    """A block as plain YAML and JSON values."""
    return block.model_dump(mode="json", by_alias=True)


def column_kind(distribution: Distribution) -> str:
    """The type of a parameter's column in the tables: float, int, bool or string."""
    if not isinstance(distribution, Choice):
        return "float" if isinstance(distribution, FloatRange) else "int"
    types = {type(option) for option in distribution.options}
    if len(types) == 1:
        return {bool: "bool", int: "int", float: "float"}.get(types.pop(), "string")
    return "float" if types <= {int, float} else "string"


def from_column(distribution: Distribution, cell: Any) -> Any:
    """The value that a cell of a parameter's column stands for: one of mixed choices is stored as text or as float."""
    value = cell.item() if hasattr(cell, "item") else cell
    options = getattr(distribution, "options", ())
    same = [option for option in options if option == value and type(option) is type(value)]
    close = [option for option in options if option == value or str(option) == str(value)]
    return (same or close or [value])[0]


def lay(tree: dict[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a point over a plain tree in place.

    Another `loss.method` than the tree's replaces the loss block by the method's defaults: keys of one method mean
    nothing to another.
    """
    method = point.get("loss.method")
    if method is not None and method != tree.get("loss", {}).get("method", "bpkd"):
        tree["loss"] = to_tree(METHODS[method](method=method)) if method in METHODS else {"method": method}
    for path, value in point.items():
        set_path(tree, path, value)
    return tree


def run_at(base: RunConfig, point: Mapping[str, Any]) -> RunConfig:
    """The base run with the point's values in place, validated."""
    return RunConfig.model_validate(lay(to_tree(base), point))


def baselines_of(config: SearchConfig) -> dict[str, dict[str, Any]]:
    """The losses of a search's baselines by name, in the order in which they run."""
    return BASELINES | FEATURE_BASELINE if config.search.feature_baseline else BASELINES


def with_feature_baseline(config: SearchConfig) -> SearchConfig:
    """The configuration of a new search, which says for good whether plain feature KD is one of its baselines.

    It is by default where the teacher runs online in any case and gives its features.
    """
    if config.search.feature_baseline is not None:
        return config
    mode = config.teacher.mode
    if (mode == "online" or (mode == "auto" and needs_features(config))) and _has_features(config.teacher):
        return config.model_copy(update={"search": config.search.model_copy(update={"feature_baseline": True})})
    return config


def _has_features(teacher: Teacher) -> bool:
    """Whether a teacher is known to give features: those of other software do not."""
    try:
        return software_of(teacher) == "own"
    except CheckpointError:  # which is said when it is opened
        return False


def baseline_run(base: RunConfig, name: str) -> RunConfig:
    """The base run with the loss of a baseline."""
    return RunConfig.model_validate({**to_tree(base), "loss": (BASELINES | FEATURE_BASELINE)[name]})


def is_active(distribution: Distribution, base: Mapping[str, Any], point: Mapping[str, Any]) -> bool:
    """Whether the parameter's `when` holds, given the parameters chosen so far."""
    for path, wanted in distribution.when.items():
        try:
            value = point[path] if path in point else get_path(base, path)
        except KeyError:
            return False
        if value not in (wanted if isinstance(wanted, list | tuple) else [wanted]):
            return False
    return True


def in_order(space: Mapping[str, Distribution]) -> Iterator[tuple[str, Distribution]]:
    """The parameters so that each comes after those its `when` names; `ValueError` on a circle."""
    left = dict(space)
    while left:
        ready = [path for path, d in left.items() if not any(other in left for other in d.when)]
        if not ready:
            raise ValueError(f"when: {', '.join(left)} depend on one another in a circle")
        for path in ready:
            yield path, left.pop(path)


def active_part(space: Mapping[str, Distribution], base: Mapping[str, Any], point: Mapping[str, Any]) -> Point:
    """The values of those parameters whose `when` holds, in the order in which they are chosen."""
    active = Point()
    for path, distribution in in_order(space):
        if is_active(distribution, base, active):
            active[path] = point.get(path)
    return active


def point_of(space: Mapping[str, Distribution], base: Mapping[str, Any], values: Mapping[str, Any]) -> Point | None:
    """The point with these values of its active parameters; None where the space cannot take one of them."""
    point = active_part(space, base, values)
    return point if all(can_take(space[path], value) for path, value in point.items()) else None


def holds(distribution: Distribution, value: Any) -> bool:
    """Whether the distribution can give the value."""
    if isinstance(distribution, Choice):
        return any(value == option and type(value) is type(option) for option in distribution.options)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = distribution.bounds
    if not low <= value <= high:
        return False
    steps = (value - low) / distribution.step if distribution.step else 0
    return abs(steps - round(steps)) < 1e-9


def can_take(distribution: Distribution, value: Any) -> bool:
    """Whether a study can hold the value; `1` and `1.0` are the same there, `1` and `true` are not."""
    if isinstance(distribution, Choice):
        options = distribution.options
        return any(value == option and isinstance(value, bool) == isinstance(option, bool) for option in options)
    return holds(distribution, value)


def coordinates(space: Mapping[str, Distribution], base: RunConfig, run: RunConfig) -> Point | None:
    """The point of the space that gives a run: its value of every active parameter; None if the run is outside.

    A run is in the space only if the space's point gives exactly that run.
    """
    tree, point = to_tree(run), Point()
    for path, distribution in in_order(space):
        if is_active(distribution, tree, point):
            try:
                point[path] = get_path(tree, path)
            except KeyError:
                return None
            if not holds(distribution, point[path]):
                return None
    try:
        return point if to_tree(run_at(base, point)) == tree else None
    except ValueError:
        return None


def probe_values(distribution: Distribution) -> list[Any]:
    """Values that show whether everything a distribution can give is valid: ends, choices, whole numbers."""
    if isinstance(distribution, Choice):
        return list(distribution.options)
    low, high = distribution.bounds
    if isinstance(distribution, IntRange):
        return list(dict.fromkeys([*list(range(int(low), int(high) + 1, distribution.step))[:64], int(high)]))
    assert isinstance(distribution, FloatRange)
    return [low, high]


def combinations(
    config: SearchConfig, prefix: str, values: Callable[[str, Distribution], Sequence[Any]], most: int = 256
) -> list[Point]:
    """Return points of the parameters below `prefix` and of those they depend on: every combination of their `values`.

    There are `most` at most.
    """
    wanted = {path for path in config.space if path.startswith(prefix)}
    while more := {other for path in wanted for other in config.space[path].when if other in config.space} - wanted:
        wanted |= more
    base, points = to_tree(config.run()), [Point()]
    for path, distribution in in_order({path: config.space[path] for path in config.space if path in wanted}):
        options = values(path, distribution)
        points = [
            longer
            for point in points
            for longer in (
                [{**point, path: value} for value in options] if is_active(distribution, base, point) else [point]
            )
        ][:most]
    return [point for point in points if point]


def losses_of(config: RunConfig) -> list[tuple[Point, Loss]]:
    """Return the loss of a run, and those of other methods, functions or needs that its search may choose.

    Each comes with its point, which is empty for the first; other parameters have one value that they may take.
    """
    found: list[tuple[Point, Loss]] = [(Point(), config.loss)]
    if isinstance(config, SearchConfig):
        run = config.run()
        points = combinations(config, "loss.", _kinds)
        found += [(point, run_at(run, point).loss) for point in points]
    return found


def needs_features(config: RunConfig) -> bool:
    """Whether the loss of a run, or one that its search may choose or has as a baseline, reads the teacher's features.

    If so, the teacher runs online.
    """
    found = [loss for _, loss in losses_of(config)]
    if isinstance(config, SearchConfig) and config.search.feature_baseline:
        found += [baseline_run(config.run(), name).loss for name in FEATURE_BASELINE]
    return any(term.needs == "teacher features" for loss in found for term in terms_of(loss))


def _kinds(path: str, distribution: Distribution) -> Sequence[Any]:
    decides = path.startswith("loss.") and path.rpartition(".")[2] in ("method", "function", "needs")
    return probe_values(distribution) if decides else probe_values(distribution)[:1]
