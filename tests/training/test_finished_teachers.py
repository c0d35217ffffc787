"""Finished teachers of other software, from the configuration to a trained student, and what is said of bad ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.models import RunConfig
from bpkd_search.config.networks import Teacher
from bpkd_search.data import open_split
from bpkd_search.errors import UserError
from bpkd_search.models import save_weights
from bpkd_search.models.build import build_model
from bpkd_search.training.agreement import measure
from bpkd_search.training.check import check_evaluation, check_networks
from bpkd_search.training.prepare import prepare
from bpkd_search.training.probe import probe
from bpkd_search.training.teacher import FrozenTeacher, content_hash, teacher_identity
from tests.models.teachers.foreign_networks import save_graphs, save_segformer, small

NAMES = ("sky", "building", "road", "pavement", "tree", "pole", "sign", "vehicle")


def a_run(tiny: dict[str, Any], cache: Path, teacher: dict[str, Any], **data: Any) -> RunConfig:
    tree = deepcopy(tiny) | {"teacher": teacher}
    tree["data"] |= {"views_dir": str(cache), **data}
    return parse(SearchConfig, tree, "test").run()


def save_logits(
    folder: Path, tiny: dict[str, Any], splits: tuple[str, ...] = ("train", "val"), stride: int = 4
) -> None:
    """Logits of the true classes, of which the argmax is right wherever a cell is of one class."""
    for split in splits:
        data = open_split("synthetic", split, **tiny["data"]["synthetic"])
        for name, (_, label) in zip(data.names, (data[index] for index in range(len(data))), strict=True):
            truth = F.one_hot(label.long().clamp(max=7), 8).permute(2, 0, 1).float()
            array = 5 * F.avg_pool2d(truth[None], stride)[0].numpy()
            (folder / split).mkdir(parents=True, exist_ok=True)
            if name.endswith("1"):
                np.savez(folder / split / f"{name}.npz", logits=array.astype("float16"))
            else:
                np.save(folder / split / f"{name}.npy", array)


GIVEN: dict[str, Any] = {"views": "auto", "scale": [1.0, 1.0]}


def test_given_logits_become_maps_and_are_mirrored_for_flipped_crops(tiny: dict[str, Any], tmp_path: Path) -> None:
    save_logits(tmp_path / "logits", tiny)
    run = a_run(tiny, tmp_path / "cache", {"checkpoint": str(tmp_path / "logits")}, crop=[32, 32], **GIVEN)
    lines: list[str] = []
    prepared = prepare(run, lines.append)
    assert (prepared.mode, prepared.grid, prepared.agreement) == ("maps", 4, None)
    assert prepared.teacher_scores is not None and prepared.teacher_scores["miou"] > 0.5
    store = prepared.open()
    data, flipped = open_split("synthetic", "train", **tiny["data"]["synthetic"]), set()
    for epoch in range(4):
        windows = store.crops.cut(epoch, range(12))[2]  # type: ignore[attr-defined]
        parts = store.crops.gather(epoch, np.arange(12), True)
        decoded = store.logits.decode(parts[2:]).float()  # type: ignore[union-attr]
        for index, window in enumerate(windows):
            truth = F.one_hot(data[index][1].long().clamp(max=7), 8).permute(2, 0, 1).float()
            cells = 5 * F.avg_pool2d((truth.flip(-1) if window.flip else truth)[None], 4)[0]
            expected = cells[:, window.top // 4 : window.top // 4 + 8, window.left // 4 : window.left // 4 + 8]
            torch.testing.assert_close(decoded[index], expected, rtol=0, atol=0.01)
            flipped.add(window.flip)
    assert flipped == {False, True}


def test_given_logits_need_no_validation_images(tiny: dict[str, Any], tmp_path: Path) -> None:
    save_logits(tmp_path / "logits", tiny, ("train",), stride=1)
    run = a_run(tiny, tmp_path / "cache", {"checkpoint": str(tmp_path / "logits")}, crop=[32, 40], **GIVEN)
    lines: list[str] = []
    prepared = prepare(run, lines.append)
    assert prepared.teacher_scores == {} and any("no logits of all validation images" in line for line in lines)
    # At stride 1 they are the labels of the crop.
    store = prepared.open()
    _, labels, logits = store.crops.gather(0, np.arange(12), True)
    inside = labels != 255
    assert (logits.float().argmax(1)[inside] == labels[inside].clamp(max=7)).float().mean() > 0.99


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "train_00000.npy").unlink(), r"no logits of 1 of 12 train images, such as train/"),
        (
            lambda folder: np.save(folder / "train_00002.npy", np.zeros((8, 7, 12), "f4")),
            r"train_00002\.npy: has logits",
        ),
        (lambda folder: np.save(folder / "train_00002.npy", np.zeros((8, 8), "f4")), r"is float32 \[8, 8\], must be"),
        (
            lambda folder: np.save(folder / "train_00003.npy", np.zeros((8, 16, 24), "f4")),
            r"train_00003\.npy: has stride",
        ),
        (lambda folder: np.save(folder / "train_00003.npy", np.full((8, 8, 12), np.nan)), r"00003\.npy: holds values"),
        (lambda folder: np.save(folder / "train_00000.npy", np.zeros((9, 8, 12), "f4")), "has 9 classes without names"),
        (lambda folder: (folder / "train_00004.npy").write_bytes(b"x"), r"train_00004\.npy: cannot be read"),
    ],
)
def test_files_of_logits_that_do_not_fit_are_named(
    tiny: dict[str, Any], tmp_path: Path, spoil: Callable[[Path], Any], said: str
) -> None:
    save_logits(tmp_path / "logits", tiny, ("train",))
    spoil(tmp_path / "logits" / "train")
    run = a_run(tiny, tmp_path / "cache", {"checkpoint": str(tmp_path / "logits")}, **GIVEN)
    with pytest.raises(UserError, match=said):
        prepare(run, lambda line: None)


@pytest.mark.parametrize("split", ["train", "val"])
def test_logits_of_other_classes_are_told_before_any_image_is_stored(
    tiny: dict[str, Any], tmp_path: Path, split: str
) -> None:
    save_logits(tmp_path / "logits", tiny)
    for file in (tmp_path / "logits" / split).iterdir():
        file.unlink()
        np.save(file.with_suffix(".npy"), np.zeros((9, 8, 12), "f4"))
    run = a_run(tiny, tmp_path / "cache", {"checkpoint": str(tmp_path / "logits")}, **GIVEN)
    with pytest.raises(UserError, match=r"^teacher\.checkpoint: .*logits: has 9 classes without names, the data 8"):
        prepare(run, lambda line: None)
    assert not (tmp_path / "cache" / "views").exists()


def test_a_teacher_whose_logits_are_not_finite_is_told_before_any_trial(tiny: dict[str, Any], tmp_path: Path) -> None:
    spoilt = "tests.models.teachers.foreign_networks:not_finite"
    run = a_run(tiny, tmp_path / "cache", {"factory": spoilt, "mode": "online"}, views="auto")
    lines: list[str] = []
    with pytest.raises(UserError, match=r"^teacher: gives logits that are not finite"):
        prepare(run, lines.append)
    # One of this package is not known before its file is opened.
    own = {**tiny["teacher"], "mode": "online", "checkpoint": str(tmp_path / "own.safetensors")}
    network = build_model(a_run(tiny, tmp_path / "cache", {**own, "checkpoint": None}).teacher, 8, seed=0)
    torch.nn.init.constant_(network.classifier.bias, float("nan"))  # type: ignore[arg-type, union-attr]
    save_weights(tmp_path / "own.safetensors", network)
    with pytest.raises(UserError, match=r"^teacher: gives logits that are not finite"):
        prepare(a_run(tiny, tmp_path / "cache", own, views="auto"), lines.append)


def test_probabilities_instead_of_logits_are_told_before_any_trial(tiny: dict[str, Any], tmp_path: Path) -> None:
    function = {"factory": "tests.models.teachers.foreign_networks:soft", "mode": "stored"}
    with pytest.raises(UserError, match=r"^teacher\.factory: .*:soft: gives probabilities, which sum to 1"):
        prepare(a_run(tiny, tmp_path / "cache", function), lambda line: None)
    save_logits(tmp_path / "logits", tiny)
    for file in (tmp_path / "logits/train").glob("*.npy"):
        np.save(file, torch.from_numpy(np.load(file)).float().softmax(0).numpy().astype("f2"))
    run = a_run(tiny, tmp_path / "given", {"checkpoint": str(tmp_path / "logits")}, **GIVEN)
    with pytest.raises(UserError, match=r"^teacher\.checkpoint: .*\.npy: gives probabilities"):
        prepare(run, lambda line: None)
    assert not (tmp_path / "given/views").exists()


def test_a_teacher_worse_than_one_class_for_all_pixels_is_warned_of(tiny: dict[str, Any], tmp_path: Path) -> None:
    labels = torch.stack([label for _, label in open_split("synthetic", "val", **tiny["data"]["synthetic"])])
    shares = torch.bincount(labels[labels != 255].long(), minlength=8).double()
    constant = float(shares.max() / shares.sum())

    def said(order: list[int]) -> list[str]:
        folder = tmp_path / f"logits-{order[0]}"
        save_logits(folder, tiny)
        for file in folder.glob("*/*.np?"):
            loaded = np.load(file)
            np.save(file.with_suffix(".npy"), (loaded if file.suffix == ".npy" else loaded["logits"])[order])
            if file.suffix == ".npz":
                file.unlink()
        lines: list[str] = []
        run = a_run(tiny, tmp_path / "cache", {"checkpoint": str(folder)}, crop=[32, 32], **GIVEN)
        prepare(run, lines.append)
        return [line for line in lines if line.startswith("warning: the teacher is right on")]

    assert said(list(range(8))) == []
    # The same logits with the classes in another order.
    (line,) = said([1, 2, 3, 4, 5, 6, 7, 0])
    assert f"one class for every pixel would be right on {100 * constant:.1f} %: check that its classes" in line


def test_maps_need_a_teacher_of_one_stride(tiny: dict[str, Any], tmp_path: Path) -> None:
    function = {"factory": "tests.models.teachers.foreign_networks:one_grid"}
    tiny["data"]["crop"] = [32, 96]
    run = a_run(tiny, tmp_path / "cache", {**function, "mode": "maps"}, views="auto", crop=[64, 96], scale=[1.0, 2.0])
    with pytest.raises(UserError, match=r"teacher\.mode: got maps, needs logits of one stride, 8 for crops: for "):
        prepare(run, lambda line: None)
    # Left to choose, the tool takes another form.
    auto = a_run(tiny, tmp_path / "cache", function, views="auto", crop=[64, 96], scale=[1.0, 2.0])
    assert prepare(auto, lambda line: None).mode == "stored"


def faults_of(run: RunConfig) -> str:
    with pytest.raises(UserError) as caught:
        check_networks(run)
    return str(caught.value)


def test_what_a_finished_teacher_cannot_do_is_said_before_anything_is_built(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    save_logits(tmp_path / "logits", tiny, ("train",))
    given = {"checkpoint": str(tmp_path / "logits"), "mode": "online"}
    said = faults_of(a_run(tiny, tmp_path / "cache", given, views=2))
    assert "teacher.mode: got online, must be maps or auto" in said
    assert "data.views: got 2, must be auto" in said and "data.scale: got [0.75, 1.5], must be [1, 1]" in said
    save_graphs(tmp_path, small(8), fixed=True)
    fixed = {"checkpoint": str(tmp_path / "net.pt2")}
    said = faults_of(a_run(tiny, tmp_path / "cache", fixed))
    assert "reads images of 64x96 alone, got 32x48: set data.crop to [64, 96]" in said
    tiny["data"]["crop"] = [64, 96]
    with pytest.raises(
        UserError, match=r"data\.eval: .* got 32x48: set data\.eval\.mode to slide and data\.eval\.crop to \[64, 96\]"
    ):
        check_evaluation(a_run(tiny, tmp_path / "cache", fixed), (32, 48))
    slide = {"eval": {"mode": "slide", "crop": [64, 64]}}
    with pytest.raises(UserError, match=r"data\.eval: .* got 64x64: set data\.eval\.crop to \[64, 96\]"):
        check_evaluation(a_run(tiny, tmp_path / "cache", fixed, **slide), (32, 48))
    slide["eval"]["crop"] = [64, 96]
    check_evaluation(a_run(tiny, tmp_path / "cache", fixed, **slide), (32, 48))
    tiny["loss"] = {"method": "feature_mse"}
    tiny["space"] = {"loss.weight": {"float": [1, 2]}}
    said = faults_of(a_run(tiny, tmp_path / "cache", {"factory": "tests.models.teachers.foreign_networks:small"}))
    assert "which a teacher of a function of yours does not give" in said


def test_a_network_of_one_size_is_stored_on_views_if_maps_are_not_asked_for(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    save_graphs(tmp_path, small(8), 32, 48, fixed=True)
    fixed = {"checkpoint": str(tmp_path / "net.pt2")}
    prepared = prepare(a_run(tiny, tmp_path / "cache", fixed, views="auto"), lambda line: None)
    assert prepared.mode == "stored" and prepared.views == 4
    with pytest.raises(
        UserError, match=r"teacher\.mode: got maps, which are of whole images: .* reads images of 32x48"
    ):
        prepare(a_run(tiny, tmp_path / "cache", {**fixed, "mode": "maps"}, views="auto"), lambda line: None)


def test_maps_of_a_finished_teacher_agree_with_it(tiny: dict[str, Any], tmp_path: Path) -> None:
    function = {"factory": "tests.models.teachers.foreign_networks:small", "arguments": {"classes": 8}}
    run = a_run(tiny, tmp_path / "cache", {**function, "mode": "maps"}, views="auto", colour=0.0)
    prepared = prepare(run, lambda line: None)
    assert prepared.mode == "maps" and prepared.grid == 4
    store = prepared.open()
    # A network of one convolution sees of a crop almost what it sees of the image.
    assert measure(store, FrozenTeacher(run, store.class_names, Path(str(prepared.teacher)))).same_class > 0.9


def test_a_folder_whose_files_have_changed_is_opened_again(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    save_segformer(tmp_path, NAMES)
    teacher, before = Teacher(checkpoint=tmp_path), tmp_path.stat().st_mtime_ns
    first = probe(teacher)
    (tmp_path / "README.md").write_text("changes nothing")
    assert probe(teacher) is first
    # Written in place, as a copy over it is: the folder itself is as old as before.
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"]["0"] = "heaven"
    os.utime(tmp_path, ns=(before, before))
    (tmp_path / "config.json").write_text(json.dumps(config))
    os.utime(tmp_path, ns=(before, before))
    assert probe(teacher).net.opened.classes == ("heaven", *NAMES[1:])


def test_what_changes_the_logits_changes_their_key(tiny: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    save_segformer(tmp_path / "a", NAMES)
    save_segformer(tmp_path / "b", NAMES)

    def key(names: tuple[str, ...] = NAMES, **teacher: Any) -> str:
        run = a_run(tiny, tmp_path / "cache", {"checkpoint": str(tmp_path / "a"), **teacher})
        return str(teacher_identity(run, run.teacher.checkpoint or Path(), names))

    first = key()
    assert key(checkpoint=str(tmp_path / "b")) == first
    assert len({first, key(names=NAMES[::-1]), key(input={"range": 255}), key(stride=8), key(classes=NAMES[::-1])}) == 5
    before = content_hash(tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("changes nothing")
    assert content_hash(tmp_path / "a") == before
    (tmp_path / "a" / "preprocessor_config.json").write_text("{}")
    assert content_hash(tmp_path / "a") != before


def test_a_teacher_of_each_software_trains_a_student(
    call: Callable[..., tuple[int, str, str]], tiny: dict[str, Any], tmp_path: Path
) -> None:
    tiny["data"] |= {"views_dir": str(tmp_path / "cache")}
    tiny["train"]["epochs"] = 1
    del tiny["space"], tiny["search"], tiny["name"]
    save_graphs(tmp_path, small(8), 32, 48)
    teachers: dict[str, dict[str, Any]] = {
        name: {"checkpoint": str(tmp_path / name), "mode": mode}
        for name, mode in (("net.pt", "stored"), ("net.pt2", "online"))
    }
    for name, teacher in teachers.items():
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({**tiny, "teacher": teacher}))
        code, out, err = call("train", tmp_path / "run.yaml", "--out", tmp_path / f"out-{name}")
        assert code == 0, err
        assert f"teacher: {name} (" in out + err
    teacher = {"checkpoint": str(tmp_path / "net.pt"), "classes": [*NAMES[:4], "a", "b", "c", "d"]}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**tiny, "teacher": teacher}))
    code, _, err = call("train", tmp_path / "run.yaml", "--out", tmp_path / "out")
    assert code == 2 and "lacks tree, pole, sign, vehicle of the data's classes" in err and "Traceback" not in err
