"""Configurations: what is read, and what is said of what cannot be."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bpkd_search.config import RunConfig, SearchConfig, dump, load_run, load_search
from bpkd_search.config.load import parse
from bpkd_search.config.paths import set_path
from bpkd_search.config.points import to_tree
from bpkd_search.errors import ConfigError

SPACE = {"loss.edge_weight": {"float": [0.1, 50], "log": True}}


def faults_of(tree: dict[str, Any], *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(SearchConfig, deepcopy(tree), "test", overrides)
    return caught.value.faults


def test_defaults_are_the_papers_setting() -> None:
    loss = parse(SearchConfig, {"space": SPACE}, "test").loss
    assert (loss.edge_width, loss.edge_weight, loss.body_weight, loss.alpha) == (7, 50.0, 20.0, 2.0)


@pytest.mark.parametrize(
    ("search", "sampler", "scheduler"),
    [
        ({}, "model", "model"),
        # Blocks without a name mean what they meant before the model was the default.
        ({"sampler": {"startup": 4}, "scheduler": {"reduction": 2}}, "tpe", "asha"),
        ({"sampler": {"candidates": 12}}, "tpe", "model"),
        ({"scheduler": {"name": "median"}}, "model", "median"),
        ({"sampler": {"name": "cmaes"}}, "cmaes", "model"),
        ({"sampler": {"name": "nsga2"}, "objectives": {"miou": "max", "gpu_seconds": "min"}}, "nsga2", "model"),
        ({"objectives": {"miou": "max", "gpu_seconds": "min"}, "constraints": ["latency_ms <= 9"]}, "model", "model"),
    ],
)
def test_without_a_block_the_model_samples_and_stops(search: dict[str, Any], sampler: str, scheduler: str) -> None:
    found = parse(SearchConfig, {"search": search, "space": SPACE}, "test").search
    assert (found.sampler.name, found.scheduler.name) == (sampler, scheduler)


def test_written_and_read_back_is_equal(tmp_path: Path) -> None:
    tree = {
        "space": {
            "loss.method": {"choice": ["bpkd", "kd"]},
            "loss.edge_width": {"int": [3, 9], "step": 2, "when": {"loss.method": "bpkd"}},
            "loss.edge_weight": {"float": [0.1, 50], "log": True, "when": {"loss.method": "bpkd"}},
        },
        "enqueue": [{"loss.method": "kd"}],
    }
    config = parse(SearchConfig, tree, "test")
    path = tmp_path / "space.yaml"
    path.write_text(dump(config))
    assert load_search(path) == config
    assert load_run(path) == config.run()


BAD = [
    ({"nmae": "x"}, "nmae: unknown key; did you mean name? valid: "),
    ({"loss": {"edge_width": 6}}, "loss.edge_width: got 6, must be an odd integer from 3 to 63"),
    ({"loss": {"edge_width": 65}}, "loss.edge_width: got 65, must be an odd integer from 3 to 63"),
    ({"loss": {"edge_wieght": 3}}, "loss.edge_wieght: unknown key; did you mean edge_weight?"),
    ({"loss": {"method": "bkpd"}}, "loss.method: got 'bkpd', valid: ce, bpkd, kd, cwd, dist, dkd"),
    ({"loss": {"method": "kd", "edge_width": 7}}, "loss.edge_width: unknown key; valid: method, weight, temperature"),
    ({"loss": {"edge_weight": "much"}}, "loss.edge_weight: got 'much', must be a valid number"),
    ({"loss": {"edge_temperature": 0}}, "loss.edge_temperature: got 0, must be greater than 0"),
    ({"loss": {"edge_weight": {"start": -1, "end": 2}}}, "loss.edge_weight.start: got -1, must be greater"),
    ({"loss": {"terms": [{"method": "kd"}, {"method": "bpkd", "edge_width": 4}]}}, "loss.terms.1.edge_width: got 4"),
    (
        {"loss": {"method": "feature_mse"}, "teacher": {"mode": "stored"}},
        "loss.method: got feature_mse, needs the teacher's features",
    ),
    ({"data": {"crop": [10, 64]}}, "data.crop.0: got 10, must be greater than or equal to 32"),
    ({"data": {"resize": {"shrt": 64}}}, "data.resize.shrt: unknown key; did you mean short? valid: short, long"),
    ({"data": {"resize": [64]}}, "data.resize: got [64], must be [height, width]"),
    ({"data": {"views": "many"}}, "data.views: got 'many', must be a valid integer"),
    ({"data": {"scale": [2, 1]}}, "data.scale: got [2, 1], must be [low, high] with 0 < low <= high"),
    ({"data": {"eval": {"crop": [64, 64]}}}, "data.eval.crop: got [64, 64], must be left out unless mode is slide"),
    (
        {"data": {"eval": {"mode": "slide", "crop": [64, 96], "stride": [32, 97]}}},
        "data.eval.stride: got [32, 97], must not exceed the crop [64, 96]",
    ),
    ({"data": {"eval": {"mode": "slide", "stride": [97, 9]}}}, "stride must not exceed the crop [96, 128]"),
    ({"data": {"eval": {"scales": []}}}, "data.eval.scales: got [], must hold at least one factor"),
    ({"data": {"kind": "folder", "root": "x"}}, "data.folder: got nothing, is required"),
    ({"train": {"lr": True, "epochs": "ten"}}, "train.epochs: got 'ten', must be a valid integer"),
    ({"train": {"warmup": 99}}, "train.warmup: got 99.0, must not exceed train.epochs = 8"),
    ({"search": {"trials": 0}}, "search.trials: got 0, must be greater than or equal to 1"),
    ({"search": {"metric": "mio"}}, "search.metric: got 'mio', must be 'miou', 'edge_miou'"),
    ({"search": {"scheduler": {"grace": 50}}}, "search.scheduler.grace: got 50, must not exceed train.epochs = 8"),
    ({"name": "../escape"}, "name: got '../escape', must be 1 to 80 characters of a to z, A to Z, 0 to 9, dot"),
    ({"name": "größe"}, "name: got 'größe', must be 1 to 80 characters"),
    ({"data": {"logits": "topk:0"}}, "data.logits: got 'topk:0', must be float16, int8, or topk:K with K from 1 to 99"),
    ({"train": {"device": "gpu"}}, "train.device: got 'gpu', must be auto, cpu, cuda, or cuda:N"),
    ({"space": {}}, "space: got an empty space, must name at least one parameter"),
    ({"space": {"loss.edge_weight": {"flot": [1, 2]}}}, "space.loss.edge_weight: got {'flot': [1, 2]}, must be {float"),
    ({"space": {"loss.edge_weight": {"float": [5, 1]}}}, "space.loss.edge_weight: got [5.0, 1.0], low must not"),
    ({"space": {"loss.edge_weight": {"float": [0, 1], "log": True}}}, "space.loss.edge_weight: log needs low > 0"),
    ({"space": {"loss.edge_width": {"int": [3, 9]}}}, "space.loss.edge_width: loss.edge_width: got 4, must be an odd"),
    ({"space": {"loss.edge_width": {"int": [3, 8], "step": 2}}}, "space.loss.edge_width: high 8 is not low 3 plus"),
    ({"space": {"loss.tau": {"float": [1, 2]}}}, "space.loss.tau: loss.tau: unknown key"),
    ({"space": {"data.height": {"int": [64, 96]}}}, "space.data.height: cannot be searched"),
    ({"space": {"train.epochs": {"int": [1, 9]}}}, "space.train.epochs: cannot be searched"),
    (
        {"space": {"loss.method": {"choice": ["bpkd", "kd"]}, "loss.edge_width": {"int": [3, 5], "step": 2}}},
        "add `when: {loss.method: ...}`",
    ),
    (
        {
            "space": {
                "loss.edge_weight": {"float": [1, 2], "when": {"loss.body_weight": 1}},
                "loss.body_weight": {"float": [1, 2], "when": {"loss.edge_weight": 1}},
            }
        },
        "depend on one another in a circle",
    ),
    ({"enqueue": [{"loss.alpha": 1}]}, "enqueue.0.loss.alpha: is no parameter of the space"),
    ({"enqueue": [{"loss.edge_weight": -3}]}, "enqueue.0.loss.edge_weight: got -3, must be a number from 0.1 to 50"),
]


def test_windows_are_the_training_crop_every_two_thirds() -> None:
    def windows(**how: Any) -> Any:
        data = {"height": 512, "width": 480, "eval": {"mode": "slide", **how}}
        return parse(RunConfig, {"data": data}, "test").data.evaluation.windows()

    assert windows() == ((512, 480), (341, 320))
    assert windows(stride=[100, 480]) == ((512, 480), (100, 480))
    assert windows(crop=[96, 65]) == ((96, 65), (64, 43))


@pytest.mark.parametrize(("tree", "said"), BAD, ids=[said[:40] for _, said in BAD])
def test_each_fault_is_said_with_path_value_and_rule(tree: dict[str, Any], said: str) -> None:
    faults = faults_of({"space": SPACE, **tree})
    assert any(said in fault for fault in faults), faults


def test_all_faults_come_at_once() -> None:
    faults = faults_of(
        {
            "train": {"epochs": 0},
            "loss": {"edge_width": 6, "alhpa": 1},
            "search": {"trials": 0},
            "space": {"data.views": {"int": [1, 2]}},
        },
        "student.encoder",
    )
    paths = [fault.split(":")[0] for fault in faults]
    expected = ["--set student.encoder", "loss.alhpa", "loss.edge_width", "search.trials", "space.data.views"]
    assert sorted(paths) == sorted([*expected, "train.epochs"])


def test_overrides_go_by_dotted_path_and_are_yaml() -> None:
    config = parse(
        SearchConfig,
        {"space": {"loss.terms.0.weight": {"float": [1, 2]}}, "loss": {"terms": [{"method": "kd"}]}},
        "test",
        ["student.encoder=resnet18", "loss.terms.0.temperature=2", "data.scale=[1, 1]", "train.lr=1e-3"],
    )
    assert config.student.encoder == "resnet18"
    assert config.loss.terms[0].temperature == 2
    assert config.data.scale == (1, 1)
    assert config.train.lr == 0.001


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "is not valid YAML"),
        ("- 1", "must be a mapping of keys, got list"),
        ("a: !!python/object:os.x {}", "not valid YAML"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_search(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_search(tmp_path / "none.yaml")


@given(
    low=st.integers(1, 20).map(lambda n: 2 * n + 1),
    steps=st.integers(0, 10),
    weight=st.floats(0.001, 100),
    log=st.booleans(),
)
def test_any_valid_space_reads_back_equal(low: int, steps: int, weight: float, log: bool) -> None:
    tree = {
        "space": {
            "loss.edge_width": {"int": [low, low + 2 * steps], "step": 2},
            "loss.edge_weight": {"float": [weight, 2 * weight], "log": log},
        }
    }
    config = parse(SearchConfig, tree, "test")
    assert parse(SearchConfig, yaml.safe_load(dump(config)), "test") == config


def test_set_path_makes_what_is_missing() -> None:
    tree: dict[str, Any] = {"a": 1, "list": [{"x": 1}]}
    set_path(tree, "a.b.c", 2)
    set_path(tree, "list.0.x", 3)
    assert tree == {"a": {"b": {"c": 2}}, "list": [{"x": 3}]}


def test_a_plain_config_is_json() -> None:
    import json

    config = parse(SearchConfig, {"space": SPACE, "data": {"root": "x/y"}}, "test")
    assert json.loads(json.dumps(to_tree(config)))["data"]["root"] == "x/y"


def test_height_and_width_of_older_files_are_crop_and_size() -> None:
    data = parse(RunConfig, {"data": {"height": 64, "width": 96, "views": 4, "scale": [0.5, 2]}}, "old").data
    assert (data.crop, data.resize, data.views, data.eval.labels) == ((64, 96), (64, 96), 4, "resized")
    # What such a file leaves out is what it was then.
    assert parse(RunConfig, {"data": {"height": 64}}, "old").data.views == 8
    assert parse(RunConfig, {"data": {"width": 96}}, "old").data.crop == (96, 96)
    assert parse(RunConfig, {"data": data.model_dump()}, "again").data == data
    with pytest.raises(ConfigError, match=r"got height and width beside crop: use data\.crop and data\.resize"):
        parse(RunConfig, {"data": {"height": 64, "crop": [64, 96]}}, "mixed")
    with pytest.raises(ConfigError, match=r"data\.height: got 10, must be a whole number from 32 to 4096"):
        parse(RunConfig, {"data": {"height": 10}}, "old")
    with pytest.raises(ConfigError, match=r"data\.eval: got 'slide', must be a mapping"):
        parse(RunConfig, {"data": {"height": 64, "eval": "slide"}}, "old")


def test_a_fault_of_the_run_is_listed_once_and_not_as_one_of_the_space() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(SearchConfig, {"space": SPACE, "train": {"lr": 0.1, "min_lr": 1}}, "test")
    assert caught.value.faults == ["train.min_lr: got 1, must not exceed train.lr = 0.1"]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({"views": True}, "data.views: got True, must be auto or a whole number from 1 to 1000"),
        ({"crop": 64}, "data.crop: got 64, must be [height, width] in pixels, such as [96, 128]"),
        ({"crop": [64]}, "data.crop: got [64], must be [height, width] in pixels, such as [96, 128]"),
        (
            {"resize": 64},
            "data.resize: got 64, must be [height, width] in pixels, or a length that keeps the aspect ratio:"
            " {short: N}",
        ),
    ],
)
def test_numbers_of_the_wrong_shape_say_what_is_valid(data: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(RunConfig, {"data": data}, "test")
    assert caught.value.faults == [fault]
