"""What a person reads while a search runs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from bpkd_search.cluster.progress import LiveProgress, Progress
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.experiment import folder as experiment
from bpkd_search.search.engine import Engine
from tests.driving import Curve, curve, drive


def lines_of(tiny: dict[str, Any], folder: Path, teacher: float, values: Curve = curve) -> list[str]:
    tiny["search"] = {"trials": 8, "scheduler": {"name": "asha", "grace": 2, "reduction": 4}}
    config = parse(SearchConfig, tiny, "test")
    experiment.create(folder, config)
    text = io.StringIO()
    progress = Progress(config, Console(file=text, soft_wrap=True))
    progress.teacher_scores = {"miou": teacher}
    engine = Engine(config, folder, "test", progress.event)
    progress.begin(engine)
    drive(engine, curve=values)
    engine.recorder.close()
    return text.getvalue().splitlines()


def test_every_end_is_a_line_with_score_cost_standing_and_time_left(tiny: dict[str, Any], tmp_path: Path) -> None:
    lines = lines_of(tiny, tmp_path / "e", 0.9)
    ends = [line for line in lines if line.startswith("[")]
    assert len(ends) == 12
    assert ends[0].startswith("[1/12] trial 0 ce: complete, miou 0.2812, 4 epochs, 8 s; best ce 0.2812;")
    assert " vs " in ends[-1] and ends[-1].endswith("about 0 s left")
    assert not any("warning" in line for line in lines)


def test_a_teacher_below_the_students_own_baseline_is_warned_of(tiny: dict[str, Any], tmp_path: Path) -> None:
    warnings = [line for line in lines_of(tiny, tmp_path / "e", 0.2) if "warning" in line]
    assert warnings == [
        "warning: the teacher's miou 0.2000 is below 0.2812, what the student reaches without it; distillation from it"
        " can only be noise. Train the teacher longer."
    ]


def test_rungs_that_know_nothing_are_warned_of_once(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["train"]["epochs"] = 4
    # Whoever leads at the first rung trails at the end.
    lines = lines_of(
        tiny,
        tmp_path / "e",
        0.9,
        lambda t, epoch: 0.3 + (0.01 if epoch < 3 else -0.01) * (t.number % 12) + 0.001 * t.number,
    )
    told = [line for line in lines if line.startswith("rungs: rank correlation of miou with the end over ")]
    assert told and all(line.endswith(" after 2 epochs") and "full trials: -" in line for line in told)
    assert len([line for line in lines if line.startswith("warning: the first rung knows little")]) == 1


def test_of_a_search_without_rungs_nothing_is_said_of_rungs(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["train"]["epochs"] = 2  # the first rung's
    lines = lines_of(tiny, tmp_path / "e", 0.9, lambda t, epoch: 0.3 + 0.001 * t.number)
    assert len(lines) == 12 and not [line for line in lines if line.startswith("rungs")]


def test_the_live_table_shows_running_trials_and_counts(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = parse(SearchConfig, tiny, "test")
    experiment.create(tmp_path / "e", config)
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    progress = LiveProgress(config, console)
    engine = Engine(config, tmp_path / "e", "test", progress.event)
    progress.begin(engine)
    drive(engine, stop_after=9)
    with console.capture() as capture:
        console.print(progress.render())
    shown = capture.get()
    assert "tiny: 2 running, 2 done, 0 stopped, 0 failed, 6 in all" in shown
    assert "complete" in shown and "running" in shown and "best " in shown
    engine.recorder.close()


def test_nothing_is_drawn_before_the_first_trial(tiny: dict[str, Any]) -> None:
    progress = LiveProgress(parse(SearchConfig, tiny, "test"), Console(file=io.StringIO()))
    assert str(progress.render()) == "preparing ..."
