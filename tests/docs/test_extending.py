"""The page about code of one's own, as one file and one search."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bpkd_search import Leaderboard
from bpkd_search.config import RunConfig
from bpkd_search.config.data import Data
from bpkd_search.metrics import SegmentationMetrics
from bpkd_search.models.inference import predict_classes
from bpkd_search.predict import load_student
from bpkd_search.training.source import open_data
from tests.docs.pages import DOCS, blocks

PAGE = DOCS / "extending.md"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Path]:
    """The page's module in a folder of its own, which is the working directory but not on Python's path."""
    (tmp_path / "mine.py").write_text("\n\n".join(blocks(PAGE, "python")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield tmp_path
    sys.modules.pop("mine", None)


def merged(tree: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {key: merged(tree[key], other[key]) for key in tree.keys() & other.keys() if isinstance(tree[key], dict)}
    return tree | other | both


@pytest.fixture
def search(mine: Path) -> dict[str, Any]:
    """The page's blocks as one small search."""
    tree: dict[str, Any] = {
        "data": {"crop": [32, 48], "views": 1},
        "teacher": {"encoder": "mobilenetv3_small_050", "head": "fcn", "channels": 8, "train": {"epochs": 1}},
        "train": {"epochs": 1, "batch_size": 4, "device": "cpu"},
        "search": {"trials": 1, "concurrent": 1, "scheduler": {"name": "none"}, "sampler": {"name": "random"}},
    }
    for block in blocks(PAGE, "yaml"):
        tree = merged(tree, yaml.safe_load(block))
    return tree


def written(tree: dict[str, Any]) -> Path:
    path = Path("space.yaml")
    path.write_text(yaml.safe_dump(tree))
    return path


def test_the_search_runs_on_ray_and_its_student_loads(
    search: dict[str, Any], call: Call, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = call("run", written(search), "--out", "own")
    assert code == 0, err
    board = Leaderboard("own")
    best = board.best().iloc[0]
    assert board.metric == "custom_score" and 0 <= best["custom_score"] <= best["miou"] <= 1
    run = RunConfig.model_validate(json.loads(best["config"]))
    assert run.student.arguments["width"] == best["student.arguments.width"]
    assert set(json.loads(board.reports()["loss_terms"].iloc[-1])) == {"ce", "cwd", "custom"}

    (weights,) = [p for p in (mine / "own").rglob("*.safetensors") if int(p.stem.rpartition("-")[2]) == best["number"]]
    student, about = load_student(weights)
    val = open_data(Data.model_validate(about["config"]["data"]), "val")
    metrics = SegmentationMetrics(2)
    for image, label in (val[index] for index in range(len(val))):
        metrics.update(predict_classes(student, image[None], label.shape), label[None])
    scores = metrics.compute()
    assert scores.miou == pytest.approx(best["miou"], abs=1e-4)
    assert min(scores.iou) == pytest.approx(best["custom_score"], abs=1e-4)

    assert call("export", "own", "--out", "exported", "--format", "safetensors")[0] == 0
    # From elsewhere, without the module: what is missing is said, and where the search was started.
    elsewhere = mine / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(mine)])
    sys.modules.pop("mine", None)
    code, _, err = call("resume", mine / "own")
    assert code == 0, err  # nothing is left to run
    code, _, err = call("predict", weights, mine, "--out", "masks")
    assert code == 2 and "its network cannot be built: factory: no module 'mine'" in err


def with_only(search: dict[str, Any], key: str) -> dict[str, Any]:
    """The search with one part that is of one's own."""
    if not key.startswith("student"):
        del search["student"], search["space"]["student.arguments.width"]
    if not key.startswith("loss"):
        search["loss"] = {"method": "cwd"}
        search["space"] = {path: d for path, d in search["space"].items() if not path.startswith("loss")}
        search["space"]["loss.weight"] = {"float": [1, 2]}
    if not key.startswith("data.eval"):
        del search["data"]["eval"], search["search"]["metric"]
    if not key.startswith("data.custom"):
        del search["data"]["custom"]
        search["data"] |= {"kind": "synthetic", "synthetic": {"train_images": 4, "val_images": 2}}
    return search


