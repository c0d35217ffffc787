"""The search spaces of the paper, run for two steps on drawn images of the data sets' own sizes and encodings.

In the ordinary tests networks, crops and images are small; the long ones have the networks, crops, strides and losses
of the spaces, and change the length and the batch, which is of two images.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bpkd_search import report, run_search
from bpkd_search.config import load_search
from bpkd_search.config.search_spaces import installed_spaces
from bpkd_search.models import save_weights
from bpkd_search.models.build import build_model
from bpkd_search.training.estimate import Trials, estimate
from bpkd_search.training.source import open_data
from bpkd_search.training.train import train
from tests.drawn import OFFICIAL, draw_dataset

PAPER = [name for name in installed_spaces() if name.startswith("paper/")]
SHORT = [
    "teacher.train.iterations=1",
    "teacher.train.batch_size=2",
    "train.iterations=2",
    "train.validate_every=1",
    "train.batch_size=2",
]
# Sizes as small as the networks take them; images are an eighth as long and wide.
SMALL = {
    "cityscapes": ["data.crop=[64,64]"],
    "ade20k": ["data.resize={short: 64}", "data.crop=[64,64]"],
    "pascal_context": ["data.resize={long: 64}", "data.crop=[64,64]"],
}
SHRINK = 8
NARROW = ["teacher.encoder=resnet18_v1c", "teacher.channels=32", "student.channels=16"]


def trained(name: str, folder: Path, *overrides: str, shrink: int = 1, images: int = 3) -> dict[str, Any]:
    """Everything a trial needs and does: teacher, its logits, two steps with a validation after each."""
    kind = load_search(name).data.kind
    root = draw_dataset(kind, folder / "data", train=images, val=1, shrink=shrink)
    given = [*SHORT, f"data.root={root}", f"data.views_dir={folder / 'cache'}", *overrides]
    run, said = load_search(name, given).run(), list[str]()
    expected = {
        figure.what: figure.value
        for figure in estimate(run, Trials(1), open_data(run.data, "train"), open_data(run.data, "val"))
    }
    metrics = train(run, folder / "run", said.append)
    assert any(line.startswith("teacher: ") for line in said)
    assert any(f"logits: the teacher on {images} whole images" in line for line in said) == (run.teacher.mode == "maps")
    stored = sum(path.stat().st_size for path in (folder / "cache/views").rglob("*.npy"))
    assert expected["images"] + expected.get("teacher's logits", 0) == pytest.approx(stored, rel=0.1)
    history = pd.read_csv(folder / "run" / "history.csv")
    assert history["iteration"].tolist() == ([1, 2] if run.train.validate_every == 1 else [2])
    terms = history[["loss_ce", "loss_bpkd.edge", "loss_bpkd.body"]]
    assert (terms > 0).all(axis=None) and all(math.isfinite(value) for value in terms.to_numpy().ravel())
    assert 0 <= metrics["miou"] <= 1 and 0 <= metrics["teacher_miou"] <= 1
    assert metrics["parameters"] * 4 == expected["weights"]
    return metrics


@pytest.mark.parametrize("name", ["paper/pascal-context-pspnet-night", "paper/cityscapes-isanet"])
def test_two_small_steps(name: str, tmp_path: Path) -> None:
    trained(name, tmp_path, *SMALL[load_search(name).data.kind], *NARROW, shrink=SHRINK)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in PAPER if not name.endswith("-night") or "hrnet" in name])
def test_two_steps_at_full_size(name: str, tmp_path: Path) -> None:
    # On the paper's crops one step of a teacher's training takes up to 11 GB: it is a file, as the space's header says.
    given = ["train.validate_every=2", "search.scheduler={name: none}"]
    if not name.endswith("-night"):
        config = load_search(name)
        network = build_model(config.teacher, OFFICIAL[config.data.kind].classes, seed=0)
        save_weights(tmp_path / "teacher.safetensors", network)
        given.append(f"teacher.checkpoint={tmp_path / 'teacher.safetensors'}")
    trained(name, tmp_path, *given, images=2)


@pytest.mark.long
def test_a_search_to_its_report(tmp_path: Path) -> None:
    name = "paper/ade20k-isanet-night"
    root = draw_dataset("ade20k", tmp_path / "data", train=4, val=2, shrink=SHRINK)
    given = [*SHORT, *SMALL["ade20k"], *NARROW, f"data.root={root}", f"data.views_dir={tmp_path / 'cache'}"]
    config = load_search(name, [*given, "search.trials=1", "search.scheduler={grace: 1}"])
    board = run_search(config, tmp_path / "search")
    assert len(board.trials()) == 5
    page = tmp_path / "page.html"
    report(tmp_path / "search", page)
    assert "isanet" in page.read_text()
