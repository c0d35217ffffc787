"""`--set KEY=VALUE`: one value of a plain tree, by its dotted path."""

from __future__ import annotations

from typing import Any

from bpkd_search.config.paths import set_path
from bpkd_search.config.yaml_text import read_text

# Keys of a distribution, which end the name of a parameter that is new in the space.
_DISTRIBUTION_KEYS = {"float", "int", "choice", "step", "log", "when"}


def override(tree: dict[str, Any], text: str) -> None:
    """Set what `KEY=VALUE` says in place; the value is YAML. Raises `ValueError` for a text that cannot be applied."""
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise ValueError("must be KEY.SUBKEY=VALUE")
    set_path(tree, _keys(tree, path), read_text(value))


def _keys(tree: dict[str, Any], path: str) -> list[str]:
    """The keys of a path. Below `space` and `enqueue`, the name of a parameter is one key, with the dots in it."""
    first, _, rest = path.partition(".")
    if first == "space" and rest:
        name = _parameter(tree.get("space"), rest)
        # A key of the distribution; below it an index, or in `when` a parameter again.
        inner = rest[len(name) + 1 :].split(".", 1) if rest != name else []
        return [first, name, *inner]
    return [first, *rest.split(".", 1)] if first == "enqueue" and rest else path.split(".")


def _parameter(space: Any, rest: str) -> str:
    """The parameter that the rest of a path begins with: the longest known one, else up to a distribution's key."""
    known = [name for name in space if f"{rest}.".startswith(f"{name}.")] if isinstance(space, dict) else []
    if known:
        return str(max(known, key=len))
    parts = rest.split(".")
    end = next((i for i, part in enumerate(parts) if i and part in _DISTRIBUTION_KEYS), len(parts))
    return ".".join(parts[:end])
