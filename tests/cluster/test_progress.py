"""What a person reads while a search runs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from bpkd_search import Leaderboard
from bpkd_search.cluster.progress import LiveProgress, Progress
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.trial import Trial
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


def opposed(trial: Trial, epoch: int) -> dict[str, float]:
    """Whoever has the higher edge mIoU has the lower mIoU; every third student is slow."""
    edge = 0.01 * (trial.number * 5 % 12) + 0.1 * epoch
    return {"miou": 0.9 - edge, "edge_miou": edge, "latency_ms": 20.0 + 20.0 * (trial.number % 3 == 2)}


def told(tiny: dict[str, Any], folder: Path, **search: Any) -> tuple[Engine, list[str], str]:
    """A search of opposed scores: its engine, its lines and the live table at its end."""
    tiny["search"] = {"trials": 8, "scheduler": {"name": "asha", "grace": 2, "reduction": 4}, **search}
    config = parse(SearchConfig, tiny, "test")
    experiment.create(folder, config)
    text, console = io.StringIO(), Console(file=io.StringIO(), width=160, force_terminal=True)
    progress, live = Progress(config, Console(file=text, soft_wrap=True)), LiveProgress(config, console)
    progress.teacher_scores = {"miou": 0.95, "edge_miou": 0.01}
    engine = Engine(config, folder, "test", progress.event)
    progress.begin(engine)
    live.begin(engine)
    drive(engine, scores=opposed)
    engine.recorder.close()
    with console.capture() as capture:
        console.print(live.render())
    return engine, text.getvalue().splitlines(), capture.get()


def best_of(folder: Path, metric: str) -> str:
    """What the standing must be, from the tables."""
    best = Leaderboard(folder).best(99)
    searched, baseline = (best[(best["origin"] == "baseline") == is_one].iloc[0] for is_one in (False, True))
    return f"best trial {searched['number']} {searched[metric]:.4f} vs {baseline['method']} {baseline[metric]:.4f}"


def test_the_first_objective_is_what_is_shown(tiny: dict[str, Any], tmp_path: Path) -> None:
    objectives = {"edge_miou": "max", "miou": "max"}
    engine, lines, table = told(tiny, tmp_path / "e", objectives=objectives)
    ends = [line for line in lines if line.startswith("[")]
    assert ends[0].startswith("[1/12] trial 0 ce: complete, edge_miou 0.4000, 4 epochs, 8 s; best ce 0.4000;")
    standing = best_of(tmp_path / "e", "edge_miou")
    assert f"; {standing};" in ends[-1] and standing in table
    highest = max((t for t in engine.trials.values() if t.state == "COMPLETE" and t.origin != "baseline"),
                  key=lambda t: t.last()["edge_miou"])  # fmt: skip
    assert standing.startswith(f"best trial {highest.number} {highest.last()['edge_miou']:.4f} vs ")
    assert "edge_miou" in table and " miou" not in table
    warned = [line for line in lines if line.startswith("warning: the teacher's")]
    assert warned and warned[0].startswith("warning: the teacher's edge_miou 0.0100 is below 0.4000,")


def test_rungs_are_judged_by_the_first_objective(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["train"]["epochs"] = 6
    objectives = {"edge_miou": "max", "miou": "max"}
    _, lines, _ = told(tiny, tmp_path / "e", objectives=objectives, trials=12)
    judged = [line for line in lines if line.startswith("rungs: ")]
    assert judged and all("rank correlation of edge_miou with the end" in line for line in judged)


def test_the_best_trial_keeps_the_constraints(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine, lines, table = told(tiny, tmp_path / "e", constraints=["latency_ms <= 30"], scheduler={"name": "none"})
    full = [t for t in engine.trials.values() if t.origin != "baseline"]
    highest = max(full, key=lambda t: t.last()["miou"])
    allowed = max((t for t in full if t.number % 3 != 2), key=lambda t: t.last()["miou"])
    assert highest.number % 3 == 2 and allowed.last()["miou"] < highest.last()["miou"]
    standing = best_of(tmp_path / "e", "miou")
    assert standing.startswith(f"best trial {allowed.number} ")
    assert f"; {standing};" in lines[-1] and standing in table


def test_a_best_trial_that_breaks_a_constraint_is_marked(tiny: dict[str, Any], tmp_path: Path) -> None:
    _, lines, _ = told(tiny, tmp_path / "e", constraints=["latency_ms <= 1"])
    assert all(line.count("(breaks a constraint)") == 1 + (" vs " in line) for line in lines if line.startswith("["))


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


def test_what_the_engine_notes_is_said_once(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = parse(SearchConfig, tiny, "test")
    experiment.create(tmp_path / "e", config)
    text = io.StringIO()
    progress = Progress(config, Console(file=text, soft_wrap=True))
    engine = Engine(config, tmp_path / "e", "test", progress.event)
    progress.begin(engine)
    engine.notes.append("the first")
    progress.notes()
    engine.notes.append("the second")
    drive(engine, stop_after=3)
    engine.recorder.close()
    assert [line for line in text.getvalue().splitlines() if line.startswith("the ")] == ["the first", "the second"]
