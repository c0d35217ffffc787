"""One real search that every verb steers, while it runs, when it is paused and when it has ended."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from bpkd_search import Leaderboard
from bpkd_search.experiment.events import read_events
from bpkd_search.search.requests import states_of
from tests.cluster.test_driver import PATIENCE, command, trial_processes, wait_for

pytestmark = pytest.mark.long  # three sessions and some twenty commands


@contextmanager
def held_still(driver: subprocess.Popen[str]) -> Iterator[None]:
    """No trial goes on within the block, so that what is asked of those that run is asked in time."""
    over, still = threading.Event(), dict[int, psutil.Process]()

    def hold() -> None:
        while not over.wait(0.05):
            with suppress(psutil.Error):
                for process, _ in trial_processes(driver):
                    if process.pid not in still:
                        process.suspend()
                        still[process.pid] = process

    holding = threading.Thread(target=hold)
    holding.start()
    try:
        yield
    finally:
        over.set()
        holding.join()
        for process in still.values():
            with suppress(psutil.Error):
                process.resume()


@dataclass
class Steered:
    """The folder of the search, and what each command said: exit code, standard output and standard error."""

    out: Path
    said: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    stopped: int = -1

    def tell(self, name: str, *arguments: str | Path) -> tuple[int, str, str]:
        return self.tell_at_once({name: arguments})[name]

    def tell_at_once(self, each: dict[str, tuple[str | Path, ...]]) -> dict[str, tuple[int, str, str]]:
        """Call commands at the same time, each in its own process."""
        begun = {name: subprocess.Popen(command(*a), stdout=-1, stderr=-1, text=True) for name, a in each.items()}
        for name, process in begun.items():
            printed, told = process.communicate(timeout=PATIENCE)
            self.said[name] = process.returncode, printed, told
        return self.said

    @property
    def diverged(self) -> int:
        """The trial of the point that cannot be trained with."""
        return next(int(event["number"]) for event in self.events("ask") if event["point"].get("train.lr") == 1e20)

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        return list(read_events(self.out, kind))


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory, tiny_search: Callable[[], dict[str, Any]]) -> Steered:
    folder = tmp_path_factory.mktemp("steered")
    tiny = tiny_search()
    tiny["search"] |= {"trials": 2, "scheduler": {"name": "none"}}
    tiny["space"]["train.lr"] = {"float": [0.001, 1e20], "log": True}
    tiny["enqueue"] = [{"loss.edge_weight": 1.0, "train.lr": 1e20}, {"loss.edge_weight": 20.0, "train.lr": 0.02}]
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    search = Steered(folder / "out")
    out, tell = search.out, search.tell

    driver = subprocess.Popen(command("run", folder / "tiny.yaml", "--out", out), stdout=-1, stderr=-1, text=True)
    wait_for("a report", lambda: out.is_dir() and search.events("report"), driver)
    with held_still(driver):
        wait_for("a running trial", lambda: "RUNNING" in states_of(out).values(), driver)
        search.stopped = number = max(n for n, state in states_of(out).items() if state == "RUNNING")
        follows = subprocess.Popen(command("logs", out, str(number), "--follow"), stdout=-1, stderr=-1, text=True)
        search.tell_at_once(
            {
                f"enqueue {weight}": ("enqueue", out, f"loss.edge_weight={weight}", "train.lr=0.02")
                for weight in ("0.3", "0.4")
            }
        )
        tell("a typing error", "enqueue", out, "loss.edge_wieght=3")
        tell("more", "resume", out, "--trials", "+1")
        tell("narrow", "resume", out, "--set", "space.loss.edge_weight.float=[0.2, 30]")
        tell("at the end", "resume", out, "--set", f"search.on_end=echo $BPKD_SEARCH_OUTCOME >> {folder}/ends")
        tell("what may not", "resume", out, "--set", "train.lr=0.1")
        tell("stop", "stop", out, str(number))
    wait_for("its end", lambda: states_of(out)[number] == "PRUNED", driver)
    printed, told = follows.communicate(timeout=PATIENCE)
    search.said["follow"] = follows.returncode, printed, told
    with held_still(driver):
        wait_for("a running trial", lambda: "RUNNING" in states_of(out).values(), driver)
        tell("retry", "retry", out, str(number))
        tell("stop of an ended one", "stop", out, "99")
        tell("pause", "pause", out)
    printed, told = driver.communicate(timeout=PATIENCE)
    search.said["run"] = driver.returncode, printed, told

    tell("pause again", "pause", out)
    tell("waits", "enqueue", out, "loss.edge_weight=0.5", "train.lr=0.02")
    tell("resume", "resume", out)

    tell("failed", "retry", out, "--failed")
    tell("finished", "resume", out, "--trials", "+1", "--set", "search.concurrent=1")
    return search


def test_a_running_search_answers_every_verb(steered: Steered) -> None:
    said, number = steered.said, steered.stopped
    for name in ("enqueue 0.3", "enqueue 0.4", "more", "narrow", "stop", "retry", "pause"):
        assert said[name][0] == 0, said[name]
    for weight in ("0.3", "0.4"):
        begin = f"loss.edge_weight={weight}, train.lr=0.02 will be tried next, beside the "
        assert said[f"enqueue {weight}"][1].startswith(begin)
    assert said["more"][1] == "search.trials: was 2, is 3\n"
    assert "[0.2, 30" in said["narrow"][1] and "that lie in the new space; all keep their results" in said["narrow"][1]
    assert said["stop"][1] == f"trial {number} will be stopped\n"
    assert said["retry"][1] == f"trial {number} will run again, from the beginning\n"
    assert said["pause"][1].startswith("no trial is started any more; the search stops when the ")


def test_what_cannot_be_is_refused_with_exit_code_2_and_harms_nothing(steered: Steered) -> None:
    said = steered.said
    refused = {
        "a typing error": "loss.edge_wieght: is no parameter of the space; valid: loss.edge_weight, loss.edge_width",
        "what may not": "train.lr: cannot change in a search that has begun; valid: search.trials, search.budget,",
        "stop of an ended one": "stop: got trial 99, valid: 0 to ",
        "pause again": "nobody runs this search, so there is nothing to pause",
    }
    for name, text in refused.items():
        assert said[name][0] == 2 and text in said[name][2] and "Traceback" not in said[name][2], said[name]


def test_requests_from_two_processes_at_once_are_both_done(steered: Steered) -> None:
    asked = [event["enqueue"][0]["loss.edge_weight"] for event in steered.events("request") if "enqueue" in event]
    assert sorted(asked[:2]) == [0.3, 0.4]
    tried = [event["point"]["loss.edge_weight"] for event in steered.events("ask") if event["origin"] == "enqueued"]
    # Requests come before those of the file, in the order in which they were asked for.
    assert [weight for weight in tried if weight in asked] == asked
    assert {20.0, 1.0} <= set(tried)


def test_each_request_is_answered_in_the_log_after_it_was_made(steered: Steered) -> None:
    requests = steered.events("request")
    assert [event["request"]["kind"] for event in requests if "refused" not in event] == [
        "enqueue", "enqueue", "change", "change", "change", "stop", "retry", "pause", "enqueue", "retry", "change",
    ]  # fmt: skip
    for event in requests:
        assert event["time"] - int(event["id"].partition("-")[0]) / 1e9 >= 0
    assert list((steered.out / "requests").iterdir()) == []


def test_a_paused_search_ends_what_runs_and_starts_nothing(steered: Steered) -> None:
    code, _, told = steered.said["run"]
    assert code == 130 and f"paused; continue with: bpkd-search resume {steered.out}" in told
    events = steered.events()
    paused = next(i for i, event in enumerate(events) if event.get("pause"))
    resumed = next(i for i, event in enumerate(events) if i > paused and event["event"] == "session")
    assert [event for event in events[paused:resumed] if event["event"] == "ask"] == []
    assert [event for event in events[paused:resumed] if event["event"] == "end"] != []


def test_the_stopped_trial_was_followed_to_its_end_and_ran_again(steered: Steered) -> None:
    code, printed, _ = steered.said["follow"]
    lines = [line.partition(" ")[2].partition(" ")[2] for line in printed.splitlines()]
    assert code == 0 and lines[-1] == "PRUNED: stopped by request"
    assert f"request: trial {steered.stopped} will be stopped" in lines
    row = Leaderboard(steered.out).trials().set_index("number").loc[steered.stopped]
    assert (row["state"], row["epochs"], row["retries"]) == ("COMPLETE", 4, 1)


def test_a_finished_search_goes_on_for_more_and_for_what_waited(steered: Steered) -> None:
    assert steered.said["waits"][1].startswith(
        "the request waits: nobody runs this search now; it is taken at the latest"
    )
    assert steered.said["resume"][0] == steered.said["finished"][0] == 0
    trials = Leaderboard(steered.out).trials().set_index("number")
    # 4 baselines, 2 + 1 + 1 planned, 3 by request.
    assert len(trials) == 11 and (trials["state"] != "RUNNING").all()
    diverged = trials.loc[steered.diverged]
    assert (diverged["state"], diverged["reason"], diverged["retries"]) == ("FAILED", "nan", 1)
    sampled = trials[trials["origin"] == "sampled"]
    assert len(sampled) == 2 and sampled["loss.edge_weight"].between(0.2, 30).all()


def test_a_command_that_was_given_while_it_ran_ran_after_each_session(steered: Steered) -> None:
    assert steered.said["at the end"][1].startswith("search.on_end: was None, is echo ")
    assert (steered.out.parent / "ends").read_text().split() == ["paused", "finished", "finished"]


def test_a_replay_of_the_steered_search_shows_no_difference(steered: Steered, call) -> None:
    code, printed, _ = call("replay", steered.out)
    assert (code, printed) == (0, "11 trials regenerated, 0 difference(s)\n")


def test_logs_and_export_of_one_trial(steered: Steered, call, tmp_path: Path) -> None:
    failed = steered.diverged
    code, printed, _ = call("logs", steered.out, str(failed))
    assert code == 0 and printed.count("FAILED (nan): ") == 2 and "Diverged" in printed
    assert printed.count("will run again, from the beginning") == 1
    code, printed, _ = call("export", steered.out, "--trial", str(steered.stopped), "--out", tmp_path / "best")
    (file,) = map(Path, printed.split())
    board = Leaderboard(steered.out).trials().set_index("number", drop=False)
    written = yaml.safe_load(file.read_text())
    expected = json.loads(board.loc[steered.stopped, "config"])
    assert code == 0 and written["provenance"]["trial"] == steered.stopped
    assert {key: written[key] for key in ("loss", "train", "student")} == {
        key: expected[key] for key in ("loss", "train", "student")
    }
    code, _, told = call("export", steered.out, "--trial", str(failed), "--out", tmp_path / "none")
    assert code == 2 and f"--trial: got {failed}, but it is FAILED; valid are trials that ran their full budget" in told
