"""What `auto` chooses, what excludes each other, and what a form that fails its check falls back to."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from torch.nn import functional as F

from bpkd_search.config import RunConfig, SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.points import needs_features
from bpkd_search.errors import ConfigError, ResourceError
from bpkd_search.training import prepare as module
from bpkd_search.training.agreement import Agreement, measure
from bpkd_search.training.evaluation import evaluate, evaluate_run
from bpkd_search.training.forms import Form, first_form, forms, repeats
from bpkd_search.training.prepare import Prepared, prepare
from bpkd_search.training.process_cache import ProcessCache
from bpkd_search.training.source import open_data
from bpkd_search.training.teacher import FrozenTeacher


def a_run(tiny: dict[str, Any], *overrides: str) -> RunConfig:
    tree = deepcopy(tiny)
    tree["data"].pop("views")
    tree["data"]["crop"] = [32, 48]
    return parse(RunConfig, {key: tree[key] for key in ("data", "teacher", "student", "loss", "train")}, "t", overrides)


def found(tiny: dict[str, Any], *overrides: str) -> list[Form]:
    run = a_run(tiny, *overrides)
    return forms(run, open_data(run.data, "train"))


def test_auto_takes_views_for_short_runs_and_maps_for_long_ones(tiny: dict[str, Any]) -> None:
    # 14 maps of 32x64 (padded) to 64x96 an image; a view has 32x48 pixels.
    assert found(tiny) == [Form(4, "stored")]
    long = [Form(0, "maps", 4), Form(400, "stored"), Form(0, "online")]
    assert found(tiny, "train.epochs=400") == long
    assert found(tiny, "train.epochs=400", "data.disk=0.00001") == [Form(0, "maps", 4), Form(0, "online")]
    assert found(tiny, "train.gpu_seconds=9") == [Form(0, "maps", 4), Form(0, "online")]
    # 12 images in batches of 4: three iterations a pass.
    assert found(tiny, "train.epochs=null", "train.iterations=7", "train.validate_every=7") == [Form(3, "stored")]
    assert found(tiny, "train.epochs=null", "train.iterations=1200", "train.validate_every=7") == long
    # Slices need crops of whole cells of logits.
    assert found(tiny, "train.epochs=400", "data.crop=[34,48]") == [Form(400, "stored"), Form(0, "online")]
    assert found(tiny, "data.views=3") == [Form(3, "stored")]


def test_what_is_asked_for_is_taken(tiny: dict[str, Any]) -> None:
    assert found(tiny, "teacher.mode=maps") == [Form(0, "maps", 4)]
    assert found(tiny, "teacher.mode=online") == [Form(0, "online")]
    assert found(tiny, "teacher.mode=online", "data.views=3") == [Form(3, "online")]
    assert found(tiny, "teacher.mode=stored") == [Form(4, "stored")]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["teacher.mode=maps", "data.views=3"], r"data\.views: got 3, must be auto with teacher\.mode: maps"),
        (["teacher.mode=stored", "train.epochs=1200"], r"data\.views: got auto with 1200 epochs, .* to maps"),
        (["teacher.mode=maps", "data.crop=[33,48]"], r"data.crop: got \[33, 48\], must be multiples of 4, the stride"),
        (
            ["teacher.mode=stored", "train.gpu_seconds=9"],
            "data.views: got auto, must be a number with teacher.mode: stored and",
        ),
    ],
)
def test_what_excludes_each_other_is_said_before_anything_is_made(
    tiny: dict[str, Any], overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        found(tiny, *overrides)


def test_a_loss_on_features_runs_the_teacher(tiny: dict[str, Any]) -> None:
    assert found(tiny, "loss={method: feature_mse}") == [Form(0, "online")]
    tiny["space"], tiny["loss"] = {"loss.method": {"choice": ["kd", "feature_mse"]}}, {"method": "kd"}
    search = parse(SearchConfig, tiny, "test", ["data.views=auto"])
    assert needs_features(search) and not needs_features(search.run())
    assert first_form(search) == Form(0, "online")


def test_auto_has_a_view_for_every_epoch_of_the_largest_batch(tiny: dict[str, Any]) -> None:
    # 12 images: 7 iterations are three passes in batches of 4, four of 6, and seven of 4 * 3.
    length = ["data.views=auto", "train.epochs=null", "train.iterations=7", "train.validate_every=7"]
    for space, views in (
        ({"train.batch_size": {"choice": [2, 4]}}, 3),
        ({"train.batch_size": {"choice": [2, 6]}}, 4),
        ({"train.batch_size": {"int": [2, 6], "step": 2}}, 4),
        ({"train.batch_size": {"choice": [2]}, "train.accumulate": {"int": [1, 3]}}, 7),
    ):
        search = parse(SearchConfig, {**deepcopy(tiny), "space": space}, "test", length)
        assert first_form(search) == Form(views, "stored")
        assert first_form(search.run()) == Form(3, "stored")


def test_repeats_are_warned_of_from_five_on(tiny: dict[str, Any]) -> None:
    assert repeats(a_run(tiny), Form(1, "stored"), 12) is None
    warning = repeats(a_run(tiny, "train.epochs=9"), Form(2, "stored"), 12)
    assert warning is not None and "each of the 2 views of an image is trained on 4 times" in warning
    assert repeats(a_run(tiny, "train.epochs=9"), Form(0, "maps", 4), 12) is None


def test_maps_that_disagree_are_not_relied_on(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"data.views_dir={tmp_path}"
    lines: list[str] = []
    same = Agreement(132, accuracy_maps=0.70, accuracy_crops=0.704, same_class=0.97, kl=0.01)
    monkeypatch.setattr(module, "measure", lambda store, teacher: same)
    good = prepare(a_run(tiny, where, "train.epochs=400"), lines.append)
    assert (good.views, good.mode) == (0, "maps")
    assert good.agreement is not None and good.agreement["crops"] == 132
    assert any(line.startswith("maps: on 132 new crops the stored teacher is right on ") for line in lines)

    bad = Agreement(128, accuracy_maps=0.70, accuracy_crops=0.71, same_class=0.9, kl=0.1)
    monkeypatch.setattr(module, "measure", lambda store, teacher: bad)
    lines.clear()
    other = prepare(a_run(tiny, where, "train.epochs=400", "data.disk=0.00001"), lines.append)
    assert (other.mode, other.logits, other.teacher) == ("online", None, good.teacher)
    assert any("the maps lose more than 0.5 points of the teacher's accuracy; another form is used" in x for x in lines)
    # Asked for, they are used all the same.
    forced = prepare(a_run(tiny, where, "train.epochs=400", "teacher.mode=maps"), lines.append)
    assert forced.mode == "maps" and lines[-1].endswith("points of the teacher's accuracy")


def test_agreement_is_that_of_two_teachers_pixel_by_pixel(tiny: dict[str, Any], tmp_path: Path) -> None:
    run = a_run(tiny, f"data.views_dir={tmp_path}", "teacher.mode=maps", "data.colour=0")
    prepared = prepare(run, lambda line: None)
    store, teacher = prepared.open(), FrozenTeacher(run, prepared.open().class_names, Path(str(prepared.teacher)))
    (kept,) = store.logits.path.glob("agreement-*.json")
    kept.unlink()
    right_maps = right_crops = same = pixels = 0
    kl = 0.0
    for epoch in range(1_000_000, 1_000_011):
        for index in range(store.num_images):
            images, labels, cut = store.crops.cut(epoch, [index])
            stored = store.logits.decode(store.logits.gather(store.manifest.train_sizes, [index], cut)).float()
            a, b = (F.interpolate(x, labels.shape[-2:], mode="bilinear") for x in (stored, teacher(images)))
            known = labels != 255
            pixels += int(known.sum())
            right_maps += int((a.argmax(1) == labels)[known].sum())
            right_crops += int((b.argmax(1) == labels)[known].sum())
            same += int((a.argmax(1) == b.argmax(1))[known].sum())
            kl += float(F.kl_div(a.log_softmax(1), b.softmax(1), reduction="none").sum(1)[known].sum())
    got = measure(store, teacher)
    assert got.crops == 132
    assert got.accuracy_maps == pytest.approx(right_maps / pixels, abs=1e-4)
    assert got.accuracy_crops == pytest.approx(right_crops / pixels, abs=1e-4)
    assert got.same_class == pytest.approx(same / pixels, abs=1e-4)
    assert got.kl == pytest.approx(kl / pixels, rel=1e-3)
    assert measure(store, None) == got  # kept beside the maps


def test_a_disk_too_small_for_maps_is_said_before_anything_is_made(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    lines: list[str] = []
    with pytest.raises(
        ResourceError, match=r"the images 108 KiB and the teacher's logits 340 KiB are needed .*data\.scale_steps"
    ):
        prepare(a_run(tiny, f"data.views_dir={tmp_path}", "teacher.mode=maps"), lines.append)
    assert not lines and not (tmp_path / "views").exists()


def test_auto_passes_over_maps_that_the_disk_cannot_hold_but_not_over_those_it_holds(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure", lambda store, teacher: Agreement(132, 0.7, 0.7, 0.97, 0.01))
    usage, lines = shutil.disk_usage(tmp_path), list[str]()

    def prepared(folder: str, free: int) -> Prepared:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
        settings = ["train.epochs=400", "data.disk=0.00001", f"data.views_dir={tmp_path / folder}"]
        return prepare(a_run(tiny, *settings), lines.append)

    # The images take 108 KiB, the maps 340.
    assert prepared("small", 300_000).mode == "online"
    assert "maps: needs more than the disk has free; another form is used" in lines
    assert prepared("large", 10**9).mode == "maps"
    assert prepared("large", 1000).mode == "maps"


@pytest.mark.parametrize("mode", ["maps", "online"])
def test_a_run_on_fresh_crops_learns_and_reports_on_a_sample(tiny: dict[str, Any], tmp_path: Path, mode: str) -> None:
    run = a_run(tiny, f"data.views_dir={tmp_path}", f"teacher.mode={mode}", "data.val_images=2", "train.epochs=3")
    prepared = prepare(run, lambda line: None)
    training = ProcessCache().start(run, prepared)
    losses = []
    while not training.finished:
        losses.append(training.train_epoch()["loss_ce"])
        rows = None if training.finished else training.store.val_sample(2)
        expected = evaluate(training.student, training.store, training.device, run.data.evaluation, rows)
        assert repr(evaluate_run(training, run.data)) == repr(expected)
    assert losses[-1] < losses[0]
