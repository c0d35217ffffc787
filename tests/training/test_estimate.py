"""What a search is said to need, against stores that are built and counts by hand."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bpkd_search.config import RunConfig
from bpkd_search.config.load import parse
from bpkd_search.errors import UserError
from bpkd_search.training.estimate import DEVICES, Trials, estimate, work_of
from bpkd_search.training.forms import Form, first_form
from bpkd_search.training.prepare import prepare
from bpkd_search.training.source import open_data
from bpkd_search.training.speed import Speed, measure_speed
from tests.models.teachers.foreign_networks import save_graphs, small
from tests.training.test_finished_teachers import save_logits


def a_run(tiny: dict[str, Any], *overrides: str) -> RunConfig:
    tree = {key: deepcopy(tiny[key]) for key in ("data", "teacher", "student", "loss", "train")}
    return parse(RunConfig, tree, "test", overrides)


def figures(run: RunConfig) -> dict[str, float]:
    found = estimate(run, Trials(1), open_data(run.data, "train"), open_data(run.data, "val"))
    assert all(figure.how.startswith("computed") for figure in found)
    return {figure.what: figure.value for figure in found}


def written(folder: Path) -> dict[str, int]:
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.suffix in (".npy", ".safetensors")}
    return {
        "images": sum(size for path, size in sizes.items() if "views" in path.parts and "logits-" not in str(path)),
        "teacher's logits": sum(size for path, size in sizes.items() if "logits-" in str(path)),
        "teacher's weights": sum(size for path, size in sizes.items() if path.suffix == ".safetensors"),
    }


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.views=8"],
        ["data.views=auto", "teacher.mode=stored", "data.logits=int8"],
        ["data.views=auto", "teacher.mode=maps"],
        ["data.views=auto", "teacher.mode=maps", "data.logits=topk:3", "data.resize={short: 24}", "data.crop=[32,32]"],
        ["data.views=auto", "teacher.mode=online"],
    ],
    ids=" ".join,
)
def test_the_disk_is_what_a_store_takes(tiny: dict[str, Any], tmp_path: Path, overrides: list[str]) -> None:
    # Larger than the tables of the chunks, which are not counted.
    scenes = ["data.synthetic={train_images: 40, val_images: 8, height: 64, width: 96, seed: 0}"]
    run = a_run(tiny, *scenes, "data.crop=[48,64]", *overrides, f"data.views_dir={tmp_path}", "teacher.train.epochs=1")
    expected = figures(run)
    prepare(run, lambda line: None)
    for what, size in written(tmp_path).items():
        assert expected.get(what, 0) == pytest.approx(size, rel=0.1), what


def test_sizes_that_differ_are_taken_from_some_images(tiny: dict[str, Any], tmp_path: Path) -> None:
    for split, count in (("train", 60), ("val", 20)):
        for number in range(count):
            size = (40 + 7 * number % 50, 40 + 11 * number % 60)
            for kind, mode in (("images", "RGB"), ("masks", "L")):
                path = tmp_path / "data" / kind / split / f"{number:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new(mode, size).save(path)
    given = ["data.kind=folder", f"data.root={tmp_path / 'data'}", "data.folder={class_names: [a, b]}"]
    given.append("teacher.train.epochs=1")
    run = a_run(tiny, *given, "data.views=auto", "teacher.mode=maps", f"data.views_dir={tmp_path / 'cache'}")
    expected = figures(run)
    prepare(run, lambda line: None)
    for what, size in written(tmp_path / "cache").items():
        assert expected[what] == pytest.approx(size, rel=0.1), what


def test_work_is_counted_in_images(tiny: dict[str, Any]) -> None:
    # 12 images in batches of 4: three iterations a pass, 4 epochs; the teacher has 2.
    trials = Trials(full=4, sampled=10, share=0.5, ended=0.2)
    run = a_run(tiny, "data.val_images=2")
    train, val = open_data(run.data, "train"), open_data(run.data, "val")
    work = work_of(run, first_form(run), train, val, trials)
    assert work.trained == 9 * 4 * 12
    # Nine times four validations of two images, and four more at each of the six ends.
    assert work.validated == 9 * 4 * 2 + 6 * (6 - 2)
    assert (work.teacher_trained, work.teacher_validated, work.logits) == (24, 6, 24)
    run = a_run(tiny, "train.epochs=null", "train.iterations=10", "train.validate_every=4", "train.accumulate=2")
    work = work_of(run, first_form(run), train, val, Trials(1))
    assert (work.trained, work.validated) == (10 * 8, 3 * 6)
    run = a_run(tiny, "data.views=auto", "teacher.mode=maps")
    work = work_of(run, first_form(run), train, val, Trials(1))
    # Seven scales from 0.75 to 1.5 of 32x48, plain and flipped, padded to multiples of 32.
    sizes = [(round(32 * (0.75 + step / 8)), round(48 * (0.75 + step / 8))) for step in range(7)]
    areas = [2 * (-(-height // 32) * 32) * (-(-width // 32) * 32) for height, width in sizes]
    assert work.logits == pytest.approx(12 * sum(areas) / (32 * 48))


def test_an_online_teacher_costs_memory_and_time(tiny: dict[str, Any]) -> None:
    stored, online = (figures(a_run(tiny, f"teacher.mode={mode}")) for mode in ("stored", "online"))
    assert online["most at once"] - stored["most at once"] >= online["teacher's weights"] > 0
    assert "teacher's logits" not in online and stored["teacher's logits"] > 0
    for device in DEVICES:
        assert online[f"trials, {device}"] > stored[f"trials, {device}"]
        assert online[f"teacher, {device}"] < stored[f"teacher, {device}"]
    assert stored["trials, RTX 3090"] / stored["trials, H100"] == pytest.approx(989 / 71)


def test_this_machine_is_measured_by_real_steps(tiny: dict[str, Any]) -> None:
    run = a_run(tiny)
    names = open_data(run.data, "train").class_names
    speed = measure_speed(run, Form(2, "stored"), names, ((32, 48), (32, 48)))
    assert speed.device == "this CPU"
    assert all(0 < value < 10 for name, value in vars(speed).items() if name != "device")
    found = estimate(run, Trials(2), open_data(run.data, "train"), open_data(run.data, "val"), measured=True)
    hours = {figure.what: figure for figure in found if figure.part == "time"}
    assert set(hours) == {"teacher", "training of trials", "validation of trials"}
    assert all(figure.how == "measured on this CPU" for figure in hours.values())
    # 2 runs of 4 epochs of 12 images; another process may slow either measurement down.
    assert hours["training of trials"].value * 3600 == pytest.approx(96 * speed.training, rel=1.0)
    assert isinstance(speed, Speed)


def of_teacher(tiny: dict[str, Any], tmp_path: Path, teacher: dict[str, Any], **data: Any) -> RunConfig:
    return a_run(tiny | {"teacher": teacher, "data": {**tiny["data"], **data}}, f"data.views_dir={tmp_path / 'cache'}")


# Of `small(8)`, which has stride 4: products of a 3x3 convolution, two operations each, and bytes.
PRODUCTS, WEIGHTS = 2 * 27 * 8 * (32 // 4) * (48 // 4), 4 * (27 * 8 + 8 + 4 * 8) + 8


@pytest.mark.parametrize("software", ["function", "net.pt", "net.pt2"])
def test_a_finished_teacher_of_other_software_counts_as_what_it_is(
    tiny: dict[str, Any], tmp_path: Path, software: str
) -> None:
    save_graphs(tmp_path, small(8), 32, 48)
    teacher: dict[str, Any] = {"checkpoint": str(tmp_path / software)}
    if software == "function":
        teacher = {"factory": "tests.models.teachers.foreign_networks:small", "arguments": {"classes": 8}}
    run = of_teacher(tiny, tmp_path, {**teacher, "mode": "online"})
    found = figures(run)
    # It is not trained; its scores are measured on six images, and nothing is stored of it.
    assert found["teacher, A100"] == pytest.approx(6 * PRODUCTS / DEVICES["A100"] / 3600)
    # Constants of the normalisation, six numbers, are counted too; graphs fold nothing else into theirs.
    assert found["teacher's weights"] == pytest.approx(WEIGHTS, abs=4 * 8)
    without = figures(of_teacher(tiny, tmp_path, {**teacher, "mode": "stored"}))
    more = found["trials, A100"] - without["trials, A100"]
    assert more == pytest.approx(4 * 12 * PRODUCTS / DEVICES["A100"] / 3600)
    assert found["teacher's pass"] > 4 * 4 * 8 * 8 * 12 / 2


def test_hours_of_finished_teachers_are_measured_too(tiny: dict[str, Any], tmp_path: Path) -> None:
    save_graphs(tmp_path, small(8), 32, 48)
    train, val = (open_data(a_run(tiny).data, split) for split in ("train", "val"))
    run = of_teacher(tiny, tmp_path, {"checkpoint": str(tmp_path / "net.onnx"), "mode": "online"})
    hours = {f.what: f for f in estimate(run, Trials(1), train, val) if f.part == "time"}
    assert hours["teacher, A100"].value == 0 and "--measure times them" in hours["teacher, A100"].how
    assert "--measure times them" in hours["trials, A100"].how
    measured = {f.what: f.value for f in estimate(run, Trials(1), train, val, measured=True) if f.part == "time"}
    assert all(value > 0 for value in measured.values())


def test_given_logits_cost_no_pass(tiny: dict[str, Any], tmp_path: Path) -> None:
    save_logits(tmp_path / "logits", tiny)
    given = {"views": "auto", "scale": [1.0, 1.0], "crop": [32, 32]}
    run = of_teacher(tiny, tmp_path, {"checkpoint": str(tmp_path / "logits")}, **given)
    found = figures(run)
    assert found["teacher, A100"] == 0 and found["trials, A100"] > 0 and "teacher's weights" not in found
    train, val = (open_data(run.data, split) for split in ("train", "val"))
    measured = {f.what: f.value for f in estimate(run, Trials(1), train, val, measured=True) if f.part == "time"}
    assert measured["teacher"] == 0 and measured["training of trials"] > 0


def test_classes_of_a_finished_teacher_are_compared_before_its_cost_is_counted(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    function = {"factory": "tests.models.teachers.foreign_networks:small", "arguments": {"classes": 5}}
    with pytest.raises(UserError, match="has 5 classes without names, the data 8"):
        figures(of_teacher(tiny, tmp_path, function))
