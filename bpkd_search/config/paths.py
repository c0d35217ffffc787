"""Dotted paths into nested mappings and sequences, such as `loss.terms.1.edge_weight`."""

from __future__ import annotations

from collections.abc import Mapping
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


def set_path(tree: Any, path: str, value: Any) -> None:
    """Set the value at a dotted path in place, creating missing mappings; list items are addressed by index."""
    *parents, last = path.split(".")
    for key in parents:
        if isinstance(tree, list):
            tree = tree[int(key)]
        else:
            if not isinstance(tree.get(key), dict | list):
                tree[key] = {}
            tree = tree[key]
    if isinstance(tree, list):
        tree[int(last)] = value
    else:
        tree[last] = value
