"""Which files of ended trials are kept, over restarts too."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bpkd_search import Leaderboard
from bpkd_search.cluster.listener import KEPT_STUDENTS, keep_best_students, listener
from bpkd_search.cluster.progress import Progress
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.paths import checkpoint_file, student_file
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.engine import Engine
from tests.driving import drive


def config_of(tiny: dict[str, Any], **search: Any) -> SearchConfig:
    tiny["search"] = {"trials": 15, "scheduler": {"name": "none"}, **search}
    return parse(SearchConfig, tiny, "test")


def session(folder: Path, config: SearchConfig, stop_after: int | None = None) -> Engine:
    """A start of the search, or one after a restart, whose trials write files as actors do."""
    if not folder.exists():
        experiment.create(folder, config)

    def scores(trial: Trial, epoch: int) -> dict[str, Any]:
        checkpoint_file(folder, trial.number).touch()
        if epoch == config.train.epochs:
            student_file(folder, trial.number).touch()
        # Who has the higher edge mIoU has the lower mIoU; some trials tie, some are slow.
        edge = 0.02 * (trial.number * 7 % 13 // 2)
        return {"miou": 0.9 - edge, "edge_miou": edge, "latency_ms": 20.0 + 20.0 * (trial.number % 3 == 1)}

    for file in (checkpoint_file(folder, 0), student_file(folder, 0)):
        file.parent.mkdir(exist_ok=True)
    progress = Progress(config, Console(file=io.StringIO()))
    engine = Engine(config, folder, "test", listener(folder, progress))
    progress.begin(engine)
    drive(engine, stop_after=stop_after, scores=scores)
    if stop_after is None:
        engine.recorder.close()
    return engine


def students(folder: Path) -> set[int]:
    return {int(path.stem) for path in (folder / "students").iterdir()}


def best_in_tables(folder: Path) -> set[int]:
    """All baselines and the five best searched trials, as the leaderboard ranks them."""
    full = Leaderboard(folder).best(99)
    baselines, searched = full[full["origin"] == "baseline"], full[full["origin"] != "baseline"]
    assert len(searched) > KEPT_STUDENTS
    return {*baselines["number"], *searched["number"].head(KEPT_STUDENTS)}


SEARCHES: list[dict[str, Any]] = [
    {},
    {"objectives": {"edge_miou": "max", "miou": "max"}},
    {"constraints": ["latency_ms <= 30"]},
]


@pytest.mark.parametrize("search", SEARCHES)
def test_the_five_best_students_and_all_baselines_are_kept(
    tiny: dict[str, Any], tmp_path: Path, search: dict[str, Any]
) -> None:
    session(tmp_path / "e", config_of(tiny, **search))
    assert students(tmp_path / "e") == best_in_tables(tmp_path / "e")
    assert not list((tmp_path / "e" / "checkpoints").iterdir())


def test_a_student_that_breaks_a_constraint_goes_first(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = session(tmp_path / "e", config_of(tiny, constraints=["latency_ms <= 30"]))
    searched = [trial for trial in engine.trials.values() if trial.origin != "baseline"]
    slow = {trial.number for trial in searched if trial.number % 3 == 1}
    highest = max(searched, key=lambda trial: trial.last()["miou"])
    assert highest.number in slow
    assert not students(tmp_path / "e") & slow


@pytest.mark.parametrize("search", SEARCHES)
def test_a_resumed_search_keeps_five(tiny: dict[str, Any], tmp_path: Path, search: dict[str, Any]) -> None:
    config = config_of(tiny, **search)
    for moment in (40, 20, None):
        session(tmp_path / "e", config, moment)
    assert students(tmp_path / "e") == best_in_tables(tmp_path / "e")


def test_what_earlier_sessions_left_too_much_is_removed_and_nothing_else(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = session(tmp_path / "e", config_of(tiny))
    folder, kept = tmp_path / "e", students(tmp_path / "e")
    for number in engine.trials:
        student_file(folder, number).touch()
    mine = folder / "students" / "my-favourite.safetensors"
    mine.touch()
    keep_best_students(folder, engine)
    assert mine.is_file()
    mine.unlink()
    assert students(folder) == kept
