"""Whole searches through Ray Tune and Optuna, tiny but real."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import torch
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from bpkd_search import Leaderboard, load_run
from bpkd_search.config import BASELINES
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.commit import code_commit
from bpkd_search.experiment.events import read_events
from bpkd_search.export import export
from bpkd_search.search.engine import Engine
from bpkd_search.search.requests import states_of
from bpkd_search.training.train import train

PATIENCE = 240


def space_file(tiny: dict[str, Any], folder: Path, **changes: Any) -> Path:
    tiny["search"].update(changes.pop("search", {}))
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**tiny, **changes}))
    return path


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "bpkd_search", *map(str, arguments)]


def wait_for(what: str, ready: Any, process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if value := ready():
            return value
        assert process.poll() is None, f"ended before {what}: {process.stderr.read() if process.stderr else ''}"
        time.sleep(0.1)
    raise AssertionError(f"no {what} within {PATIENCE} s")


def reports_in(folder: Path) -> int:
    log = folder / "events.jsonl"
    return log.read_text().count('"event":"report"') if log.exists() else 0


def trial_processes(driver: subprocess.Popen[str]) -> Iterator[tuple[psutil.Process, str]]:
    """The processes of trials below a driver, each with the call that it executes; empty between two calls.

    Ray names a process after its call: `ray::DistillationTrial` waits, `ray::ResourceTrainable.train` is in a step.
    """
    for process in psutil.Process(driver.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            title = re.match(r"ray::\w*(?:Trial|Trainable)(?:\.(\w+))?$", " ".join(process.cmdline()).strip())
            if title:
                yield process, title[1] or ""


def killed_in_a_step(driver: subprocess.Popen[str], folder: Path) -> bool:
    """Kill a trial's process for certain in the middle of a step of a trial that has reported before.

    One that is starting, or between two calls, may have no trial to lose. So each is held still before it is asked
    what it does, and let go again unless it is in such a step.
    """
    for process, _ in trial_processes(driver):
        with suppress(psutil.NoSuchProcess):
            process.suspend()
            running = {number for number, state in states_of(folder).items() if state == "RUNNING"}
            reported = {event["number"] for event in read_events(folder, "report")}
            if running <= reported and (process, "train") in trial_processes(driver):
                process.kill()
                return True
            process.resume()
    return False


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_search: Callable[[], dict[str, Any]]
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One search of 4 baselines and 3 trials, one of which must turn NaN."""
    folder = tmp_path_factory.mktemp("search")
    tiny = tiny_search()
    tiny["train"]["epochs"] = 2
    tiny["search"] |= {"trials": 3, "constraints": ["latency_ms <= 1000000"]}
    tiny["space"] = {
        "loss.edge_weight": {"float": [0.05, 50], "log": True},
        "train.lr": {"float": [0.001, 1e20], "log": True},
    }
    tiny["enqueue"] = [{"loss.edge_weight": 1.0, "train.lr": 1e20}, {"loss.edge_weight": 1.0, "train.lr": 0.02}]
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny))
    out = folder / "out"
    return out, subprocess.run(command("run", path, "--out", out), capture_output=True, text=True, timeout=PATIENCE)


