"""Real searches on Ray with a memory: the second begins with the best of the first; refusals come early."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bpkd_search import Leaderboard, run_search
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.memory import Memory
from bpkd_search.search.replay import replay


def config_of(tree: dict[str, Any], memory: Path | str, name: str, **search: Any) -> SearchConfig:
    tree["search"] |= {"memory": str(memory), **search}
    return parse(SearchConfig, {**tree, "name": name}, "test")


def test_a_second_search_begins_with_the_best_of_the_first(
    one_ray: None, tiny_search: Callable[[], dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    memory = tmp_path / "memory"
    tree, search = tiny_search(), {"trials": 3, "concurrent": 1, "scheduler": {"name": "none"}}
    tree["train"]["epochs"] = 1
    first = run_search(config_of(tree, memory, "first", **search), tmp_path / "first")
    (file,) = memory.iterdir()
    assert f"memory: the table of this search is {file}" in capfd.readouterr().err
    second = run_search(config_of(tree, memory, "second", **search, seed=5), tmp_path / "second")
    assert len(list(memory.iterdir())) == 2
    names = ["loss.edge_weight", "loss.edge_width"]
    given = second.trials()
    given = given[given["origin"] == "memory"]
    tried = {tuple(row) for row in first.trials()[names].dropna().to_numpy().tolist()}
    assert {tuple(row) for row in given[names].to_numpy().tolist()} <= tried
    assert len(given) == 3
    assert replay(tmp_path / "second") == (7, [])
    (past, other), faults = Memory(memory).searches()
    assert not faults and {past.name, other.name} == {"first", "second"}
    assert past.contents["teacher"] == other.contents["teacher"]


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_memory_that_cannot_be_written_to_is_refused_before_the_teacher_is_trained(
    tiny: dict[str, Any], tmp_path: Path, where: str
) -> None:
    (tmp_path / "file").write_text("")
    tiny["teacher"]["train"]["epochs"] = 1000
    with pytest.raises(ExperimentError, match="cannot be written to") as caught:
        run_search(config_of(tiny, tmp_path / where, "e"), tmp_path / "e")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "e").exists()  # the same command works once that is put right


def test_a_memory_with_a_damaged_table_is_refused_before_the_teacher_is_trained(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "a.parquet").write_bytes(b"torn")
    tiny["teacher"]["train"]["epochs"] = 1000
    with pytest.raises(ExperimentError, match=r"a\.parquet: cannot be read"):
        run_search(config_of(tiny, tmp_path / "memory", "e"), tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_a_memory_that_is_gone_at_the_end_costs_only_a_warning(
    tiny: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from bpkd_search.cluster.ending import leave_in_memory
    from bpkd_search.experiment import folder as experiment
    from bpkd_search.search.backends import CurveBackend
    from bpkd_search.search.simulate import simulate_search

    config = config_of(tiny, tmp_path / "memory", "e")
    experiment.create(tmp_path / "e", config)
    simulate_search(config, CurveBackend(config), directory=tmp_path / "e")
    (tmp_path / "memory").write_text("in its place")
    lines: list[str] = []
    leave_in_memory(tmp_path / "e", Memory(tmp_path / "memory"), lines.append)
    (line,) = lines
    assert line.startswith(f"warning: memory: {tmp_path / 'memory'}: cannot be written to (")
    assert line.endswith(f"leave it there with: bpkd-search memory {tmp_path / 'memory'} --add {tmp_path / 'e'}")
    assert (Leaderboard(tmp_path / "e").trials()["state"] == "COMPLETE").any()
