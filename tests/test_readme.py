"""What the README shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse

README = (Path(__file__).parent.parent / "README.md").read_text()


def block(heading: str, language: str) -> str:
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[0]


def test_the_loop_uses_only_the_losses_and_learns() -> None:
    code = block("The loss in your own loop", "python")
    assert set(re.findall(r"bpkd_search\.?[\w.]*", code)) == {"bpkd_search.losses"}
    space: dict[str, list[float]] = {}
    exec(code, space)
    assert space["history"][-1] < 0.9 * space["history"][0]


def test_the_search_space_is_valid() -> None:
    config = parse(SearchConfig, yaml.safe_load(block("A search space", "yaml")), "README.md")
    assert config.enqueue[0] == {"loss.edge_width": 3, "loss.edge_weight": 0.3}


def test_every_command_it_names_exists() -> None:
    from typer.main import get_command

    from bpkd_search.cli import app

    named = set(re.findall(r"bpkd-search ([a-z][a-z-]*)", README)) - {"search"}
    assert named <= set(get_command(app).commands)
