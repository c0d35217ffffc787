"""What is found before anything is built or trained: unknown encoders, parts that do not fit, a step that fails."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bpkd_search.config import RunConfig, SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.data import open_split
from bpkd_search.errors import CheckpointError, ConfigError, ResourceError
from bpkd_search.models import save_weights
from bpkd_search.models.build import build_model
from bpkd_search.training.check import check_evaluation, check_networks, check_weights, try_step
from bpkd_search.training.distill import Distillation
from bpkd_search.training.forms import Form
from bpkd_search.training.inputs import prepare_views
from bpkd_search.training.prepare import prepare


def faults_of(tiny: dict[str, Any], *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_networks(parse(SearchConfig, tiny, "test", overrides))
    return caught.value.faults


def a_run(tiny: dict[str, Any], *overrides: str) -> RunConfig:
    return parse(SearchConfig, tiny, "test", overrides).run()


@pytest.mark.parametrize(
    ("overrides", "beginnings"),
    [
        (["student.encoder=mobilenetv3_smal_050"], ["student.encoder: got 'mobilenetv3_smal_050', "]),
        (["teacher.encoder=resnet_18", "student.encoder=x"], ["teacher.encoder: got 'resnet_18'", "student.encoder: "]),
        (
            ["student.encoder=hrnet_w18_small", "student.output_stride=8", "data.crop=[32,64]"],
            ["student.output_stride: got 8, hrnet_w18_"],
        ),
        (["student.encoder=levit_128s"], ["student: levit_128s + fpn cannot train on 4 image(s) of 32x48: "]),
        (
            ["student.head=pspnet", "train.batch_size=1"],
            ["student.head: needs train.batch_size of at least 2, "],
        ),
        (
            ["data.crop=[32,32]", "student.head=fcn", "train.batch_size=1"],
            ["student: mobilenetv3_small_050 + fcn cannot train on 1 image(s) of 32x32: Expected more than 1 value"],
        ),
        (
            ["space.student.encoder={choice: [resnet18, resnet_34, resnet-50]}"],
            ["space.student.encoder: got 'resnet_34', ", "space.student.encoder: got 'resnet-50', "],
        ),
        (
            ["space.student.output_stride={choice: [32, 16]}", "student.encoder=hrnet_w18_small", "data.crop=[32,64]"],
            ["space.student.output_stride: got 16, "],
        ),
    ],
)
def test_networks_that_cannot_be_are_named_by_their_path(
    tiny: dict[str, Any], overrides: list[str], beginnings: list[str]
) -> None:
    faults = faults_of(tiny, *overrides)
    assert len(faults) == len(beginnings)
    assert all(fault.startswith(beginning) for fault, beginning in zip(faults, beginnings, strict=True)), faults


def test_a_crop_that_maps_cannot_cut_is_found(tiny: dict[str, Any]) -> None:
    maps = ["teacher.mode=maps", "data.views=auto", "data.crop=[34,48]"]
    (fault,) = faults_of(tiny, *maps)
    assert fault.startswith("data.crop: got [34, 48], must be multiples of 4, the stride of the teacher's logits")
    check_networks(parse(SearchConfig, deepcopy(tiny), "test", [*maps[:2], "data.crop=[36,48]"]))


def test_a_misspelt_encoder_comes_with_the_right_one(tiny: dict[str, Any]) -> None:
    (fault,) = faults_of(tiny, "student.encoder=mobilenetv3_smal_050")
    assert "did you mean mobilenetv3_small_050" in fault


def test_a_transformer_for_one_size_comes_with_that_size(tiny: dict[str, Any]) -> None:
    (fault,) = faults_of(tiny, "student.encoder=levit_128s")
    assert fault.endswith("(it reads 224x224: set data.crop to [224, 224])")


@pytest.mark.parametrize("encoder", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "hrnetv2_w18_small"])
def test_networks_of_coarse_strides_read_any_size(tiny: dict[str, Any], encoder: str) -> None:
    small = ["data.crop=[44,60]", "student.head=segformer", f"student.encoder={encoder}"]
    check_networks(parse(SearchConfig, tiny, "test", small))


def test_files_of_weights_are_compared_before_anything_is_made(tiny: dict[str, Any], tmp_path: Path) -> None:
    save_weights(tmp_path / "teacher.safetensors", build_model(a_run(tiny).teacher, 3, 0))
    given = [f"teacher.checkpoint={tmp_path}/teacher.safetensors"]
    # Which data set there is, and how many classes it has, is not known here.
    check_networks(parse(SearchConfig, deepcopy(tiny), "test", given))
    (fault,) = faults_of(deepcopy(tiny), *given, "teacher.channels=32")
    assert fault.startswith(f"teacher.checkpoint: {tmp_path}/teacher.safetensors: does not fit the model; ")
    assert "classes" not in fault and "head.lateral.0.0.weight is [16, " in fault
    (fault,) = faults_of(deepcopy(tiny), f"student.weights={tmp_path}/teacher.safetensors", "student.encoder=resnet18")
    assert fault.startswith("student.weights: ") and "keys missing" in fault

    lines: list[str] = []
    views = tmp_path / "views"
    with pytest.raises(CheckpointError, match=r"^teacher\.checkpoint: .*has 3 classes, the model 8; "):
        prepare(a_run(deepcopy(tiny), *given, f"data.views_dir={views}"), lines.append)
    assert not lines and not views.exists()


def test_the_classes_that_mmsegmentation_names_beside_weights_are_compared(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    path, state = tmp_path / "teacher.pth", build_model(a_run(tiny).teacher, 3, 0).state_dict()
    run = a_run(deepcopy(tiny), f"teacher.checkpoint={path}")
    for meta in ({"CLASSES": ("car", "Tree", "road")}, {"dataset_meta": {"classes": ["car", "Tree", "road"]}}):
        torch.save({"meta": meta, "state_dict": state}, path)
        check_weights(run, ["road", "tree"])
        # A name that only one of them has may be another word for the same, unless others are elsewhere.
        check_weights(run, ["car", "vegetation", "road"])
        with pytest.raises(CheckpointError, match="road is number 2 there and 0 in the data, and not all"):
            check_weights(run, ["road", "vegetation", "car"])
    given = a_run(deepcopy(tiny), f"teacher.checkpoint={path}", "teacher.classes=[car, vegetation, road]")
    check_weights(given, ["road", "vegetation", "car"])
    with pytest.raises(CheckpointError, match=r"^teacher\.checkpoint: .*: lacks lorry of the data's classes; it has"):
        check_weights(given, ["road", "lorry"])


def test_a_checkpoint_with_more_classes_in_another_order_gives_those_of_the_data(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    ours, path = open_split("synthetic", "train").class_names, tmp_path / "teacher.safetensors"
    theirs = ["Tram", *reversed(ours)]
    whole = build_model(a_run(tiny).teacher, 9, 0).eval()
    torch.nn.init.normal_(whole.classifier.bias)  # type: ignore[arg-type, union-attr]
    save_weights(path, whole, {"class_names": theirs})
    run = a_run(deepcopy(tiny), f"teacher.checkpoint={path}", f"data.views_dir={tmp_path}/cache")
    lines: list[str] = []
    prepared = prepare(run, lines.append)
    line = "teacher: its classes are matched by name; 1 that the data lacks are left out (Tram)"
    assert line in lines
    store = prepared.open()
    images, _, stored = store.crops.gather(0, np.arange(2), True)
    with torch.inference_mode():
        expected = whole(images)[:, [theirs.index(name) for name in ours]]
    torch.testing.assert_close(stored.float(), expected, atol=0.02, rtol=0.01)


def test_what_such_a_teacher_does_not_read_is_not_taken_in_silence(tiny: dict[str, Any]) -> None:
    keys = ("input", "stride", "classes", "missing_classes")
    given = ("teacher.input={range: 255}", "teacher.stride=8", "teacher.classes=[a]", "teacher.missing_classes=lowest")
    assert [fault.partition(":")[0] for fault in faults_of(tiny, *given)] == [f"teacher.{key}" for key in keys]


def test_an_option_that_is_never_active_with_an_encoder_is_not_built_with_it(tiny: dict[str, Any]) -> None:
    space = [
        "data.crop=[32,64]",
        "space.student.encoder={choice: [resnet18, hrnet_w18_small]}",
        "space.student.output_stride={choice: [32, 16], when: {student.encoder: resnet18}}",
    ]
    check_networks(parse(SearchConfig, tiny, "test", space))


def test_checking_networks_takes_no_random_numbers(tiny: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    check_networks(parse(SearchConfig, tiny, "test", ["student.encoder=resnet34"]))
    assert torch.equal(torch.get_rng_state(), before)


def test_sizes_that_a_network_cannot_evaluate_cost_no_teacher(tiny: dict[str, Any]) -> None:
    lines: list[str] = []
    network = ["student.encoder=maxvit_rmlp_pico_rw_256", "data.crop=[256,256]", "teacher.train.seed=78"]
    tiny["data"]["synthetic"] |= {"height": 256, "width": 256, "train_images": 2, "val_images": 1}
    with pytest.raises(ConfigError) as e:
        prepare(a_run(tiny, *network, "data.eval.scales=[1.0, 1.5, 0.7]"), lines.append)
    (wide, small) = e.value.faults
    assert wide.startswith("data.eval: student: maxvit_rmlp_pico_rw_256 + fpn cannot read 1 image(s) of 384x384: ")
    assert small.startswith("data.eval: student: maxvit_rmlp_pico_rw_256 + fpn cannot read 1 image(s) of 179x179: ")
    assert not [line for line in lines if line.startswith("teacher")]
    with pytest.raises(ConfigError, match=r"student: maxvit_.* of 32x48: "):
        check_evaluation(a_run(tiny, *network, "data.eval={mode: slide, crop: [32, 48]}"), (64, 64))
    check_evaluation(a_run(tiny, *network, "data.eval={mode: slide, crop: [256, 256]}"), (60, 60))


@pytest.mark.parametrize("mode", ["stored", "online"])
def test_a_step_leaves_no_trace(tiny: dict[str, Any], mode: str) -> None:
    run = a_run(tiny, f"teacher.mode={mode}")
    store = prepare_views(run.data, Form(2, "stored"), lambda line: None)
    before = torch.get_rng_state()
    files = sorted(Path(store.path).rglob("*"))
    try_step(run, store, online=mode == "online")
    assert torch.equal(torch.get_rng_state(), before)
    assert sorted(Path(store.path).rglob("*")) == files


def test_a_step_that_fails_costs_no_teacher(tiny: dict[str, Any], tmp_path: Path) -> None:
    lines: list[str] = []
    run = a_run(tiny, f"student.weights={tmp_path}/none.safetensors", "teacher.train.seed=77")
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        prepare(run, lines.append)
    assert not [line for line in lines if line.startswith("teacher")]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), RuntimeError("DefaultCPUAllocator: no")]
)
def test_too_little_memory_says_what_to_lower(
    tiny: dict[str, Any], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Distillation, "step", step)
    lines: list[str] = []
    with pytest.raises(ResourceError, match=r"train\.batch_size: got 4, .* lower train\.batch_size") as caught:
        prepare(a_run(tiny, "teacher.train.seed=78"), lines.append)
    assert "data.crop" in str(caught.value)
    assert not [line for line in lines if line.startswith("teacher")]


def test_any_other_failure_of_the_step_is_no_traceback(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes differ\nmore")

    monkeypatch.setattr(Distillation, "step", step)
    with pytest.raises(ConfigError, match=r"student: one step of mobilenetv3_small_050 .*: shapes differ$"):
        prepare(a_run(tiny, "teacher.train.seed=79"), lambda line: None)
