"""`simulate` and `replay` as people type them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from bpkd_search.config.load import parse
from bpkd_search.config.models import SearchConfig
from bpkd_search.experiment import folder as experiment
from bpkd_search.search.engine import Engine
from tests.driving import drive


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bpkd_search", *map(str, arguments)], capture_output=True, text=True, timeout=240
    )


@pytest.fixture
def recorded(tiny: dict[str, Any], tmp_path: Path) -> tuple[Path, Path]:
    """A space and an experiment of 24 trials, all in full."""
    tiny["search"] = {"trials": 24, "sampler": {"name": "random"}, "scheduler": {"name": "none"}}
    config = parse(SearchConfig, tiny, "test")
    experiment.create(tmp_path / "exp", config)
    engine = Engine(config, tmp_path / "exp", "test")
    drive(engine)
    engine.recorder.close()
    space = tmp_path / "space.yaml"
    tiny["search"] = {"trials": 15, "scheduler": {"grace": 1, "reduction": 3}}
    space.write_text(yaml.safe_dump(tiny))
    return space, tmp_path / "exp"


def test_strategies_are_compared_with_random_search_in_full(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    space, folder = recorded
    picture = tmp_path / "picture.png"
    done = call("simulate", space, "--table", folder, "--sampler", "tpe", "--scheduler", "asha", "--seeds", "2",
                "--picture", picture)  # fmt: skip
    assert done.returncode == 0, done.stderr
    head, *rows, drawn = done.stdout.splitlines()
    assert head.split()[:2] == ["strategy", "seconds_to_target"]
    assert [row.split("  ")[0].strip() or row.split()[0] for row in rows] and len(rows) == 2
    assert "random + none" in rows[0] and "tpe + asha" in rows[1]
    assert drawn == str(picture) and Image.open(picture).size == (1080, 630)
    again = call("simulate", space, "--table", folder, "--picture", picture)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    wrong = call("simulate", space, "--table", folder, "--sampler", "tbe")
    assert (wrong.returncode, "got 'tbe', valid: random, qmc" in wrong.stderr) == (2, True)


def test_replay_finds_no_difference_in_an_untouched_log(recorded: tuple[Path, Path]) -> None:
    done = call("replay", recorded[1])
    assert (done.returncode, done.stdout) == (0, "28 trials regenerated, 0 difference(s)\n")
