"""Every search space that ships is valid, and its header says how to launch it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpkd_search.config import load_search

ROOT = Path(__file__).parent.parent / "search_spaces"
FILES = sorted(ROOT.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(ROOT)) for p in FILES])
def test_it_is_valid_and_its_header_launches_it(path: Path) -> None:
    config = load_search(path)
    header = path.read_text().split("\n\n")[0]
    assert f"bpkd-search run search_spaces/{path.relative_to(ROOT)}" in header
    assert config.name == path.stem


def test_quickstart_has_16_trials_beside_the_baselines() -> None:
    assert load_search(ROOT / "quickstart.yaml").search.trials >= 16
