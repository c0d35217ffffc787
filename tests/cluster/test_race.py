"""A real search on Ray with a race over seeds, to its verdict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bpkd_search import Leaderboard
from bpkd_search.config import dump
from bpkd_search.config.load import parse
from bpkd_search.config.models import SearchConfig
from bpkd_search.experiment.paths import student_file
from bpkd_search.search.replay import replay


@pytest.mark.long
def test_a_raced_search_ends_with_a_verdict_everywhere(
    tiny_search: Callable[[], dict[str, Any]], tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    tree = tiny_search()
    tree["search"] |= {"trials": 24, "replicates": "auto", "on_end": f"echo $BPKD_SEARCH_MESSAGE > {tmp_path / 'said'}"}
    (tmp_path / "space.yaml").write_text(dump(parse(SearchConfig, tree, "test")))
    code, out, err = call("run", tmp_path / "space.yaml", "--out", tmp_path / "e")
    assert code == 0, err
    board = Leaderboard(tmp_path / "e")
    trials, race = board.trials(), board.race()
    again = trials[trials["origin"] == "replicate"]
    assert len(trials) == 28 and len(again) >= 4 and set(again["state"]) == {"COMPLETE"}
    assert race["seeds"].sum() == len(again)
    verdict = race.attrs["verdict"]
    assert verdict in out and (tmp_path / "said").read_text().strip() == verdict
    assert replay(tmp_path / "e") == (28, [])
    assert not [number for number in again["number"] if student_file(tmp_path / "e", number).exists()]
    page = tmp_path / "page.html"
    assert call("report", tmp_path / "e", "--out", page)[0] == 0
    assert verdict.replace(">", "&gt;") in page.read_text() and ">Race<" in page.read_text()
