"""When a search gives up: many failures alike and no result."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bpkd_search.cluster.failures import require_a_result
from bpkd_search.cluster.listener import listener
from bpkd_search.cluster.progress import LiveProgress, Progress
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.errors import SearchFailed
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.paths import trial_log
from bpkd_search.search.engine import Engine
from bpkd_search.search.replay import replay
from tests.driving import report_of


def ends(
    tiny: dict[str, Any], folder: Path, reasons: list[str | None], kind: type[Progress] = Progress
) -> tuple[Engine, str]:
    """A search whose trials end one after the other as `reasons` say, None being complete; and what it prints."""
    tiny["search"] = {"trials": 8, "scheduler": {"name": "none"}}
    config, text = parse(SearchConfig, tiny, "test"), io.StringIO()
    if not folder.exists():
        experiment.create(folder, config)
    progress = kind(config, Console(file=text, soft_wrap=True))
    engine = Engine(config, folder, "test", listener(folder, progress))
    progress.begin(engine)
    for reason in reasons:
        trial = engine.ask()
        assert trial is not None
        if reason is None:
            engine.report(trial.number, report_of(trial, engine.max_epochs, 0.5))
        engine.end(trial.number, None if reason is None else (reason, f"message {trial.number}\nmore of it"))
    return engine, text.getvalue()


@pytest.mark.parametrize(
    ("reasons", "stops"),
    [
        (["error"] * 2, False),
        (["error"] * 3, True),
        (["error", "oom", "error", "error"], False),
        (["oom", "error", "error", "error"], True),
        ([None, "error", "error", "error"], False),
    ],
)
def test_three_failures_alike_without_a_result_stop_a_search(
    tiny: dict[str, Any], tmp_path: Path, reasons: list[str | None], stops: bool
) -> None:
    engine, _ = ends(tiny, tmp_path / "e", reasons)
    assert (engine.fatal is not None, engine.interrupted) == (stops, stops)
    assert (engine.ask() is None) == stops


def test_the_message_names_the_reason_and_the_log(tiny: dict[str, Any], tmp_path: Path) -> None:
    log = trial_log(tmp_path / "e", 2)
    assert log == tmp_path / "e" / "logs" / "trials" / "00002.txt"
    experiment.create(tmp_path / "e", parse(SearchConfig, tiny, "test"))
    log.parent.mkdir(parents=True)
    log.write_text("Traceback")
    engine, _ = ends(tiny, tmp_path / "e", ["error"] * 3)
    assert isinstance(engine.fatal, SearchFailed) and engine.fatal.exit_code == 1
    first, second, _ = str(engine.fatal).splitlines()
    assert first.endswith("the last one, 2 cwd: error: message 2") and second == f"its log: {log}"


def test_a_resumed_search_counts_anew_and_a_replay_is_not_stopped(tiny: dict[str, Any], tmp_path: Path) -> None:
    first, _ = ends(tiny, tmp_path / "e", ["error"] * 3)
    first.recorder.close()
    second, _ = ends(tiny, tmp_path / "e", ["error", "error"])
    second.recorder.close()
    assert first.fatal is not None and second.fatal is None
    assert replay(tmp_path / "e") == (5, [])


@pytest.mark.parametrize("kind", [Progress, LiveProgress])
def test_a_failure_is_a_line_with_its_reason_and_the_first_line_of_its_message(
    tiny: dict[str, Any], tmp_path: Path, kind: type[Progress]
) -> None:
    _, text = ends(tiny, tmp_path / "e", ["oom"], kind)
    assert "[1/12] trial 0 ce: failed (oom: message 0); nothing complete yet;" in text
    assert "more of it" not in text


def test_an_end_without_a_result_is_an_error_that_counts_the_reasons(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine, _ = ends(tiny, tmp_path / "e", ["oom", "nan", "oom"])
    with pytest.raises(SearchFailed, match=r"no trial completed \(2 FAILED oom, 1 FAILED nan\)"):
        require_a_result(engine, tmp_path / "e")
    require_a_result(ends(tiny, tmp_path / "f", ["oom", None])[0], tmp_path / "f")
