"""The `train:` block: one length, one warm-up, what a search needs to know, and the identity of trained weights."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bpkd_search.config import RunConfig, SearchConfig, dump
from bpkd_search.config.load import parse
from bpkd_search.config.optimisation import Optimisation
from bpkd_search.config.points import run_at
from bpkd_search.config.yaml_text import read_saved_text
from bpkd_search.data.base import digest
from bpkd_search.errors import ConfigError


def faults_of(tree: dict[str, Any], model: type[RunConfig] = RunConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(model, tree, "test")
    return "\n".join(caught.value.faults)


def test_iterations_take_the_place_of_the_default_epochs() -> None:
    train = Optimisation(iterations=80_000)
    assert (train.epochs, train.iterations, train.length) == (None, 80_000, "80000 iterations")
    assert (Optimisation().epochs, Optimisation(epochs=3).length) == (8, "3 epochs")
    assert Optimisation(gpu_seconds=600).length == "600 seconds"


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"epochs": 9, "iterations": 80}, "train: got .*epochs 9 and iterations 80: set one, the other to null"),
        (
            {"iterations": 80, "gpu_seconds": 5},
            "^train.iterations: got 80 beside train.gpu_seconds = 5, set one of them$",
        ),
        ({"epochs": None}, "train: .*epochs: got null, set epochs or iterations"),
        ({"validate_every": 5}, "^train.validate_every: got 5, needs train.iterations or train.gpu_seconds: "),
        (
            {"warmup": 1, "warmup_iterations": 2},
            "^train.warmup_iterations: got 2 beside train.warmup = 1, set one of them$",
        ),
        ({"iterations": 9, "validate_every": 0}, "train.validate_every: got 0, must be greater than or equal to 1"),
        ({"iterations": 9, "warmup_iterations": 10}, "^train.warmup_iterations: got 10, .* train.iterations = 9$"),
        ({"warmup": 9}, "^train.warmup: got 9.0, must not exceed train.epochs = 8$"),
        ({"min_lr": 0.1}, "^train.min_lr: got 0.1, must not exceed train.lr = 0.05$"),
    ],
)
def test_what_does_not_go_together_is_said(train: dict[str, Any], said: str) -> None:
    assert re.search(said, faults_of({"train": train}))
    assert re.search(said.replace("train", r"teacher\.train"), faults_of({"teacher": {"train": train}}))


@pytest.mark.parametrize("train", [{"iterations": 80, "validate_every": 8}, {"epochs": 3}, {"gpu_seconds": 5.0}])
def test_what_is_saved_reads_back_equal(train: dict[str, Any]) -> None:
    run = parse(RunConfig, {"train": train}, "test")
    assert parse(RunConfig, read_saved_text(dump(run)), "again") == run
    assert run_at(run, {"train.lr": 0.5}).train == run.train.model_copy(update={"lr": 0.5})


def test_rounds() -> None:
    assert Optimisation(epochs=3).rounds() == Optimisation(epochs=3).rounds(7) == 3
    assert Optimisation(iterations=80, validate_every=8).rounds() == 10
    assert Optimisation(iterations=81, validate_every=8).rounds(1000) == 11
    assert Optimisation(iterations=81).rounds(27) == 3
    with pytest.raises(ValueError, match="validate_every"):
        Optimisation(iterations=81).rounds()


def test_a_search_of_iterations_knows_its_rounds_without_data(tiny: dict[str, Any]) -> None:
    tiny["train"] = {"iterations": 40, "batch_size": 4}
    assert "train.validate_every: got nothing, is required in a search" in faults_of(tiny, SearchConfig)
    tiny["train"]["validate_every"] = 10
    assert parse(SearchConfig, tiny, "test").train.rounds() == 4
    tiny["search"]["scheduler"]["grace"] = 5
    expected = "search.scheduler.grace: got 5, must not exceed the 4 validations of a trial"
    assert expected in faults_of(tiny, SearchConfig)


@pytest.mark.parametrize("key", ["epochs", "iterations", "validate_every", "gpu_seconds", "checkpoint_seconds"])
def test_the_length_of_trials_is_not_searched(tiny: dict[str, Any], key: str) -> None:
    tiny["space"][f"train.{key}"] = {"int": [1, 3]}
    assert f"space.train.{key}: cannot be searched" in faults_of(tiny, SearchConfig)


def test_weights_that_version_0_1_0_trained_are_found_again() -> None:
    # What that version hashed of a teacher's `train` block.
    then = {
        "epochs": 14, "gpu_seconds": None, "batch_size": 8, "optimizer": "sgd", "lr": 0.05, "momentum": 0.9,
        "weight_decay": 0.0005, "power": 0.9, "warmup": 0.0, "grad_clip": None, "amp": "auto", "compile": False,
        "seed": 0,
    }  # fmt: skip
    same = Optimisation(epochs=14, checkpoint_seconds=5, device="cpu")
    assert digest(same.identity()) == digest(then)
    changes: list[dict[str, Any]] = [
        {"epochs": None, "iterations": 14}, {"accumulate": 2}, {"head_lr": 10}, {"min_lr": 0.01},
        {"batchnorm": "frozen"}, {"warmup_iterations": 3}, {"batchnorm_momentum": 0.5}, {"deterministic": True},
        {"seed": 1},
    ]  # fmt: skip
    others = {digest(Optimisation(**{"epochs": 14, **change}).identity()) for change in changes}
    assert len(others) == len(changes) and digest(then) not in others
