"""Every search space that is installed with the package is valid, and its header gives the line that launches it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpkd_search.config import load_search
from bpkd_search.config.search_spaces import installed_spaces, summary

ROOT = Path(__file__).parent.parent / "search_spaces"


def test_every_file_of_the_folder_is_found_by_its_name() -> None:
    files = {str(path.relative_to(ROOT)).removesuffix(".yaml"): path for path in ROOT.rglob("*.y*ml")}
    assert installed_spaces() == files


@pytest.mark.parametrize("name", installed_spaces())
def test_it_is_valid_and_its_header_launches_it(name: str) -> None:
    path = installed_spaces()[name]
    header = path.read_text().split("\nname:")[0].splitlines()
    assert load_search(name).name == path.stem
    assert any(line.split("bpkd-search run ")[-1].split() == [name] or f"run {name} " in line for line in header)
    assert all(line.startswith("#") for line in header)
    assert header[0] == f"# {summary(path)}" and header[0][-1] in ".;:," and header[1] == "#"


def test_quickstart_has_16_trials_beside_the_baselines() -> None:
    assert load_search("quickstart").search.trials >= 16