def test_the_search_ends_with_a_leaderboard_of_all_trials(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, done = finished
    assert done.returncode == 0, done.stderr
    trials = Leaderboard(out).trials()
    assert len(trials) == 7
    assert list(trials.sort_values("number")["method"].head(4)) == list(BASELINES)
    full = trials[trials["origin"] == "baseline"]
    assert (full["state"] == "COMPLETE").all() and (full["epochs"] == 2).all()
    for method in BASELINES:
        assert method in done.stdout
    assert "val mIoU" in done.stderr  # the teacher's, before any trial


def test_a_trial_that_turns_nan_is_failed_and_the_search_goes_on(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, _ = finished
    trials = Leaderboard(out).trials().set_index("number")
    assert (trials.loc[4, "state"], trials.loc[4, "reason"]) == ("FAILED", "nan")
    assert "loss term" in trials.loc[4, "message"]
    assert f"trial 4 bpkd: failed (nan: {trials.loc[4, 'message']});" in finished[1].stderr
    assert trials.loc[5, "state"] in ("COMPLETE", "PRUNED")


def test_latencies_are_measured_again_when_no_trial_runs(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, done = finished
    trials, events = Leaderboard(out).trials(["latency_ms", "feasible"]), list(read_events(out))
    measured = {event["number"]: event["latency_ms"] for event in events if event["event"] == "latency"}
    full = trials[trials["state"] == "COMPLETE"]
    assert full.set_index("number")["latency_ms"].to_dict() == measured and len(measured) >= 4
    assert len(set(measured.values())) == 1, "they have one kind of student"
    assert full["feasible"].all() and "latency: measuring 1 kind(s) of student" in done.stderr
    kinds = [event["event"] for event in events]
    assert kinds.index("latency") > max(place for place, kind in enumerate(kinds) if kind == "end")


def test_a_search_of_which_every_trial_fails_stops_after_three_with_exit_code_1(
    call, tiny: dict[str, Any], tmp_path: Path
) -> None:
    tiny["train"]["lr"] = 1e20
    tiny["search"]["concurrent"] = 1
    tiny["search"]["trials"] = 30
    path, out = space_file(tiny, tmp_path), tmp_path / "out"
    code, _, said = call("run", path, "--out", out)
    assert code == 1
    trials = Leaderboard(out).trials().sort_values("number")
    assert trials["reason"].dropna().tolist() == ["nan"] * 3
    log = out / "logs" / "trials" / "00002.txt"
    assert (
        f"error: 3 trials in a row failed and none has completed; the last one, 2 {trials['method'].iloc[2]}: nan: "
        in said
    )
    assert f"its log: {log}\n" in said
    assert "Diverged" in log.read_text()
    code, said, _ = call("show", out, "2")
    assert code == 0 and str(log) in said


def test_neither_ray_nor_optuna_is_heard(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = finished
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    known = ("views:", "teacher:", "logits:", "ray:", "latency:", "[")
    assert [line for line in lines if not line.startswith(known)] == []
    assert "Traceback" not in done.stdout + done.stderr


def test_the_study_of_the_folder_opens_with_plain_optuna(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, _ = finished
    study = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(out / "study.journal"))))
    # A diverged trial is FAILED in the tables and has the worst value in the study, so that samplers avoid it.
    diverged = {t.user_attrs["number"] for t in study.trials if t.user_attrs.get("reason") == "nan"}
    states = {t.user_attrs["number"]: t.state.name.replace("FAIL", "FAILED") for t in study.trials}
    assert diverged and {states[number] for number in diverged} == {"COMPLETE"}
    states |= dict.fromkeys(diverged, "FAILED")
    table = Leaderboard(out).trials().set_index("number")["state"]
    assert states == {n: table[n] for n in states}
    assert set(states) >= {4, 5, 6}


def test_nothing_is_left_but_results(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, _ = finished
    assert {p.name for p in out.iterdir()} == {
        *("calibration.json", "calibration.lock", "checkpoints", "config.yaml", "events.jsonl", "experiment.json"),
        *("lock", "logs", "reports", "students", "study.journal", "trials"),
    }
    assert list((out / "checkpoints").iterdir()) == []
    trials = Leaderboard(out).trials()
    failed = {f"logs/trials/{number:05d}.txt" for number in trials["number"][trials["state"] == "FAILED"]}
    assert {path.relative_to(out).as_posix() for path in (out / "logs").rglob("*.*")} == failed


def test_exported_settings_train_again_to_the_same_score(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    out, _ = finished
    best = Leaderboard(out).best(2)
    files = export(out, tmp_path / "best", 2)
    metrics = train(load_run(files[0]), tmp_path / "again", lambda line: None)
    assert metrics["miou"] == pytest.approx(best["miou"].iloc[0], abs=1e-9)
    assert load_run(files[0]).provenance["trial"] == best["number"].iloc[0]


def test_verified_settings_keep_their_word_and_a_false_one_is_found_out(
    call, finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    out, _ = finished
    best = Leaderboard(out).best(1).iloc[0]
    code, said, _ = call("export", out, "--out", tmp_path / "best", "--verify")
    file, verdict = said.splitlines()
    assert (code, verdict.endswith(f"got {best['miou']:.4f} with seed {best['seed']}: inside")) == (0, True)
    assert [str(path) for path in (tmp_path / "best").iterdir()] == [file]
    run = yaml.safe_load(Path(file).read_text())
    assert run["provenance"].get("commit") == Leaderboard(out).commit == code_commit()
    run["provenance"]["miou"] = 0.99
    (tmp_path / "false.yaml").write_text(yaml.safe_dump(run))
    code, said, _ = call("export", tmp_path / "false.yaml", "--verify")
    assert (code, "claimed miou 0.9800 to 1.0000" in said) == (1, True)
    assert said.endswith(f"got {best['miou']:.4f} with seed {best['seed']}: outside\n")


def test_a_finished_search_resumes_to_its_leaderboard_at_once(
    call,
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, first = finished
    before = (out / "events.jsonl").read_bytes()
    assert call("resume", out)[:2] == (0, first.stdout)
    assert call("run", out.parent / "tiny.yaml", "--out", out, "--resume")[:2] == (0, first.stdout)
    assert (out / "events.jsonl").read_bytes() == before


def test_an_existing_experiment_is_not_touched(call, finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, _ = finished
    code, _, said = call("run", out.parent / "tiny.yaml", "--out", out)
    assert (code, f"{out}: exists already; continue it with `bpkd-search resume {out}`" in said) == (2, True)


@pytest.mark.parametrize("lost", [False, pytest.param(True, marks=pytest.mark.long)], ids=["", "with a lost actor"])
def test_ctrl_c_stops_cleanly_and_resume_finishes(call, tiny: dict[str, Any], tmp_path: Path, lost: bool) -> None:
    tiny["train"]["epochs"] = 20 if lost else 6  # so that an actor that is killed is in the middle of a trial
    tiny["search"]["scheduler"] = {"name": "none"}
    path, out = space_file(tiny, tmp_path), tmp_path / "out"
    first = subprocess.Popen(command("run", path, "--out", out), stdout=-1, stderr=-1, text=True)
    wait_for("two reports", lambda: reports_in(out) >= 2, first)
    code, _, held = call("resume", out)
    assert (code, f"is held by process {first.pid}" in held) == (2, True)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=PATIENCE)
    assert first.returncode == 130
    assert f"continue with: bpkd-search resume {out}" in said
    assert "Traceback" not in said
    kept = Leaderboard(out).reports()
    assert len(kept) >= 2

    if lost:
        second = subprocess.Popen(command("resume", out), stdout=-1, stderr=-1, text=True)
        wait_for("a further report", lambda: reports_in(out) > len(kept), second)
        wait_for("a trial's process in a step", lambda: killed_in_a_step(second, out), second)
        _, said = second.communicate(timeout=PATIENCE)
        code = second.returncode
    else:
        code, _, said = call("resume", out)
    assert code == 0, said
    trials, reports = Leaderboard(out).trials(), Leaderboard(out).reports()
    assert len(trials) == 6 and trials["number"].is_unique
    # Retried from its checkpoint: nothing has failed, and no epoch was reported twice.
    assert trials["reason"].dropna().tolist() == []
    assert trials["retries"].sum() == lost and ("; it continues from epoch " in said) == lost
    merged = kept.merge(reports, on=["number", "epoch"])
    assert (merged["miou_x"] == merged["miou_y"]).all() and len(merged) == len(kept)
    assert not reports.duplicated(["number", "epoch"]).any()


@pytest.mark.parametrize("once", [pytest.param("group", marks=pytest.mark.long), "all"])
def test_sigterm_to_rays_processes_too_ends_the_driver_within_seconds_with_a_hint(
    tiny: dict[str, Any], tmp_path: Path, once: str
) -> None:
    """As batch systems send it: Ray is gone before the driver can stop its trials."""
    tiny["train"]["epochs"] = 200
    path, out = space_file(tiny, tmp_path, search={"concurrent": 1}), tmp_path / "out"
    driver = subprocess.Popen(
        command("run", path, "--out", out), stdout=-1, stderr=-1, text=True, start_new_session=True
    )
    wait_for("two reports", lambda: reports_in(out) >= 2, driver)
    below = psutil.Process(driver.pid).children(recursive=True)
    start = time.monotonic()
    if once == "group":
        os.killpg(driver.pid, signal.SIGTERM)
    else:
        for process in (driver, *below):
            process.terminate()
    _, said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 130, said
    assert f"stopped; continue with: bpkd-search resume {out}\n" in said and "Traceback" not in said
    assert time.monotonic() - start < 30  # without the watch, Ray's client gives up after a minute
    _, alive = psutil.wait_procs(below, timeout=30)
    assert [process.name() for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    engine = Engine(experiment.read_config(out), out, "test")
    engine.recorder.close()
    assert len(Leaderboard(out).reports()) == reports_in(out) >= 2


@pytest.mark.long
def test_killed_drivers_lose_nothing(tiny: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL at four moments; the end is that of a search that nobody disturbed."""
    tiny["train"]["epochs"] = 6
    tiny["search"].update({"concurrent": 1, "scheduler": {"name": "none"}})
    path = space_file(tiny, tmp_path)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(command("run", path, "--out", whole), check=True, timeout=PATIENCE, capture_output=True)
    arguments = ["run", path, "--out", cut]
    for moment in (1, 8, 15, 29):
        driver = subprocess.Popen(command(*arguments), stdout=-1, stderr=-1, text=True)
        wait_for(f"{moment} reports", lambda moment=moment: reports_in(cut) >= moment, driver)
        below = psutil.Process(driver.pid).children(recursive=True)
        for process in [psutil.Process(driver.pid), *below]:
            process.kill()
        driver.communicate()
        arguments = ["resume", cut]
    subprocess.run(command("resume", cut), check=True, timeout=PATIENCE, capture_output=True)
    left, right = Leaderboard(whole).trials(), Leaderboard(cut).trials()
    columns = ["number", "state", "method", "loss.edge_weight", "loss.edge_width", "miou", "epochs"]
    assert left[columns].equals(right[columns])
    assert torch.isfinite(torch.tensor(right["miou"].to_numpy())).all()
