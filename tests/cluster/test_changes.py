"""Resuming and confirming a search whose data, teacher, cache or configuration have changed since; real searches."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from bpkd_search import Leaderboard, run_search
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.experiment.folder import noted
from bpkd_search.models import save_weights
from bpkd_search.models.build import build_model
from tests.training.test_fingerprints import on_folder, save_scenes


@pytest.fixture(scope="module")
def finished(
    one_ray: None, tmp_path_factory: pytest.TempPathFactory, tiny_search: Callable[[], dict[str, Any]]
) -> Path:
    """A finished search (`out`) with its data, teacher and cache in one folder."""
    place = tmp_path_factory.mktemp("finished")
    tree = on_folder(tiny_search(), save_scenes(place / "data", train=8, val=4), place / "cache")
    tree["train"]["epochs"] = 1
    tree["search"] = {"trials": 1, "concurrent": 1, "scheduler": {"name": "none"}}
    run_search(parse(SearchConfig, tree, "test"), place / "out")
    return place


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    """A copy of it elsewhere, with one more trial to run: neither is a change."""
    shutil.copytree(finished, tmp_path / "copy")
    edit(tmp_path / "copy", "data.root", str(tmp_path / "copy" / "data"))
    edit(tmp_path / "copy", "data.views_dir", str(tmp_path / "copy" / "cache"))
    edit(tmp_path / "copy", "search.trials", 2)
    return tmp_path / "copy"


def edit(place: Path, path: str, value: Any) -> None:
    file = place / "out" / "config.yaml"
    tree = yaml.safe_load(file.read_text())
    block, key = path.split(".")
    tree[block][key] = value
    file.write_text(yaml.safe_dump(tree))


def flip(file: Path) -> None:
    Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file)


def trained_teacher(place: Path) -> Path:
    (file,) = (place / "cache" / "teachers").glob("*.safetensors")
    return file


def replace_teacher(place: Path) -> None:
    """Put weights of another architecture in the place of the teacher's."""
    config = parse(SearchConfig, yaml.safe_load((place / "out" / "config.yaml").read_text()), "test")
    spec = config.teacher.model_copy(update={"channels": 32})
    save_weights(trained_teacher(place), build_model(spec, 8, 0))


# Name -> what is done, the command that follows, what it must say.
CHANGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a mask": (lambda place: flip(place / "data/masks/val/0.png"), "resume", "data.val (folder in "),
    "an image": (lambda place: flip(place / "data/images/train/7.png"), "confirm", "data.train (folder in "),
    "another teacher": (replace_teacher, "resume", "teacher ("),
    "no teacher": (lambda place: trained_teacher(place).unlink(), "confirm", "is missing and would be made anew"),
    "no cache": (lambda place: shutil.rmtree(place / "cache"), "resume", "is missing and would be made anew"),
    "size": (lambda place: edit(place, "data.crop", [64, 48]), "resume", "data.crop: was [32, 48], is [64, 48]"),
    "rate": (lambda place: edit(place, "train.lr", 0.5), "confirm", "train.lr: was 0.02, is 0.5"),
}


def contents(place: Path) -> dict[Path, bytes]:
    """Every file that must stay as it is; opening the study adds a line to its journal."""
    free = ("lock", "study.journal")
    paths = (path for path in place.rglob("*") if path.is_file() and path.name not in free)
    return {path: path.read_bytes() for path in paths if path.parent.name != "hashes"}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_refused_in_words_before_anything_is_built_or_run(call, place: Path, change: str) -> None:
    make, command, said = CHANGES[change]
    make(place)
    before = contents(place)
    code, out, err = call(command, place / "out")
    assert code == 2 and "Traceback" not in out + err
    assert "has changed since the search began" in err and said in err, err
    assert f"bpkd-search {command} {place / 'out'}" in err and "--accept-changes\n" in err
    after = contents(place)
    assert {path: after[path] for path in before} == before
    assert not any(content for path, content in after.items() if path not in before)


def test_a_moved_search_with_more_trials_and_without_its_views_goes_on(call, place: Path) -> None:
    shutil.rmtree(place / "cache" / "views")
    code, _, err = call("run", place / "out" / "config.yaml", "--out", place / "out", "--resume")
    assert code == 0, err
    assert "views: 8 train images" in err and "accepted" not in err
    trials = Leaderboard(place / "out").trials()
    assert len(trials) == 6 and (trials["state"] == "COMPLETE").all()
    assert "accepted" not in noted(place / "out")


def test_an_accepted_change_is_recorded_and_the_search_goes_on(call, place: Path) -> None:
    flip(place / "data/masks/val/0.png")
    code, _, err = call("resume", place / "out", "--accept-changes")
    assert code == 0, err
    assert err.count("accepted: data.val (folder in ") == 1
    assert len(Leaderboard(place / "out").trials()) == 6
    (entry,) = noted(place / "out")["accepted"]
    (remark,) = Leaderboard(place / "out").caveats
    assert remark.startswith(f"tiny: since {entry['time']}, trials ran with accepted changes: data.val (folder in ")
    # The views and with them the teacher that is trained on them are others too.
    assert [line.split(" (")[0].split(":")[0] for line in entry["changes"]] == ["data.val", "views", "teacher"]


def test_an_accepted_teacher_that_does_not_fit_is_refused_in_one_line(call, place: Path) -> None:
    replace_teacher(place)
    facts = noted(place / "out")
    code, out, err = call("confirm", place / "out", "--top", "1", "--seeds", "2", "--accept-changes")
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 2 and "Traceback" not in out + err
    assert "does not fit the model; " in line and "shapes differ" in line
    assert noted(place / "out") == facts
