"""The soak test, short, and that its checks find what they are there for."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from bpkd_search import Leaderboard
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.paths import trial_log
from bpkd_search.search.engine import Engine
from tests.driving import drive

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a benchmark as its neighbours do."""
    monkeypatch.syspath_prepend(str(ROOT / "runners" / "bench"))
    return importlib.import_module


def lines_of(*options: object) -> list[str]:
    return [str(option) for option in options]


def kills_in(said: str) -> int:
    (line,) = [line for line in said.splitlines() if " kills: " in line]
    return int(line.split(", ")[1].split()[0])


@pytest.mark.long
def test_half_a_minute_of_kills_changes_no_table(
    bench: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = lines_of("--minutes", 0.5, "--every", 6, "--nodes", 2, "--trials", 1, "--epochs", 4, "--seed", 1)
    assert bench("soak").main([*options, "--out", str(tmp_path / "soak")]) == 0
    said = capsys.readouterr().out
    assert kills_in(said) >= 1
    assert said.count("ok     ") == 1 + len(bench("soak_checks").TARGETS) and "MISSED" not in said


@pytest.mark.long
def test_two_minutes_of_kills_on_four_nodes_change_no_table(
    bench: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("soak").main(lines_of("--minutes", 2, "--seed", 1, "--out", tmp_path / "soak")) == 0
    assert kills_in(capsys.readouterr().out) >= 4


@pytest.mark.long
def test_three_nodes_started_as_documented_one_of_which_is_killed(
    bench: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    soak, nodes = bench("soak"), bench("nodes")
    space, out = tmp_path / "space.yaml", tmp_path / "shared" / "first"
    space.write_text(yaml.safe_dump(soak.search(tmp_path, 2, 30)))
    with nodes.Nodes(3, {"OMP_NUM_THREADS": "1"}) as cluster:
        command = [ROOT / "runners" / "local.sh", space, "--out", out, "--address", cluster.address]
        driver = subprocess.Popen(command, env=cluster.environment, stdout=-1, stderr=-1, text=True)

        def begun() -> bool:
            events = read_events(out) if out.is_dir() else ()
            return len({event["number"] for event in events if event["event"] == "report"}) >= 3

        nodes.wait_for("reports of three trials", begun, driver)
        busy = next(worker for worker in cluster.workers if nodes.trials(worker))
        cluster.remember(busy)
        nodes.raylet(busy).kill()
        _, said = driver.communicate(timeout=nodes.PATIENCE)
    assert driver.returncode == 0, said
    # Ray may tell of the process before it tells of the node.
    assert said.count("; it continues from epoch ") == 1
    table = Leaderboard(out).trials()
    assert (table["state"] == "COMPLETE").all() and (table["epochs"] == 30).all() and table["retries"].sum() == 1


@pytest.fixture
def pair(tiny: dict[str, Any], tmp_path: Path) -> tuple[Path, Path]:
    """The same search twice, without Ray: undisturbed, and with a trial that was lost and continued after epoch 2."""
    tiny["search"] = {"trials": 2, "scheduler": {"name": "none"}, "sampler": {"name": "random"}}
    config = parse(SearchConfig, tiny, "test")
    for name in ("a", "b"):
        experiment.create(tmp_path / name, config)
    whole, cut = (Engine(config, tmp_path / name, "test") for name in ("a", "b"))
    drive(whole)
    drive(cut, slots=1, stop_after=2)
    cut.lost(0, "process", "killed")
    time.sleep(0.05)
    log = trial_log(tmp_path / "b", 0)
    log.parent.mkdir(parents=True)
    log.write_text(entry(time.time(), "continues after epoch 2"))
    drive(cut)
    for engine in (whole, cut):
        engine.recorder.close()
    return tmp_path / "a", tmp_path / "b"


def entry(when: float, what: str) -> str:
    at = datetime.fromtimestamp(when, timezone.utc).isoformat(timespec="milliseconds")
    return f"{at} trial 0 on host, process 1\n{what}\n"


def test_a_lost_and_continued_trial_is_no_fault(bench: Callable[[str], ModuleType], pair: tuple[Path, Path]) -> None:
    whole, cut = pair
    found = bench("soak_checks").faults(cut, whole, ended={0, 3})
    assert found == {target: [] for target in bench("soak_checks").TARGETS}


@pytest.mark.parametrize(
    ("what", "count"), [("continues after epoch 1", 1), ("its checkpoint is missing; starts again", 2)]
)
def test_repeated_epochs_are_counted(
    bench: Callable[[str], ModuleType], pair: tuple[Path, Path], what: str, count: int
) -> None:
    lost = next(event["time"] for event in read_events(pair[1]) if event["event"] == "lost")
    trial_log(pair[1], 0).write_text(entry(lost + 0.01, what))
    assert bench("soak_checks").repeated(pair[1], 0) == count


def test_each_fault_is_found(bench: Callable[[str], ModuleType], pair: tuple[Path, Path]) -> None:
    whole, cut = pair
    log = cut / "events.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    last = max(event["number"] for event in events)
    changed = []
    for event in events:
        if event["number"] == last:
            continue
        if (event["event"], event["number"]) == ("end", 3):
            event |= {"state": "FAILED", "reason": "lost", "message": "x"}
        if (event["event"], event["number"], event.get("epoch")) == ("report", 1, 4):
            event["miou"] += 0.01
            changed.append(event)
        changed.append(event)
    log.write_text("".join(json.dumps(event) + "\n" for event in changed))
    for table in ("trials", "reports"):
        shutil.rmtree(cut / table)
    engine = Engine(experiment.read_config(cut), cut, "test")
    engine.recorder.close()
    lost, twice, failed, again, tables, replayed = bench("soak_checks").faults(cut, whole, {0, last}).values()
    assert (lost, failed, again) == ([f"trial {last}"], ["trial 3: lost"], [])
    assert "report of trial 1, epoch 4" in twice
    assert "trials: 5 rows instead of 6" in tables
    assert replayed == []  # the log is consistent in itself


def test_a_changed_measure_is_a_difference_and_seconds_are_none(
    bench: Callable[[str], ModuleType], pair: tuple[Path, Path]
) -> None:
    whole, cut = pair
    log = cut / "events.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    for event in events:
        if (event["event"], event["number"], event.get("epoch")) == ("report", 1, 3):
            event |= {"edge_miou": event["edge_miou"] + 1e-9, "gpu_seconds": 99.0}
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    for table in ("trials", "reports"):
        shutil.rmtree(cut / table)
    Engine(experiment.read_config(cut), cut, "test").recorder.close()
    assert bench("soak_checks").differences(Leaderboard(whole), Leaderboard(cut)) == ["reports: edge_miou"]
