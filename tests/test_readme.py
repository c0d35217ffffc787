"""What the README shows works as shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from bpkd_search import Leaderboard
from bpkd_search.config import RunConfig, SearchConfig, load_run
from bpkd_search.config.load import parse
from bpkd_search.predict import classify, load_student

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(heading: str, language: str) -> list[str]:
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def block(heading: str, language: str) -> str:
    return blocks(heading, language)[0]


def test_the_loop_uses_only_the_losses_and_learns() -> None:
    code = block("The loss in your own loop", "python")
    assert set(re.findall(r"bpkd_search\.?[\w.]*", code)) == {"bpkd_search.losses"}
    space: dict[str, list[float]] = {}
    exec(code, space)
    assert space["history"][-1] < 0.9 * space["history"][0]


def test_the_tutorial_runs_as_it_stands(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = blocks("Tutorial: from a search to a student", "python")
    assert 5 <= len(cells) <= 8
    space: dict[str, Any] = {}
    for cell in cells:
        exec(cell, space)
    trials, iou, settings = space["trials"], space["iou"], space["settings"]
    assert (tmp_path / "runs/tutorial/config.yaml").is_file() and len(trials) == 10
    best = Leaderboard("runs/tutorial").best().iloc[0]
    assert iou.mean() == pytest.approx(best["miou"], abs=1e-4) == space["about"]["miou"]
    ours = Leaderboard("runs/tutorial").per_class()[best["method"]]
    assert iou.to_dict() == pytest.approx(ours.to_dict(), abs=1e-3)
    exported = yaml.safe_load(settings.read_text())
    assert (exported["provenance"]["trial"], load_run(settings).model_dump()) == (
        best["number"],
        {**parse(RunConfig, json.loads(best["config"]), "trial").model_dump(), "provenance": exported["provenance"]},
    )
    student, _ = load_student(space["weights"])
    image, _ = space["val"][0]
    mask = np.array(Image.open("predicted/street_mask.png"))
    assert (mask == classify(student, image.permute(1, 2, 0).numpy(), (48, 64))).all()
    assert Image.open("predicted/street_overlay.png").size == (64, 48)


def test_the_search_space_is_valid() -> None:
    config = parse(SearchConfig, yaml.safe_load(block("A search space", "yaml")), "README.md")
    assert config.enqueue[0] == {"loss.edge_width": 3, "loss.edge_weight": 0.3}


def test_every_command_it_names_exists() -> None:
    from typer.main import get_command

    from bpkd_search.cli import app

    named = set(re.findall(r"bpkd-search ([a-z][a-z-]*)", README)) - {"search"}
    assert named <= set(get_command(app).commands)
