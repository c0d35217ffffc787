"""A data set of the user behind the protocol: defaults, checks, identity."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bpkd_search.data import open_split
from bpkd_search.errors import ConfigError, DataError

OWN = """
import torch

class Own:
    class_names = ["a", "b"]
    def __init__(self, samples, **more):
        self.samples = samples
        vars(self).update(more)
    def __len__(self):
        return len(self.samples)
    def __getitem__(self, index):
        return self.samples[index]

def sample(value=1, size=(4, 6)):
    return torch.full((3, *size), 9, dtype=torch.uint8), torch.full(size, value, dtype=torch.uint8)

def sound(root, split, *, count=2):
    return Own([sample(index % 2) for index in range(count)])

def rich(root, split):
    return Own([sample()], names=[f"{root.name}/{split}"], palette=[(1, 2, 3), (4, 5, 6)], identity=lambda: "v2")

def faulty(root, split, what):
    image, label = sample()
    if what == "open":
        raise OSError("no such file: list.txt")
    return {
        "empty": lambda: Own([]),
        "names": lambda: Own([sample(), sample()], names=["a", "a"]),
        "classes": lambda: Own([sample()], class_names=["a", "b", "a"]),
        "palette": lambda: Own([sample()], palette=[(0, 0, 0)]),
        "length": lambda: type("Bare", (), {"class_names": ["a"]})(),
        "size": lambda: Own([(image, label[:2])]),
        "numpy": lambda: Own([(image.numpy(), label)]),
        "raises": lambda: Own([None]),
    }[what]()
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_data", raising=False)


def opened(name: str, split: str = "train", **options: Any) -> Any:
    return open_split("custom", split, factory=f"own_data:{name}", arguments=options, root=Path("somewhere"))


def test_what_is_left_out_has_a_default() -> None:
    data = opened("sound")
    assert (data.class_names, data.names, data.ignore_index) == (("a", "b"), ["train_00000", "train_00001"], 255)
    assert len(data) == 2 and len(data.palette) == 2
    image, label = data[1]
    assert image.shape == (3, 4, 6) and torch.equal(label, torch.ones(4, 6, dtype=torch.uint8))
    keys = [
        opened("sound", *split, **given).identity() for split, given in (((), {}), (("val",), {}), ((), {"count": 3}))
    ]
    assert len(set(keys)) == 3 and keys[0] == opened("sound").identity()


def test_what_is_given_is_used() -> None:
    data = opened("rich")
    assert (data.names, data.palette) == (["somewhere/train"], ((1, 2, 3), (4, 5, 6)))


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        ("open", "own_data:faulty raised OSError: no such file: list.txt for the train split"),
        ("empty", "has no samples"),
        ("names", "names has 1 different names, must have one for each of 2 samples"),
        ("classes", "class_names has 'a' more than once, must be distinct"),
        ("palette", "palette has 1 colours, must have one for each of 2 classes"),
        ("length", "has no __len__ and no __getitem__"),
        ("size", "sample train_00000: image is [3, 4, 6], label [2, 6]: sizes differ"),
        ("numpy", "sample train_00000: image is a ndarray, must be a tensor uint8 [3, H, W]"),
        ("raises", "sample train_00000 raised TypeError"),
    ],
)
def test_faults_are_one_sentence(what: str, fault: str) -> None:
    with pytest.raises(DataError) as error:
        opened("faulty", what=what)[0]
    assert str(error.value).startswith("data.custom.factory: ") and fault in str(error.value)


def test_arguments_are_compared_with_the_signature() -> None:
    with pytest.raises(ConfigError, match=r"data\.custom\.arguments\.cuont: own_data:sound has no such argument"):
        opened("sound", cuont=3)
