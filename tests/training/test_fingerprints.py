"""What the trials of a search read, by content: what changes it and what does not."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.data import open_split
from bpkd_search.errors import CheckpointError, ConfigError
from bpkd_search.training.fingerprints import fingerprints


def save_scenes(root: Path, **counts: int) -> Path:
    """Synthetic scenes as a folder data set."""
    for split, count in counts.items():
        scenes = open_split("synthetic", split, height=32, width=48, train_images=count, val_images=count)
        for index in range(count):
            image, label = scenes[index]
            for kind, array in (("images", image.permute(1, 2, 0).numpy()), ("masks", label.numpy())):
                path = root / kind / split / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return root


def on_folder(tiny: dict[str, Any], root: Path, cache: Path) -> dict[str, Any]:
    """The tiny search on a folder data set, with its own cache."""
    names = list(open_split("synthetic", "val").class_names)
    del tiny["data"]["synthetic"]
    tiny["data"] |= {"kind": "folder", "root": str(root), "folder": {"class_names": names}, "views_dir": str(cache)}
    return tiny


@pytest.fixture
def search(tiny: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A search with a folder of data, and files of weights for teacher and student."""
    tree = on_folder(tiny, save_scenes(tmp_path / "data", train=4, val=2), tmp_path / "cache")
    for name in ("teacher", "student"):
        save_weights(tmp_path / f"{name}.pt", name)
    tree["teacher"]["checkpoint"] = str(tmp_path / "teacher.pt")
    tree["student"]["weights"] = str(tmp_path / "student.pt")
    tree["train"]["device"] = "cpu"
    return tree


def save_weights(path: Path, word: str) -> None:
    """A file of tensors that differs from those with other words; the names of a teacher's classes are read from it."""
    torch.save({"word": torch.tensor(list(word.encode()))}, path)


def values(tree: dict[str, Any]) -> dict[str, str | None]:
    return {name: content.value for name, content in fingerprints(parse(SearchConfig, tree, "test")).items()}


def changed(before: dict[str, str | None], after: dict[str, str | None]) -> set[str]:
    assert set(before) == set(after)
    return {name for name in before if before[name] != after[name]}


def test_contents_are_those_of_the_files_wherever_they_are(search: dict[str, Any], tmp_path: Path) -> None:
    before = values(search)
    for name, file in (("teacher", "teacher.pt"), ("student.weights", "student.pt")):
        assert before[name] == hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()[:16]
    assert (before["data.train"] or "").startswith("4 images, ") and (before["data.val"] or "").startswith("2 images, ")
    assert before["teacher.precision"] == "cpu float32"
    shutil.move(tmp_path / "data", tmp_path / "moved")
    shutil.move(tmp_path / "teacher.pt", tmp_path / "moved" / "renamed.pt")
    search["data"] |= {"root": str(tmp_path / "moved"), "views_dir": str(tmp_path / "other")}
    search["teacher"]["checkpoint"] = str(tmp_path / "moved" / "renamed.pt")
    assert values(search) == before


def test_each_content_is_told_from_the_others(search: dict[str, Any], tmp_path: Path) -> None:
    before = values(search)
    save_weights(tmp_path / "teacher.pt", "another")
    assert changed(before, values(search)) == {"teacher"}
    (tmp_path / "student.pt").write_bytes(b"another")
    assert changed(before, values(search)) == {"teacher", "student.weights"}
    mask = tmp_path / "data" / "masks" / "val" / "0.png"
    Image.open(mask).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mask)
    assert changed(before, values(search)) == {"teacher", "student.weights", "data.val", "views"}
    search["data"]["flip"] = 0.1
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind / "train" / "3.png").unlink()
    after = values(search)
    assert (after["data.train"] or "").startswith("3 images, ")


def test_weights_among_which_a_search_chooses_are_contents_too(search: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "two.pt").write_bytes(b"two")
    del search["student"]["weights"]
    search["space"]["student.weights"] = {"choice": [str(tmp_path / "student.pt"), str(tmp_path / "two.pt")]}
    before = values(search)
    (tmp_path / "two.pt").write_bytes(b"changed")
    assert changed(before, values(search)) == {"student.weights"}


def test_a_teacher_that_is_still_to_be_trained_is_missing(search: dict[str, Any], tmp_path: Path) -> None:
    search["teacher"]["checkpoint"] = None
    found = fingerprints(parse(SearchConfig, search, "test"))["teacher"]
    assert found.value is None
    Path(found.place).parent.mkdir(parents=True)
    Path(found.place).write_bytes(b"trained")
    assert values(search)["teacher"] == hashlib.sha256(b"trained").hexdigest()[:16]


def test_a_missing_file_of_weights_is_an_error(search: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "student.pt").unlink()
    with pytest.raises(CheckpointError, match=r"^student\.weights: .*student\.pt: weights file cannot be read"):
        fingerprints(parse(SearchConfig, search, "test"))
    (tmp_path / "teacher.pt").unlink()
    with pytest.raises(CheckpointError, match=r"^teacher\.checkpoint: .*teacher\.pt: weights file cannot be read"):
        fingerprints(parse(SearchConfig, search, "test"))


def test_the_code_of_a_module_that_is_named_is_a_content(
    search: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("fingerprinted_loss", "fingerprinted_metric"):
        (tmp_path / f"{name}.py").write_text("def made(student, teacher, labels, *, ignore_index): ...")
    search["loss"] = {"terms": [{"method": "cwd"}, {"method": "custom", "function": "fingerprinted_loss:made"}]}
    search["space"] = {"loss.terms.1.weight": {"float": [1, 2]}}
    search["data"]["eval"] = {"metric": {"factory": "fingerprinted_metric:made"}}
    before = values(search)
    (tmp_path / "fingerprinted_loss.py").write_text("def made(student, teacher, labels, *, ignore_index): pass")
    assert changed(before, values(search)) == {"code of fingerprinted_loss"}
    found = fingerprints(parse(SearchConfig, search, "test"))["code of fingerprinted_metric"]
    assert found.place == str(tmp_path / "fingerprinted_metric.py")
    search["loss"]["terms"][1]["function"] = "fingerprinted_loss:maed"
    with pytest.raises(ConfigError, match=r"loss\.terms\.1\.function: got 'fingerprinted_loss:maed', but"):
        fingerprints(parse(SearchConfig, search, "test"))
