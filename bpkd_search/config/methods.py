"""Equal tuning of several methods, `search.methods`: the space that it stands for, and the part that is each method's.

A part is a search of one method alone, whose space has no `loss.method`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from bpkd_search.config.models import RunConfig, SearchConfig
from bpkd_search.config.points import Point, lay, probe_values, to_tree
from bpkd_search.config.space import Choice, Distribution
from bpkd_search.losses.methods import METHODS, loss_method

METHOD = "loss.method"


def expand(tree: dict[str, Any]) -> None:
    """Put the space that `search.methods` stands for into a plain tree, in place.

    That is `loss.method` and the ranges of each method's entry. A parameter that the tree's own space has stays as it
    is; one below `loss` whose `when` names no method is of all those methods that have it. What is not valid is left
    for the validation to report. An expanded tree stays as it is.
    """
    search, given = tree.get("search"), tree.get("space") or {}
    names = search.get("methods") if isinstance(search, dict) else None
    known = _known(names) if isinstance(names, list | tuple) else []
    if not known or not isinstance(given, dict):
        return
    space: dict[str, Any] = {METHOD: {"choice": known}}
    for name in known:
        for key, distribution in loss_method(name).ranges.items():
            takers = [other for other in known if key in loss_method(other).ranges]
            space[f"loss.{key}"] = {**distribution, "when": {METHOD: _one_or_all(takers)}}
    space |= {path: _of_its_methods(str(path), distribution, known) for path, distribution in given.items()}
    tree["space"] = space


def _known(names: Any) -> list[str]:
    valid = [*METHODS, "custom"]
    return list(dict.fromkeys(name for name in names if name in valid))


def _of_its_methods(path: str, distribution: Any, names: list[str]) -> Any:
    """A parameter as the user gives it, with a `when` if it is one of a loss and has none of its method."""
    when = distribution.get("when", {}) if isinstance(distribution, dict) else None
    key = path.removeprefix("loss.").partition(".")[0]
    takers = [name for name in names if key in loss_method(name).model_fields]
    if not path.startswith("loss.") or path == METHOD or not isinstance(when, dict) or METHOD in when or not takers:
        return distribution
    return {**distribution, "when": {METHOD: _one_or_all(takers), **when}}


def _one_or_all(names: list[str]) -> str | list[str]:
    return names[0] if len(names) == 1 else names


def method_faults(config: SearchConfig) -> list[str]:
    """What is wrong with `search.methods`: another `loss.method`, a method without parameters, too few trials, help."""
    search, names = config.search, config.search.methods
    if not names:
        return []
    faults, chosen = [], config.space.get(METHOD)
    if not isinstance(chosen, Choice) or chosen.options != names or chosen.when:
        faults.append(f"space.{METHOD}: is given by search.methods, {', '.join(names)}; leave it out")
    for position, name in enumerate(names):
        if not own_space(config, name):
            runs = "; it runs as a baseline in any case" if name == "ce" else ""
            faults.append(
                f"search.methods.{position}: got {name}, which has no ranges to search: give it some under space, or"
                f" leave it out{runs}"
            )
    if search.warm_start:
        faults.append(
            f"search.warm_start: got {len(search.warm_start)} experiment(s), must be empty with search.methods: those"
            " that other searches know would be tuned better"
        )
    trials = max(search.trials, len(config.enqueue))
    given = Counter(str(point.get(METHOD, config.loss.method)) for point in config.enqueue)
    method, most = max(given.items(), key=lambda item: item[1], default=("", 0))
    if trials < len(names):
        faults.append(f"search.trials: got {trials}, must be at least {len(names)}, one for each of search.methods")
    elif search.budget.gpu_hours is None and trials < most * len(names):
        faults.append(
            f"search.trials: got {trials}, must be at least {most * len(names)}: enqueue gives {method} {most}, and"
            f" each of {len(names)} search.methods gets as many"
        )
    return faults


def parts(config: SearchConfig) -> dict[str, SearchConfig]:
    """The searches that are tuned apart, each of `search.methods` by its name; without these the whole as ``""``."""
    return {name: part(config, name) for name in config.search.methods} or {"": config}


def part(config: SearchConfig, name: str) -> SearchConfig:
    """The search of one of `search.methods` alone."""
    space = own_space(config, name)
    required = {f"loss.{key}" for key, field in loss_method(name).model_fields.items() if field.is_required()}
    needed = {path: probe_values(space[path])[0] for path in required if path in space}
    run = RunConfig.model_validate(lay(to_tree(config.run()), {METHOD: name, **needed}))
    return config.model_copy(
        update={
            "name": f"{config.name}-{name}",
            "loss": run.loss,
            "space": space,
            "enqueue": (),
            "search": config.search.model_copy(update={"methods": (name,)}),
        }
    )


def own_space(config: SearchConfig, name: str) -> dict[str, Distribution]:
    """The parameters that are sampled for one of `search.methods`, without `loss.method`."""
    found = {}
    for path, distribution in config.space.items():
        wanted = distribution.when.get(METHOD, name)
        if path != METHOD and name in (wanted if isinstance(wanted, list | tuple) else [wanted]):
            when = {other: value for other, value in distribution.when.items() if other != METHOD}
            found[path] = distribution.model_copy(update={"when": when})
    return found


def own_point(point: Point) -> Point:
    """A point without `loss.method`: where it is in the space of its method."""
    return {path: value for path, value in point.items() if path != METHOD}
