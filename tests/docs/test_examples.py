"""What the pages show works as shown."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from bpkd_search import Leaderboard
from bpkd_search.config import RunConfig, SearchConfig, load_run
from bpkd_search.config.data import Data
from bpkd_search.config.load import parse
from bpkd_search.config.paths import set_path
from bpkd_search.predict import classify, load_student
from tests.docs.pages import DOCS, PAGES, ROOT, blocks, name, script, spans

SMALLEST = {"space": {"loss.edge_weight": {"float": [0.1, 10]}}}
ONLINE = {"teacher": {"mode": "online"}}


def test_the_loop_uses_only_the_losses_and_learns() -> None:
    (code,) = blocks(DOCS / "own-loop.md", "python")
    assert set(re.findall(r"bpkd_search\.?[\w.]*", code)) == {"bpkd_search.losses"}
    space: dict[str, list[float]] = {}
    exec(code, space)
    assert space["history"][-1] < 0.9 * space["history"][0]


def test_the_tutorial_runs_as_it_stands(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = blocks(DOCS / "tutorial.md", "python")
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
    assert exported["provenance"]["trial"] == best["number"]
    expected = parse(RunConfig, json.loads(best["config"]), "trial", ["teacher.mode=stored"]).model_dump()
    assert load_run(settings).model_dump() == {**expected, "provenance": exported["provenance"]}
    student, about = load_student(space["weights"])
    data = Data.model_validate(about["config"]["data"])
    image, _ = space["val"][0]
    mask = np.array(Image.open("predicted/street_mask.png"))
    assert (mask == classify(student, image.permute(1, 2, 0).numpy(), data)).all()
    assert Image.open("predicted/street_overlay.png").size == (64, 48)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_yaml_blocks_are_valid(page: Path) -> None:
    for block in blocks(page, "yaml"):
        given = yaml.safe_load(block)
        config = parse(SearchConfig, copy.deepcopy(SMALLEST) | given, name(page))
        assert set(given) <= config.model_fields_set


def test_the_search_space_is_the_one_described() -> None:
    config = parse(SearchConfig, yaml.safe_load(blocks(DOCS / "searching.md", "yaml")[0]), "searching.md")
    assert config.enqueue[0] == {"loss.edge_width": 3, "loss.edge_weight": 0.3}
    assert (config.teacher.train.epochs, config.search.scheduler.reduction) == (14, 3)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_keys_named_in_the_text_exist_and_their_values_are_valid(page: Path) -> None:
    known = script("schema").keys()
    blocks_named = "data|teacher|student|loss|train|search|logging"
    for span in spans(page):
        found = re.fullmatch(
            rf"(?:--set '?)?((?:{blocks_named})(?:\.[a-z_0-9]+)+|{blocks_named})(?:(?:: |=)(.+?)'?)?", span
        )
        if not found or found[1].endswith((".py", ".yaml", ".md")):
            continue
        path, value = found.groups()
        assert re.sub(r"\.\d+\.", ".", path) in known, span
        if value and not value.startswith("got "):
            tree = copy.deepcopy(SMALLEST) | copy.deepcopy(ONLINE)
            set_path(tree, path, yaml.safe_load(value))
            parse(SearchConfig, tree, span)


def test_errors_are_printed_as_shown(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (shown,) = [block for block in blocks(DOCS / "searching.md", "") if block.startswith("$ ")]
    command, printed = shown.split("\n", 1)
    code, _, err = call(*shlex.split(command.removeprefix("$ bpkd-search ")))
    assert (code, err) == (2, printed)
