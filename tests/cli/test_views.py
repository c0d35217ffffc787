"""`bpkd-search views`: built ahead, listed, checked and freed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bpkd_search.config import RunConfig, SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.data.views.store import ViewStore
from bpkd_search.models.build import logits_shape
from bpkd_search.training.forms import first_form
from bpkd_search.training.prepare import needed_bytes, prepare


@pytest.fixture
def space(tiny: dict[str, Any], tmp_path: Path) -> Path:
    tiny["data"]["views_dir"] = str(tmp_path / "kept")
    tiny["teacher"]["train"]["epochs"] = 1
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return path


def test_views_are_built_once_listed_mended_and_freed(call, space: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert call("views", "--dir", kept) == (0, "", "")
    code, out, err = call("views", space)
    assert code == 0
    assert "views: 12 train images x 2" in err and "logits: the teacher on 24 views, kept as float16" in err
    line = "synthetic 12 images x 2 views, 32x48  logits: mobilenetv3_small_050 + fpn (float16)"
    assert line in out
    code, out, err = call("views", space, "--set", "data.logits=int8")
    assert "views:" not in err and "kept as int8" in err
    assert "fpn (float16)" in out and "fpn (int8)" in out

    (path,) = (kept / "views").iterdir()
    labels = path / "train" / "labels.npy"
    before = labels.read_bytes()
    labels.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    code, _, err = call("views", "--verify", "--dir", kept)
    assert code == 2
    assert f"{path.name}/train: damaged chunks: 0" in err and "builds them again" in err
    assert "unfinished" in call("views", "--list", "--dir", kept)[1]
    assert call("views", space, "--verify")[0] == 0
    assert labels.read_bytes() == before
    sound = (0, f"{kept / 'views'}: 1 store(s) checked, no damaged chunks\n", "")
    assert call("views", "--verify", "--dir", kept) == sound
    assert f"{path}: checked, no damaged chunks" in call("views", space, "--verify")[2]

    reader = ViewStore(path)
    code, _, err = call("views", "--prune", path.name, "--dir", kept)
    assert (code, "is in use by another process" in err) == (2, True)
    del reader
    assert call("views", "--unused-for", "1", "--dir", kept) == (0, "", "")
    code, _, err = call("views", "--prune", path.name, "--dir", kept)
    assert (code, f"removing {path.name}" in err, path.exists()) == (0, True, False)
    code, _, err = call("views", "--prune", "gone", "--dir", kept)
    assert (code, "has no store 'gone'" in err) == (2, True)
    code, _, err = call("views", space, "--prune", "gone")
    assert (code, "take no space" in err) == (2, True)


def run_of(tiny: dict[str, Any], tmp_path: Path, **data: Any) -> RunConfig:
    tiny["data"] |= {"views_dir": str(tmp_path / "kept"), **data}
    tiny["teacher"]["train"]["epochs"] = 1
    return parse(SearchConfig, tiny, "test").run()


def test_what_is_needed_is_what_is_written(tiny: dict[str, Any], tmp_path: Path) -> None:
    run = run_of(tiny, tmp_path, logits="topk:2")
    form = first_form(run)
    needed = needed_bytes(run, form)
    prepared = prepare(run, lambda line: None)
    store = prepared.open()
    images = [(Path(prepared.store) / "train" / "images.npy"), (Path(prepared.store) / "train" / "labels.npy")]
    arrays = [np.load(path) for path in (*images, Path(prepared.store) / "validation" / "records.npy")]
    assert needed == {
        "the images": sum(array.nbytes for array in arrays),
        "the teacher's logits": sum(array.nbytes for array in store.logits.arrays.values()),
    }
    assert sum(needed_bytes(run, form).values()) == 0
    _, _, logits = next(store.epoch(0, 4, 0))
    assert tuple(logits.shape[1:]) == logits_shape(run.teacher, 8, 32, 48)


def test_computed_views_leave_only_validation_and_logits_on_the_disk(tiny: dict[str, Any], tmp_path: Path) -> None:
    run = run_of(tiny, tmp_path, images="computed")
    computed = prepare(run, lambda line: None)
    assert not (Path(computed.store) / "train").exists()
    batches = [tuple(t.clone() for t in batch) for batch in computed.open().epoch(1, 4, 3)]
    stored = prepare(run_of(tiny, tmp_path, images="stored"), lambda line: None)
    assert (stored.store, stored.logits, stored.computed) == (computed.store, computed.logits, False)
    for a, b in zip(batches, stored.open().epoch(1, 4, 3), strict=True):
        assert all((x == y).all() for x, y in zip(a, b, strict=True))


def test_a_disk_too_small_for_both_is_refused_with_each_size(
    call, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 30 images and labels of 32x48.
    views = 30 * 4 * 32 * 48
    usage = shutil.disk_usage(tmp_path)
    # Room for the views alone.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=views + 100))
    code, _, err = call("views", space)
    assert code == 2
    # 30 images of 32x48 in four bytes a pixel; 24 views of 8 classes at stride 4 in two.
    assert "the images 180 KiB and the teacher's logits 36 KiB are needed and the disk has 180 KiB free" in err
    assert "topk:K" in err
    assert not (tmp_path / "kept" / "views").exists()
