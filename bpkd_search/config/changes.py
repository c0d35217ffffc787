"""What of a search may change after it has begun: how long it goes on, how many trials run at once, and its ranges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from bpkd_search.blocks import in_words
from bpkd_search.config.checks import cross_faults
from bpkd_search.config.models import SearchConfig
from bpkd_search.config.overrides import override
from bpkd_search.config.paths import leaves, set_path
from bpkd_search.config.points import column_kind, to_tree
from bpkd_search.config.space import Distribution
from bpkd_search.errors import ConfigError

CHANGEABLE = ("search.trials", "search.budget", "search.concurrent", "search.on_end")
_VALID = f"valid: {', '.join(CHANGEABLE)}, and the ranges and choices of `space`"
_SPACE, _TRIALS = "space.", "search.trials"

# By dotted path, the value before and the value after; a parameter of the space is one value.
Changes = dict[str, tuple[Any, Any]]


def changes_by(config: SearchConfig, settings: Sequence[str], more_trials: int, tried: int) -> Changes:
    """What `--set` settings and `more_trials` change in a search of which `tried` points of `enqueue` were tried.

    Raises `ConfigError` with every error: a key that may not change, and a value that is not valid.
    """
    tree, faults = to_tree(config), list[str]()
    tree["search"]["trials"] += more_trials
    for text in settings:
        try:
            if more_trials and text.partition("=")[0].strip() == _TRIALS:
                raise ValueError(f"is given beside {more_trials} more trials; one of the two is enough")
            override(tree, text)
        except ValueError as e:
            faults.append(f"--set {text}: {e}")
    try:
        new = SearchConfig.model_validate(tree)
    except ValidationError as e:
        faults += [in_words(SearchConfig, error) for error in e.errors()]
    if faults:
        raise ConfigError(faults, config.name)
    faults += list(_refused(config, new))
    # What was valid when the search began stays so, and what was tried may lie outside from now on.
    known = set(cross_faults(config))
    # Other methods are refused above.
    search = new.search.model_copy(update={"methods": config.search.methods})
    left = new.model_copy(update={"enqueue": new.enqueue[tried:], "search": search})
    faults += [fault for fault in cross_faults(left) if fault not in known]
    if faults:
        raise ConfigError(faults, config.name)
    old, now = dict(_values(config)), dict(_values(new))
    return {path: (old[path], value) for path, value in now.items() if value != old[path]}


def with_changes(config: SearchConfig, changes: Mapping[str, Sequence[Any]], *, undo: bool = False) -> SearchConfig:
    """The configuration with the values after the changes, or before them; the same object without changes."""
    return SearchConfig.model_validate(lay_changes(to_tree(config), changes, undo=undo)) if changes else config


def lay_changes(tree: dict[str, Any], changes: Mapping[str, Sequence[Any]], *, undo: bool = False) -> dict[str, Any]:
    """Lay the values after the changes, or before them, over a plain tree in place."""
    for path, values in changes.items():
        keys = ["space", path.removeprefix(_SPACE)] if path.startswith(_SPACE) else path
        set_path(tree, keys, values[0 if undo else 1])
    return tree


def changes_space(changes: Mapping[str, Any]) -> bool:
    """Whether a parameter of the space is among the changes."""
    return any(path.startswith(_SPACE) for path in changes)


def _values(config: SearchConfig) -> Iterator[tuple[str, Any]]:
    """What may change, by path."""
    tree = to_tree(config)
    yield from ((path, value) for path, value in leaves(tree) if _is_changeable(path))
    yield from ((_SPACE + path, distribution) for path, distribution in tree["space"].items())


def _refused(old: SearchConfig, new: SearchConfig) -> Iterator[str]:
    then, now = to_tree(old), to_tree(new)
    before, after = (dict(leaves({k: v for k, v in tree.items() if k != "space"})) for tree in (then, now))
    for path in dict.fromkeys([*before, *after]):
        if before.get(path) != after.get(path) and not _is_changeable(path):
            yield f"{path}: cannot change in a search that has begun; {_VALID}"
    for path in dict.fromkeys([*old.space, *new.space]):
        if path not in new.space or path not in old.space:
            how = "cannot be removed" if path in old.space else "is no parameter of this search"
            yield f"space.{path}: {how}; start a new search, with search.warm_start to learn from this one"
        elif not _is_alike(old.space[path], new.space[path]):
            rule = "cannot become another kind of parameter, or get another `when`; valid: other ranges and choices"
            yield f"space.{path}: was {then['space'][path]}, {rule}"


def _is_changeable(path: str) -> bool:
    return any(path == key or path.startswith(f"{key}.") for key in CHANGEABLE)


def _is_alike(old: Distribution, new: Distribution) -> bool:
    return type(old) is type(new) and old.when == new.when and column_kind(old) == column_kind(new)
