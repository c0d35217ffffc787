"""Dotted paths into nested mappings and sequences, such as `loss.terms.1.edge_weight`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def get_path(tree: Any, path: str) -> Any:
    """The value at a dotted path; list items are addressed by index. Raises `KeyError` if there is none."""
    for key in path.split("."):
        if isinstance(tree, list | tuple) and key.isdigit() and int(key) < len(tree):
            tree = tree[int(key)]
        elif isinstance(tree, Mapping) and key in tree:
            tree = tree[key]
        else:
            raise KeyError(path)
    return tree


def find(tree: Any, path: str) -> Any:
    """The value at a dotted path, or None if there is none."""
    try:
        return get_path(tree, path)
    except KeyError:
        return None


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a nested mapping by dotted path; a list is a value."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def set_path(tree: Any, path: str | Sequence[str], value: Any) -> None:
    """Set the value at a dotted path, or at a sequence of keys, in place.

    Missing mappings are created; list items are addressed by index. Raises `ValueError` for an index that is not
    in its list.
    """
    *parents, last = path.split(".") if isinstance(path, str) else path
    for key in parents:
        if isinstance(tree, list):
            position = _index(tree, key)
            if not isinstance(tree[position], dict | list):
                tree[position] = {}
            tree = tree[position]
        else:
            if not isinstance(tree.get(key), dict | list):
                tree[key] = {}
            tree = tree[key]
    if isinstance(tree, list):
        tree[_index(tree, last)] = value
    else:
        tree[last] = value


def _index(items: list[Any], key: str) -> int:
    if not (key.isdecimal() and int(key) < len(items)):
        valid = f"valid: 0 to {len(items) - 1}" if items else "the list is empty"
        raise ValueError(f"got {key!r} as an index; {valid}")
    return int(key)