@pytest.mark.parametrize(
    "key", ["student.factory", "loss.terms.1.function", "data.eval.metric.factory", "data.custom.factory"]
)
def test_a_resumed_search_says_where_its_modules_were(
    search: dict[str, Any], call: Call, mine: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    from bpkd_search.config.load import parse
    from bpkd_search.config.models import SearchConfig
    from bpkd_search.experiment import folder

    folder.create(mine / "own", parse(SearchConfig, with_only(search, key), "space"))
    folder.note(mine / "own", working_directory=str(mine))
    (mine / "elsewhere").mkdir()
    monkeypatch.chdir(mine / "elsewhere")
    code, _, err = call("resume", mine / "own")
    assert code == 2 and f"{key}: no module 'mine'" in err
    assert f"the search was started in {mine}; continue it there" in err and "Traceback" not in err


def test_a_resumed_search_says_where_its_relative_paths_were(
    search: dict[str, Any], call: Call, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bpkd_search.config.load import parse
    from bpkd_search.config.models import SearchConfig
    from bpkd_search.experiment import folder

    search["student"] = {"weights": "weights/mine.pt"}
    del search["space"]["student.arguments.width"]
    folder.create(mine / "own", parse(SearchConfig, search, "space"))
    folder.note(mine / "own", working_directory="/begun/here")
    code, _, err = call("resume", mine / "own")
    assert code == 2 and "weights/mine.pt: weights file cannot be read" in err
    assert "the search was started in /begun/here; continue it there" in err and "Traceback" not in err


BROKEN = """
import torch

def map_loss(student, teacher, labels, *, ignore_index):
    return student - student

def no_gradient(student, teacher, labels, *, ignore_index):
    return torch.zeros(())

def raising(student, teacher, labels, *, ignore_index):
    raise KeyError("gamma")

class Nan:
    def __init__(self, num_classes, ignore_index):
        pass
    def update(self, predictions, labels):
        pass
    def compute(self):
        return float("nan")

class Vector(Nan):
    def compute(self):
        return torch.zeros(2)

class Half(Nan):
    compute = None

class Ids:
    class_names = ["a", "b"]
    def __len__(self):
        return 2
    def __getitem__(self, index):
        return torch.zeros(3, 32, 48, dtype=torch.uint8), torch.full((32, 48), 7, dtype=torch.uint8)

class Floats(Ids):
    def __getitem__(self, index):
        return torch.zeros(3, 32, 48), torch.zeros(32, 48, dtype=torch.uint8)

class Nameless(Ids):
    class_names = None

def ids(root, split):
    return Ids()

def floats(root, split):
    return Floats()

def nameless(root, split):
    return Nameless()
"""


def test_faults_are_one_sentence_each_before_any_training(search: dict[str, Any], call: Call, mine: Path) -> None:
    (mine / "broken.py").write_text(BROKEN)
    run = {key: search[key] for key in ("data", "teacher", "student", "train")} | {"loss": {"method": "ce"}}

    def fault(**changes: Any) -> str:
        code, _, err = call("train", written(merged(run, changes)), "--out", "out")
        assert code == 2 and "Traceback" not in err, err
        assert "teacher: epoch" not in err and "train: epoch" not in err
        return err

    def loss(**given: Any) -> dict[str, Any]:
        return {"loss": {"method": "custom", **given}}

    def metric(**given: Any) -> dict[str, Any]:
        return {"data": {"eval": {"metric": given}}}

    def data(name: str) -> dict[str, Any]:
        return {"data": {"custom": {"factory": name}}}

    run["loss"] = {}
    assert "student.arguments.widht: mine:net has no such argument; did you mean width? valid: width" in fault(
        student={"arguments": {"widht": 8}}
    )
    assert "student.factory: no module 'mien'" in fault(student={"factory": "mien:net"})
    assert "loss.arguments.gama: mine:focal_kd has no such argument; did you mean gamma? valid: gamma" in fault(
        **loss(function="mine:focal_kd", arguments={"gama": 1})
    )
    assert "loss.function: is required" in fault(**loss())
    assert "loss.function: broken:map_loss returned a tensor of the shape [4, 2, 8, 12]" in fault(
        **loss(function="broken:map_loss")
    )
    assert "loss.function: broken:no_gradient returned a number without a gradient" in fault(
        **loss(function="broken:no_gradient", needs="nothing")
    )
    assert "loss.function: broken:raising raised KeyError: 'gamma'" in fault(**loss(function="broken:raising"))
    run["loss"] = {"method": "ce"}
    assert "data.eval.metric.factory: compute gives nan for a perfect" in fault(**metric(factory="broken:Nan"))
    assert "data.eval.metric.factory: compute of broken:Vector returned a tensor of the shape [2]" in fault(
        **metric(factory="broken:Vector")
    )
    assert "broken:Half makes a Half without a method compute" in fault(**metric(factory="broken:Half"))
    assert "data.eval.metric.arguments.x: broken:Nan has no such argument; valid: none" in fault(
        **metric(factory="broken:Nan", arguments={"x": 1})
    )
    run["data"] = {**run["data"], "custom": {}}
    assert "sample val_00000: label has the id 7, must be from 0 to 1, or 255" in fault(**data("broken:ids"))
    assert "image is float32 [3, 32, 48], must be uint8 [3, H, W]" in fault(**data("broken:floats"))
    assert "class_names is None, must be a list of one name per class" in fault(**data("broken:nameless"))
    assert "data.custom.arguments.images: is required by mine:squares" in fault(**data("mine:squares"))
    assert not os.path.exists("out/student.safetensors")


def test_a_loss_without_a_teacher_and_a_schedule_of_an_argument(search: dict[str, Any], call: Call, mine: Path) -> None:
    (mine / "sized.py").write_text(
        "def size(student, teacher, labels, *, ignore_index, at):\n"
        "    assert teacher is None\n"
        "    return at * student.square().mean()\n"
    )
    own = {"method": "custom", "function": "sized:size", "needs": "nothing", "weight": 0.5}
    own["arguments"] = {"at": {"start": 0.0, "end": 1.0}}
    tree = {key: search[key] for key in ("data", "teacher", "student")}
    tree |= {"loss": own, "train": {**search["train"], "epochs": 2}}
    code, _, err = call("train", written(tree), "--out", "out")
    assert code == 0, err
    assert json.loads(Path("out/metrics.json").read_text())["loss_custom"] > 0
    assert torch.isfinite(next(load_student("out/student.safetensors")[0].parameters())).all()
