"""`bpkd-search validate --cost`: what a search needs, on one screen or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture
def space(tiny: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return path


def test_a_table_says_of_each_figure_where_it_comes_from(call, space: Path) -> None:
    code, out, err = call("validate", space, "--cost")
    first, *rows = out.splitlines()
    assert (code, first, err) == (0, f"{space}: ok", "")
    assert [row.split()[0] for row in rows if not row.startswith(" ")] == ["trials", "disk", "memory", "time"]
    assert rows[0].split() == ["trials", "baselines,", "in", "full", "4.0", "runs", "computed"]
    assert all("computed" in row or "expected" in row for row in rows)
    assert "A100" in out and " TFLOP/s" in out


def test_the_figures_as_json_are_those_of_the_table(call, space: Path) -> None:
    code, out, _ = call("validate", space, "--cost", "--json", "--measure")
    figures = json.loads(out)[str(space)]
    assert code == 0
    assert {figure["part"] for figure in figures} == {"trials", "disk", "memory", "time"}
    assert all(set(figure) == {"part", "what", "value", "unit", "how"} for figure in figures)
    assert {figure["how"] for figure in figures if figure["part"] == "time"} == {"measured on this CPU"}


def test_a_run_has_a_cost_too_and_errors_come_first(call, tiny: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text(yaml.safe_dump({key: tiny[key] for key in ("data", "teacher", "student", "loss", "train")}))
    code, out, _ = call("validate", run, "--cost")
    assert code == 0 and "trials" not in out.splitlines()[1] and "disk" in out
    code, out, err = call("validate", run, "--cost", "--set", "train.epochs=0")
    assert (code, out) == (2, "") and "train.epochs: got 0" in err
    assert call("validate", run, "--json")[2] == "error: --json: needs --cost\n"
    assert call("validate", run, "--measure")[2] == "error: --measure: needs --cost\n"
    code, _, err = call("validate", "paper/cityscapes-pspnet", "--cost", "--set", f"data.root={tmp_path / 'no'}")
    assert code == 2 and "no such directory" in err
