"""`--set`: by dotted path, in YAML, and in the space by the names of parameters."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from bpkd_search.config.overrides import override

TREE: dict[str, Any] = {
    "train": {"lr": 0.1},
    "loss": {"terms": [{"method": "kd"}]},
    "space": {
        "loss.edge_width": {"int": [3, 7], "step": 2, "when": {"loss.method": "bpkd"}},
        "loss.alpha": {"float": [1, 2]},
        "loss.alpha.start": {"float": [0, 1]},
    },
    "enqueue": [{"loss.edge_width": 3}],
}
APPLIED = [
    ("train.amp=off", ("train", "amp"), "off"),
    ("train.lr=1e-3", ("train", "lr"), 0.001),
    ("name=12:30", ("name",), "12:30"),
    ("loss.terms.0.weight=2", ("loss", "terms", 0, "weight"), 2),
    ("space.loss.edge_width.int=[3, 9]", ("space", "loss.edge_width", "int"), [3, 9]),
    ("space.loss.edge_width.int.1=9", ("space", "loss.edge_width", "int", 1), 9),
    ("space.loss.edge_width.when.loss.method=kd", ("space", "loss.edge_width", "when", "loss.method"), "kd"),
    ("space.loss.edge_width.when.train.amp=off", ("space", "loss.edge_width", "when", "train.amp"), "off"),
    ("space.loss.edge_width={choice: [5]}", ("space", "loss.edge_width"), {"choice": [5]}),
    ("space.loss.alpha.float=[1, 3]", ("space", "loss.alpha", "float"), [1, 3]),
    ("space.loss.alpha.start.float=[0, 3]", ("space", "loss.alpha.start", "float"), [0, 3]),
    ("space.train.lr={float: [1e-3, 1]}", ("space", "train.lr"), {"float": [0.001, 1]}),
    ("space.train.lr.float=[1e-3, 1]", ("space", "train.lr", "float"), [0.001, 1]),
    ("enqueue.0.loss.edge_width=5", ("enqueue", 0, "loss.edge_width"), 5),
    ("enqueue.0.loss.alpha=2", ("enqueue", 0, "loss.alpha"), 2),
]


@pytest.mark.parametrize(("text", "keys", "value"), APPLIED, ids=[text for text, *_ in APPLIED])
def test_one_value_is_set_and_nothing_else(text: str, keys: tuple[Any, ...], value: Any) -> None:
    tree, expected = deepcopy(TREE), deepcopy(TREE)
    inner: Any = expected
    for key in keys[:-1]:
        inner = inner.setdefault(key, {}) if isinstance(inner, dict) else inner[key]
    inner[keys[-1]] = value
    override(tree, text)
    assert tree == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.lr", "must be KEY.SUBKEY=VALUE"),
        ("train..lr=1", "must be KEY.SUBKEY=VALUE"),
        ("=1", "must be KEY.SUBKEY=VALUE"),
        ("train.lr=[1", "is not valid YAML"),
        ("loss.terms.1.weight=1", "got '1' as an index; valid: 0 to 0"),
        ("loss.terms.-1.weight=1", "got '-1' as an index"),
        ("enqueue.x=1", "got 'x' as an index"),
    ],
)
def test_what_cannot_be_applied_is_a_value_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(deepcopy(TREE), text)
