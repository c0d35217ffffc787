"""Who may know whom, held by importing each room alone and looking at what came with it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bpkd_search"

# Room -> what importing it must not bring.
RULES = {
    "bpkd_search": {"torch", "ray", "optuna", "pandas", "pyarrow"},
    "bpkd_search.cli": {"torch", "ray", "optuna", "pandas", "pyarrow", "yaml", "pydantic"},
    "bpkd_search.config": {"torch", "ray", "optuna", "pandas", "pyarrow"},
    "bpkd_search.losses": {"ray", "optuna", "pyarrow"},
    "bpkd_search.metrics": {"ray", "optuna", "pyarrow"},
    "bpkd_search.models": {"ray", "optuna", "pyarrow"},
    "bpkd_search.data.views": {"ray", "optuna", "pyarrow"},
    "bpkd_search.distill": {"ray", "optuna", "pyarrow"},
    "bpkd_search.results.leaderboard": {"torch", "ray", "optuna"},
    "bpkd_search.results.show": {"torch", "ray", "optuna"},
    "bpkd_search.results.export": {"torch", "ray", "optuna"},
    "bpkd_search.results.recorder": {"torch", "ray", "optuna"},
    "bpkd_search.search.engine": {"torch", "ray"},
}

# Room -> rooms of this package that its files must not name.
ROOMS = {
    "losses": {"models", "data", "search", "results", "distill", "config"},
    "metrics": {"models", "data", "search", "results", "distill", "config"},
    "models": {"losses", "data", "search", "results", "distill", "config"},
    "data": {"losses", "models", "search", "results", "distill", "config"},
    "results": {"losses", "models", "data", "search", "distill"},
    "config": {"losses", "models", "data", "search", "results", "distill"},
}


@pytest.mark.parametrize("module", RULES)
def test_importing_a_room_brings_only_what_it_may_know(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & RULES[module]


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_name_only_the_rooms_they_may(room: str) -> None:
    found = set()
    for path in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom):
                base = (node.module or "") if node.level == 0 else "bpkd_search." + (node.module or "")
                names = [base] if node.level != 1 else []
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            found |= {n.split(".")[1] for n in names if n.startswith("bpkd_search.")}
    assert not found & ROOMS[room]
