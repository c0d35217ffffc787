"""Three hundred generated mistakes in search files and flags: exit code 2, no traceback, and each names its key."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bpkd_search.config.paths import get_path, set_path

# A mistake: the tree it is in, arguments after the file, and what the message must name.
Mistake = tuple[dict[str, Any] | str, list[str], str]
SPACE = {
    "loss.edge_weight": {"float": [0.05, 50], "log": True},
    "loss.edge_width": {"int": [3, 7], "step": 2},
    "train.optimizer": {"choice": ["sgd", "adamw"]},
}
VALID: dict[str, Any] = {
    "name": "tiny",
    "data": {"kind": "synthetic", "crop": [32, 48], "scale": [0.5, 1.5], "synthetic": {"train_images": 12}},
    "teacher": {"encoder": "resnet18", "head": "fpn", "channels": 16, "train": {"epochs": 2, "lr": 0.1}},
    "student": {"encoder": "resnet18", "channels": 8, "output_stride": 32},
    "loss": {"method": "bpkd", "edge_width": 3, "edge_weight": 5.0, "pre_mask": True},
    "train": {"epochs": 4, "batch_size": 4, "lr": 0.02, "optimizer": "sgd", "compile": False, "device": "cpu"},
    "search": {
        "trials": 2, "seed": 0, "metric": "miou", "sampler": {"name": "tpe", "startup": 3},
        "constraints": ["miou >= 0.1"],
        "scheduler": {"name": "asha", "grace": 1, "reduction": 2}, "budget": {"hours": 1, "patience": 3},
    },
    "logging": {"csv": False, "tensorboard": True},
    "space": SPACE,
    "enqueue": [{"loss.edge_weight": 1, "loss.edge_width": 3, "train.optimizer": "sgd"}],
}  # fmt: skip
BLOCKS = ["data", "data.synthetic", "teacher", "teacher.train", "student", "loss", "train", "search", "search.sampler"]
BLOCKS += ["search.scheduler", "search.budget", "logging"]
LEAVES = [f"{block}.{key}" for block in BLOCKS for key, v in get_path(VALID, block).items() if not isinstance(v, dict)]
NUMBERS = [leaf for leaf in LEAVES if type(get_path(VALID, leaf)) in (int, float)]
# None of these is a number, a name, a boolean or a choice that any key takes.
WRONG: list[Any] = ["no such value!", "12:30", "", {"zzz": 1}, [[1], 2, 3], ["a", None], "<<", "1_0_x"]


def wrong_value(rng: random.Random, tree: dict[str, Any]) -> Mistake:
    leaf = rng.choice([leaf for leaf in LEAVES if not leaf.endswith(".encoder")])
    set_path(tree, leaf, rng.choice(WRONG))
    return tree, [], leaf


def wrong_number(rng: random.Random, tree: dict[str, Any]) -> Mistake:
    leaf = rng.choice(NUMBERS)
    set_path(
        tree,
        leaf,
        rng.choice([-1, float("nan"), float("inf"), -1e300, "1e", "yes", None if "budget" not in leaf else "x"]),
    )
    return tree, [], leaf


def wrong_encoder(rng: random.Random, tree: dict[str, Any]) -> Mistake:
    leaf = rng.choice(["student.encoder", "teacher.encoder"])
    return (
        tree,
        ["--set", f"{leaf}={rng.choice(['resnet_18', 'rasnet18', 'x', 'hf-hub:a/b', 'resnet18.none', '../x'])}"],
        leaf,
    )


def misspelt_key(rng: random.Random, tree: dict[str, Any]) -> Mistake:
    *above, key = rng.choice([*LEAVES, "search", "train", "loss", "enqueue"]).split(".")
    at = rng.randrange(len(key))
    wrong = rng.choice([key + "x", key[:at] + "_" + key[at:], key.upper(), key[::-1] + "q", key + " "])
    set_path(tree, ".".join([*above, wrong]), 1)
    return tree, [], ".".join([*above, wrong])


def wrong_block(rng: random.Random, tree: dict[str, Any]) -> Mistake:
    block = rng.choice([*BLOCKS, "space", "enqueue"])
    set_path(tree, block, rng.choice([5, "text", [1], True, 0.5, [[]]]))
    return tree, [], block


def wrong_parameter(rng: random.Random, tree: dict[str, Any]) -> Mistake:
    name = rng.choice(
        [*SPACE, "loss.nothing", "data.height", "loss", "train..lr", "x", "student.", "loss.terms.3.weight", "1"]
    )
    valid_name = name in SPACE
    bad: list[Any] = [
        5,
        None,
        [],
        {},
        {"float": 3},
        {"float": [1, 2, 3]},
        {"int": [1, "b"]},
        {"choice": []},
        {"flot": [1, 2]},
    ]
    bad += [{"float": [5, 1]}, {"int": [3, 8], "step": 0}, {"choice": [{"a": 1}]}, {"float": [0, 1], "log": True}]
    bad += [{"float": [1, 2], "when": 3}, {"int": [3, 5], "when": {"nothing": 1}}, {"float": ["a", 1]}]
    tree["space"][name] = rng.choice(bad if valid_name else [{"float": [1, 2]}, {"choice": [1, "x"]}, {"int": [3, 3]}])
    return tree, [], f"space.{name}"


def wrong_enqueue(rng: random.Random, tree: dict[str, Any]) -> Mistake:
    name = rng.choice([*SPACE, "loss.alpha", "", "x.y"])
    tree["enqueue"][0][name] = rng.choice([99, -1, "adam", None, [1], {"a": 1}, True, 3.5e9, "5"])
    return tree, [], f"enqueue.0.{name}"


def wrong_set(rng: random.Random, tree: dict[str, Any]) -> Mistake:
    leaf = rng.choice([leaf for leaf in LEAVES if not leaf.endswith(".encoder")])
    text = rng.choice(
        [f"{leaf}=[1", leaf, f".{leaf}=1", f"{leaf}=!!python/name:os.x", f"{leaf}=*a", f"{leaf}=&a [*a]"]
        + [f"{leaf}.deep=1"]
        + [f"{leaf}={json.dumps(value)}" for value in WRONG]
        + [f"space.{rng.choice(list(SPACE))}.{rest}" for rest in ("int=[9, 3, 1]", "choice=[]", "flot=1", "when=2")]
        + ["space.loss.edge_width.int.7=3", "enqueue.4.loss.alpha=1", "enqueue.x=1", "space=1", "space.=1"]
    )  # fmt: skip
    return tree, ["--set", text], text.split("=")[0].strip(".").removesuffix(".deep")


def wrong_text(rng: random.Random, tree: dict[str, Any]) -> Mistake:
    text = yaml.safe_dump(tree, sort_keys=False)
    at = text.index(rng.choice(["data:", "teacher:", "loss:", "search:", "space:"]))
    broken = rng.choice(
        ["\tbad: 1\n", "name: again\n", "key: [1\n", "? [a]\n: 1\n", "key: *none\n", "@x: 1\n", "a: b: c\n"]
    )
    return text[:at] + broken + text[at:], [], "in line "


MAKERS: list[Callable[[random.Random, dict[str, Any]], Mistake]] = [
    wrong_value, wrong_number, misspelt_key, wrong_block, wrong_parameter, wrong_enqueue, wrong_set, wrong_set,
    wrong_text, wrong_encoder,
]  # fmt: skip


def test_what_the_mistakes_are_made_in_is_valid(call, tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(VALID, sort_keys=False))
    assert call("validate", path)[0] == 0


@pytest.mark.parametrize("seed", range(280))
def test_a_mistake_in_a_file_or_an_override(call, seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    tree, arguments, key = MAKERS[seed % len(MAKERS)](rng, copy.deepcopy(VALID))
    path = tmp_path / "search.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree, sort_keys=False))
    command = rng.choice([["validate"], ["run", "--out", str(tmp_path / "out")], ["teacher"], ["views"]])
    command = ["validate"] if key.startswith(("search", "name", "logging", "enqueue", "space")) else command
    code, out, err = call(command[0], path, *command[1:], *arguments)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ") and "Traceback" not in err
    assert key in err
    assert not (tmp_path / "out").exists()


FLAGS = [
    *[("run", "SPACE", "--trials", value) for value in ("0", "-3", "many", "1.5", "")],
    *[("run", "SPACE", "--name", value) for value in ("a/b", "", "..", "x" * 99, "é", "-x")],
    *[("train", "SPACE", "--out", "o", "--set", value) for value in ("train.epochs", "train.epochs=0", "trian.lr=1")],
    *[("leaderboard", "DIR", "--top", value) for value in ("0", "x")],
    ("simulate", "SPACE", "--table", "none", "--seeds", "0"),
    ("simulate", "SPACE", "--table", "none", "--slots", "two"),
    ("show-edges", "SPACE", "--width", "3,x"),
    ("show-edges", "SPACE", "--images", "0"),
    ("report", "DIR", "--out", "o.html", "--panels", "-1"),
    ("dashboard", "DIR", "--port", "0"),
    ("export", "DIR", "--out", "o", "--top", "0"),
    ("confirm", "DIR", "--seeds", "x"),
    ("confirm", "DIR", "--top", "x"),
    ("views", "--unused-for", "-1"),
    ("validate", "SPACE", "--sett", "a=1"),
    ("run", "SPACE", "--trails", "3"),
]


@pytest.mark.parametrize("line", FLAGS, ids=" ".join)
def test_a_mistake_in_a_flag(call, line: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(VALID, sort_keys=False))
    (tmp_path / "experiment").mkdir()
    arguments = [{"SPACE": "search.yaml", "DIR": "experiment"}.get(word, word) for word in line]
    code, _, err = call(*arguments)
    flag, value = line[-2:]
    named = {"--name": "name: got", "--trials": "trials", "--set": value.split("=")[0].removesuffix(".lr")}.get(
        flag, flag
    )
    assert code == 2, err
    assert named in err and "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["experiment", "search.yaml"]


def test_there_are_three_hundred_of_them() -> None:
    assert 280 + len(FLAGS) >= 300
