"""Settings as text: what is written trains, builds, renders, and never replaces what is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bpkd_search import Leaderboard
from bpkd_search.config import SearchConfig, load_run
from bpkd_search.config.load import parse
from bpkd_search.config.points import to_tree
from bpkd_search.errors import ConfigError, ExperimentError
from bpkd_search.experiment import folder as experiment
from bpkd_search.export.card import model_card
from bpkd_search.export.settings import best_settings, to_mmseg
from bpkd_search.export.write import export
from bpkd_search.losses import Criterion, bpkd_loss
from bpkd_search.search.engine import Engine
from tests.driving import drive


@pytest.fixture
def folder(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """A finished experiment, made without Ray."""
    config = parse(SearchConfig, tiny, "test")
    experiment.create(tmp_path / "exp", config)
    engine = Engine(config, tmp_path / "exp", "test")
    drive(engine)
    engine.recorder.close()
    return tmp_path / "exp"


def test_yaml_and_json_hold_the_run_and_where_it_came_from(folder: Path, tmp_path: Path) -> None:
    files = export(folder, tmp_path / "out", 2, ["yaml", "json"])
    assert sorted(p.suffix for p in files) == [".json", ".json", ".yaml", ".yaml"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in files)
    best = Leaderboard(folder).best(2)
    for rank, path in enumerate((p for p in files if p.suffix == ".yaml"), 1):
        run = load_run(path)
        assert json.loads(path.with_suffix(".json").read_text()) == yaml.safe_load(path.read_text()) == to_tree(run)
        assert run.provenance is not None
        row = best.loc[rank]
        assert (run.provenance["trial"], run.provenance["miou"]) == (row["number"], round(row["miou"], 6))
        assert {**to_tree(run), "provenance": None} == json.loads(row["config"])


def test_text_and_card_name_the_estimate_and_the_run_does_not(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["search"] |= {"trials": 6, "scheduler": {"name": "none"}}
    config = parse(SearchConfig, tiny, "test")
    experiment.create(tmp_path / "exp", config)
    engine = Engine(config, tmp_path / "exp", "test")
    drive(engine)
    engine.recorder.close()
    files = {path.suffix: path.read_text() for path in export(tmp_path / "exp", tmp_path / "out", 1, ["yaml", "card"])}
    row = Leaderboard(tmp_path / "exp").trials(["estimate", "estimate_low", "estimate_high"]).iloc[0]
    known = f"{row['estimate']:.4f} [{row['estimate_low']:.4f}, {row['estimate_high']:.4f}]"
    said = f"Expected mean miou over seeds: {known} (95 % interval, by the search's model of all its trials)."
    assert f"# {said}\n" in files[".yaml"]
    assert said in files[".md"].replace("\\", "")
    assert "estimate" not in yaml.safe_load(files[".yaml"])["provenance"]


@pytest.mark.parametrize(
    "loss",
    [
        {"method": "bpkd", "edge_width": 5, "edge_weight": 0.5, "alpha": [1.0, 2.0, 3.0], "pre_mask": False},
        {
            "method": "mix",
            "terms": [
                {"method": "kd", "weight": {"shape": "linear", "start": 1.0, "end": 0.0, "until": 0.5}},
                {"method": "bpkd", "edge_width": 3},
            ],
        },
        {"method": "ce"},
    ],
    ids=["bpkd", "mix", "ce"],
)
def test_the_python_config_builds_the_same_loss(folder: Path, tmp_path: Path, loss: dict[str, Any]) -> None:
    [setting] = best_settings(Leaderboard(folder), 1)
    setting.config["loss"] = loss
    names: dict[str, Any] = {}
    exec(to_mmseg(setting), names)
    given = names["distill_loss"]
    assert given.pop("type") == "Criterion"
    criterion = Criterion(**given)
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 8, 8, generator=generator) for _ in range(2))
    labels = torch.randint(0, 3, (2, 16, 16), generator=generator)
    terms = criterion(student, teacher, labels, progress=0.25)
    if loss["method"] == "bpkd":
        settings = {key: value for key, value in loss.items() if key != "method"}
        assert sum(terms.values()) == pytest.approx(bpkd_loss(student, teacher, labels, **settings).total.item())
    elif loss["method"] == "mix":
        expected = Criterion(loss["terms"])(student, teacher, labels, progress=0.25)
        assert terms == expected and set(terms) == {"kd", "bpkd.edge", "bpkd.body"}
    else:
        assert terms == {}


def test_the_card_says_scores_baselines_and_how_little_they_prove(folder: Path, tmp_path: Path) -> None:
    [path] = export(folder, tmp_path / "out", 1, ["card"])
    text = path.read_text()
    board = Leaderboard(folder)
    trials = board.trials()
    for name in ("ce", "kd", "cwd", "bpkd-paper"):
        score = trials.loc[trials["method"] == name, "miou"].iloc[0]
        assert f"| {name} (miou) | {score:.4f} |" in text
    best = board.best(1).iloc[0]
    assert f"| miou | {best['miou']:.4f} |" in text
    assert f"| trial | {best['number']} |" in text
    assert "validation split, by one training with one seed" in text
    # Every row of every table has the two cells of its header.
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in text.splitlines() if line.startswith("|"))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"crop": [32, 64]}, "their own resolution, training crops 32x64 (height x width)"),
        ({"crop": [32, 64], "resize": [96, 64]}, "96x64, training crops 32x64 (height x width)"),
        (
            {"crop": [32, 64], "resize": {"short": 48}},
            "resized to short side 48, training crops 32x64 (height x width)",
        ),
        ({"height": 32, "width": 64}, "32x64, training crops 32x64 (height x width)"),
    ],
)
def test_the_card_says_the_sizes_of_images_and_crops(folder: Path, sizes: dict[str, Any], words: str) -> None:
    [setting] = best_settings(Leaderboard(folder), 1)
    data = {key: value for key, value in setting.config["data"].items() if key not in ("height", "width", "crop")}
    config = {**setting.config, "data": {**data, "resize": None, **sizes}}
    if "height" in sizes:
        del config["data"]["resize"]
    assert f"| images | {words} |" in model_card("a", config, {"miou": 0.5}, {}, {})


def test_hostile_names_stay_inside_their_cells(folder: Path) -> None:
    [setting] = best_settings(Leaderboard(folder), 1)
    evil = "<script>alert(1)</script> | [x](javascript:y)\n# head `code`"
    config = {**setting.config, "provenance": {"experiment": evil}}
    text = model_card(evil, config, {"miou": 0.5}, {}, {evil: 0.25})
    assert "<script>" not in text and "\n# head" not in text
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in text.splitlines() if line.startswith("|"))
    assert "[x](" not in text.replace("\\[x\\](", "")


def test_nothing_is_overwritten_and_nothing_half_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    [first] = export(folder, out)
    before = first.read_bytes()
    with pytest.raises(ExperimentError, match=r"exists already; choose another --out"):
        export(folder, out, 2, ["json", "yaml"])
    assert [p.name for p in out.iterdir()] == [first.name]
    assert first.read_bytes() == before


def test_unknown_formats_are_refused_with_the_valid_ones(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got 'xml', valid: yaml, json, mmseg, card, safetensors, onnx, torch, all"):
        export(folder, tmp_path / "out", 1, ["yaml", "xml"])
    assert not (tmp_path / "out").exists()


def test_text_formats_import_no_torch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bpkd_search.export import export;"
        f"export(Path({str(folder)!r}), Path({str(tmp_path / 'out')!r}), 1, ['yaml', 'json', 'mmseg', 'card']);"
        "print({'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_an_out_that_cannot_be_a_folder_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExperimentError, match="file/out: cannot be written"):
        export(folder, tmp_path / "file" / "out")
