"""Networks of a user's factory: what they give, and what is said of those that do not fit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from bpkd_search.config.networks import Student
from bpkd_search.config.points import to_tree
from bpkd_search.errors import ConfigError
from bpkd_search.models.build import build_model
from bpkd_search.models.checkpoint import read_weights, save_weights
from bpkd_search.models.factory import FactoryNetwork, build_network
from bpkd_search.models.inference import predict_classes, predict_logits

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width):
        super().__init__()
        self.channels = width
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images):
        features = torch.relu(self.stem(images / 255))
        return self.head(features), features

def net(num_classes, *, width=4):
    return Net(num_classes, width)

def plain(num_classes):
    return nn.Conv2d(3, num_classes, 1)

def tied(num_classes):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, num_classes, 1))
    net[1].weight = net[0].weight
    return net

class Says(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, images):
        return self.answer(images)

def answers(num_classes, what):
    return Says({
        "classes": lambda x: x.new_zeros(len(x), num_classes + 1, 8, 8),
        "flat": lambda x: x.new_zeros(len(x), num_classes),
        "dict": lambda x: {"out": x},
        "int": lambda x: torch.zeros(len(x), num_classes, 8, 8, dtype=torch.int64),
        "features": lambda x: (x.new_zeros(len(x), num_classes, 8, 8), x),
    }[what])

def raises(num_classes):
    raise OSError("no such file: weights.pt")

def list_of(num_classes):
    return [num_classes]

def nothing():
    return None

NUMBER = 3
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `own_nets` below the working directory, which is not on Python's path."""
    (tmp_path / "own_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)


def test_a_network_is_the_user_s_own_on_float_images() -> None:
    network = build_network("own_nets:net", {"width": 6}, 5)
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    logits, features, auxiliary = network.outputs(images)
    own = network.network
    expected = own.head(torch.relu(own.stem(images.float() / 255)))
    assert torch.equal(logits, expected) and torch.equal(own.head(features), logits)
    assert (auxiliary, network.channels, network.num_classes) == (None, 6, 5)
    assert torch.equal(network(images), expected)
    assert [part for part in network.heads()] == [own.head]


def test_initial_weights_depend_on_the_seed_alone() -> None:
    spec = Student(factory="own_nets:net", arguments={"width": 6})
    one, same, other = (build_model(spec, 5, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["network.stem.weight"], other["network.stem.weight"])


def test_it_predicts_whole_images_as_itself() -> None:
    network = build_network("own_nets:plain", {}, 5).eval()
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    expected = network.network(images.float())
    assert torch.allclose(predict_logits(network, images), expected, rtol=1e-5)
    assert torch.equal(predict_classes(network, images, (32, 48)), expected.argmax(1))


def test_weights_are_saved_and_loaded_also_where_some_are_tied(tmp_path: Path) -> None:
    network, again = build_network("own_nets:tied", {}, 5), build_network("own_nets:tied", {}, 5)
    save_weights(tmp_path / "net.safetensors", network)
    again.load_state_dict(read_weights(tmp_path / "net.safetensors"))
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in network.state_dict().items())


@pytest.mark.parametrize(
    ("place", "arguments", "faults"),
    [
        ("own_nets", {}, ["factory: got 'own_nets', must be package.module:name"]),
        (
            "own_net:net",
            {},
            ["factory: no module 'own_net'; it must be installed, or be below the working directory or on PYTHONPATH"],
        ),
        ("own_nets:NUMBER", {}, ["factory: own_nets:NUMBER is a int, must be a function"]),
        (
            "own_nets:net",
            {"widht": 3, "x": 1},
            [
                "arguments.widht: own_nets:net has no such argument; did you mean width? valid: width",
                "arguments.x: own_nets:net has no such argument; valid: width",
            ],
        ),
        ("own_nets:answers", {}, ["arguments.what: is required by own_nets:answers"]),
        ("own_nets:nothing", {}, ["arguments: own_nets:nothing takes 0 arguments by position, must take num_classes"]),
        ("own_nets:raises", {}, ["factory: own_nets:raises raised OSError: no such file: weights.pt"]),
        ("own_nets:list_of", {}, ["factory: own_nets:list_of returned a list, must be a torch.nn.Module"]),
    ],
)
def test_what_cannot_be_built(place: str, arguments: dict[str, int], faults: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        build_network(place, arguments, 5)
    assert error.value.faults == faults


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        ("classes", "logits of the shape [2, 6, 8, 8]"),
        ("flat", "logits of the shape [2, 5]"),
        ("dict", "logits of a dict"),
        ("int", "logits of the dtype torch.int64"),
        ("features", "features of the shape [2, 3, 32, 48]"),
    ],
)
def test_what_a_network_returns_is_checked(what: str, fault: str) -> None:
    network = build_network("own_nets:answers", {"what": what}, 5)
    with pytest.raises(ConfigError) as error:
        network(torch.zeros(2, 3, 32, 48))
    rule = "[2, None, h, w] (its attribute channels = None)" if what == "features" else "[2, 5, h, w] (num_classes = 5)"
    assert error.value.faults == [
        f"factory: own_nets:answers builds a network that returns {fault} for 2 image(s), must be a floating-point"
        f" tensor {rule} on cpu"
    ]


def test_a_network_without_a_head_has_no_rate_of_its_own_for_it() -> None:
    network = FactoryNetwork(nn.Conv2d(3, 5, 1), 5, "own_nets:plain")
    with pytest.raises(
        ConfigError, match=r"train\.head_lr: needs a submodule head or classifier in the network of own"
    ):
        network.heads()


def test_a_factory_is_written_without_the_keys_it_replaces() -> None:
    spec = Student(factory="own_nets:net", arguments={"width": 6})
    assert to_tree(spec) == {"factory": "own_nets:net", "arguments": {"width": 6}}
    assert Student.model_validate(to_tree(spec)) == spec and hash(spec) == hash(Student.model_validate(to_tree(spec)))
    assert "factory" not in to_tree(Student()) and "arguments" not in to_tree(Student())
    assert spec.described == "own_nets:net(width=6)" and Student().described == "mobilenetv3_small_050 + fpn"


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"factory": "own_nets:net", "head": "psp"}, "head and factory are both given"),
        ({"arguments": {"width": 6}}, "arguments need factory"),
        ({"factory": "own_nets:net", "arguments": {"width": object()}}, "valid JSON"),
    ],
)
def test_combinations_that_mean_nothing(given: dict[str, object], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        Student.model_validate(given)
