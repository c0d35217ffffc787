"""Requests as a driver takes them from its folder, with an engine and without Ray: whatever lies there, it goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpkd_search.cluster.requests import Requests
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.errors import ExperimentError, UserError
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.requests import MOST_BYTES, ask, holder, post, settle, waiting
from bpkd_search.search.engine import Engine
from bpkd_search.search.replay import replay
from bpkd_search.search.requests import Change, Enqueue, Pause, Request, Retry, Stop
from bpkd_search.search.sending import send
from tests.driving import drive, report_of
from tests.mounts import read_only


class Driver:
    """An engine with its folder and what its requests made it say."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, list[str]()
        self.engine = Engine(experiment.read_config(folder), folder, "test")
        self.requests = Requests(self.engine, folder, self.said.append)

    def take(self, *, beginning: bool = False) -> dict[str, UserError]:
        return self.requests.take(beginning=beginning)

    def post(self, request: Request) -> str:
        return post(self.folder, request.model_dump(mode="json"))

    def close(self) -> None:
        self.engine.recorder.close()


def begun(tiny: dict[str, Any], folder: Path, trials: int = 4, **search: Any) -> Driver:
    tree = deepcopy(tiny)
    tree["search"] |= {"trials": trials, "scheduler": {"name": "none"}, **search}
    experiment.create(folder, parse(SearchConfig, tree, "test"))
    return Driver(folder)


@pytest.fixture
def driver(tiny: dict[str, Any], tmp_path: Path) -> Iterator[Driver]:
    driver = begun(tiny, tmp_path / "e")
    yield driver
    driver.close()


def lay(driver: Driver, name: str, content: bytes) -> Path:
    path = driver.folder / "requests" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


# What lies in the folder and is no request


GARBAGE = {
    "empty": b"",
    "binary": bytes(range(256)),
    "no UTF-8": b'{"kind": "pause\xff"}',
    "deep": b"[" * 100_000,
    "a lone surrogate": rb'{"kind": "enqueue", "point": {"\ud800": 1}}',
    "endless number": b'{"kind": "stop", "trials": [' + b"9" * 5000 + b"]}",
    "too large": b'{"kind": "enqueue", "point": {"a": "' + b"x" * MOST_BYTES + b'"}}',
    "two": b'{"kind": "pause"}{"kind": "pause"}',
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_put_aside_and_the_next_request_is_taken(driver: Driver, name: str) -> None:
    path = lay(driver, "0.json", GARBAGE[name])
    wanted = driver.post(Enqueue(point={"loss.edge_weight": 0.3}))
    (refused,) = driver.take().values()
    assert str(refused).startswith(f"{path}.invalid: ")
    kept = path.with_name("0.json.invalid")
    assert kept.read_bytes() == GARBAGE[name] and waiting(driver.folder) == []
    logged = list(read_events(driver.folder, "request"))
    assert [event["id"] for event in logged] == ["0", wanted] and "refused" in logged[0]
    # Another one of that name does not replace it.
    lay(driver, "0.json", b"other")
    Driver(driver.folder).take()
    assert kept.read_bytes() == GARBAGE[name]


def test_links_pipes_and_folders_are_no_requests(driver: Driver, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"kind": "pause"}')
    folder = driver.folder / "requests"
    folder.mkdir()
    (folder / "a.json").symlink_to(secret)
    (folder / "b.json").symlink_to("/dev/zero")
    os.mkfifo(folder / "c.json")
    (folder / "d.json").mkdir()
    refused = driver.take()
    assert list(refused) == ["a", "b", "c", "d"] and not driver.engine.paused
    assert secret.read_text() == '{"kind": "pause"}' and waiting(driver.folder) == []


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.fixed_dictionaries({"kind": st.just("stop"), "trials": st.lists(st.integers() | st.text(), max_size=3)}),
        st.fixed_dictionaries({"kind": st.just("retry"), "trials": st.lists(st.integers(-2, 9), max_size=3)}),
        st.fixed_dictionaries(
            {
                "kind": st.just("enqueue"),
                "point": st.dictionaries(
                    st.sampled_from(["loss.edge_weight", "loss.edge_width", "loss", "", "a.b"]) | st.text(max_size=4),
                    st.recursive(
                        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
                        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
                        max_leaves=4,
                    ),
                    max_size=3,
                ),
            }
        ),
        st.fixed_dictionaries(
            {
                "kind": st.just("change"),
                "settings": st.lists(
                    st.builds(
                        "{}={}".format,
                        st.sampled_from(["search.trials", "search.budget.hours", "space.loss.edge_weight.float",
                                         "space.loss.edge_weight", "space", "search", "search.concurrent",
                                         "name", "="]),
                        st.sampled_from(["0", "-1", "1e400", "[1, 2]", "[2, 1]", "{float: [1, 2]}", "null", "{", "x",
                                         "[.nan, 1]", "auto", "{}", "&a [*a]", "!!python/name:os.system"])
                        | st.text(max_size=5),
                    ),
                    max_size=2,
                ),
                "more_trials": st.integers(-1, 3) | st.just(10**30),
            }
        ),
    )
)  # fmt: skip
def test_no_request_ends_a_search(driver: Driver, content: dict[str, Any]) -> None:
    """Whatever a file holds: it is done or refused, and never an exception of the driver."""
    lay(driver, f"{len(driver.said):09d}.json", json.dumps(content).encode())
    driver.take()
    assert waiting(driver.folder) == []


def test_only_who_runs_the_search_changes_its_configuration(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """`search.on_end` is a command, which would run as the user of the driver."""
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    name = driver.post(Change(settings=("search.on_end='touch /tmp/x'",)))
    paths = [driver.folder / "requests" / f"{name}.json", driver.folder / "config.yaml"]
    if os.geteuid() != 0:
        pytest.skip("only root gives files to other users")
    os.chown(paths[0], 4712, -1)
    os.chown(paths[1], 4713, -1)
    (refused,) = driver.take().values()
    assert "is of another user (id 4712); only who runs the search may change it" in str(refused)
    # Others may do what needs no trust, where the rights of the folder let them.
    other = driver.post(Pause())
    os.chown(driver.folder / "requests" / f"{other}.json", 4712, -1)
    assert driver.take() == {} and driver.engine.paused
    # On some file systems all files have another owner, the same one.
    last = driver.post(Change(more_trials=1))
    os.chown(driver.folder / "requests" / f"{last}.json", 4713, -1)
    assert driver.take() == {} and driver.engine.config.search.trials == 5


def test_a_request_that_no_driver_would_read_is_not_left(driver: Driver) -> None:
    with pytest.raises(ExperimentError, match=r"the request has 1 MiB, must have at most 1 MiB"):
        send(driver.folder, Change(settings=(f"search.on_end={'x' * MOST_BYTES}",)))
    assert waiting(driver.folder) == []


# Drivers that die, two at once, none


class Killed(BaseException):
    """The end of a driver."""


@pytest.mark.parametrize(
    ("where", "total"),
    [
        ("bpkd_search.search.engine.Engine.request", 8),  # before the log has it
        ("bpkd_search.cluster.requests.keep_changes", 11),  # before the configuration has it
        ("pathlib.Path.unlink", 11),  # before the file is gone
    ],
)
def test_a_request_is_done_once_although_the_driver_dies_between_its_steps(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, where: str, total: int
) -> None:
    driver.post(Change(more_trials=3))
    driver.post(Enqueue(point={"loss.edge_weight": 0.3}))

    def kill(*arguments: object, **named: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(where, kill)
        driver.take()
    driver.close()
    settle(driver.folder)
    again = Driver(driver.folder)
    assert again.engine.total == total
    again.take()
    assert again.engine.total == 12 and waiting(driver.folder) == []
    assert experiment.read_config(driver.folder).search.trials == 7
    drive(again.engine)
    again.close()
    assert replay(driver.folder) == (12, [])


HOLD = """
import sys
from pathlib import Path
from bpkd_search.experiment import folder
with folder.hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_driver_that_was_killed_is_not_waited_for(driver: Driver) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(driver.folder)], stdin=-1, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert holder(driver.folder).startswith(f"process {other.pid} on ")
        assert "has not taken it yet" in send(driver.folder, Enqueue(point={"loss.edge_weight": 0.3}), seconds=0.5)
        other.kill()
        other.wait()
    assert (driver.folder / "lock").read_text().startswith(f"process {other.pid} on ")
    assert holder(driver.folder) == ""
    with pytest.raises(ExperimentError, match="nobody runs this search, so there is nothing to pause"):
        send(driver.folder, Pause())
    said = send(driver.folder, Enqueue(point={"loss.edge_weight": 0.4}), seconds=1000)  # at once
    assert said.startswith(
        "the request waits: nobody runs this search now; it is taken at the latest by: bpkd-search r"
    )
    assert driver.take() == {} and driver.engine.total == 10


def test_an_answer_counts_although_the_driver_ends_with_it(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = iter(["process 1 on a", ""])

    def takes(directory: Path) -> str:
        running = next(runs)
        driver.take()
        return running

    monkeypatch.setattr("bpkd_search.experiment.requests.holder", takes)
    answer = ask(driver.folder, Enqueue(point={"loss.edge_weight": 0.3}).model_dump(mode="json"), 1000)
    assert answer is not None and answer["enqueue"] == [{"loss.edge_weight": 0.3}]


def test_a_pause_that_waits_is_of_the_session_before(driver: Driver) -> None:
    driver.post(Pause())
    driver.post(Stop(trials=(0,)))
    refused = driver.take(beginning=True)
    assert [str(error) for error in refused.values()] == [
        "pause: the search has been resumed since",
        "stop: got trial 0, but no trial has begun yet",
    ]
    drive(driver.engine)
    assert driver.engine.done


def test_a_pause_comes_twice(driver: Driver) -> None:
    driver.engine.ask()
    driver.post(Pause())
    driver.post(Pause())
    assert driver.take() == {} and driver.said[0] == driver.said[1]
    assert driver.engine.ask() is None


def test_a_read_only_folder_is_named(driver: Driver, call) -> None:
    (driver.folder / "requests").mkdir()
    with read_only(driver.folder):
        code, _, said = call("enqueue", driver.folder, "loss.edge_weight=0.3")
    assert (code, said) == (
        2,
        f"error: {driver.folder}/requests: cannot be written to (Read-only file system); a request needs the rights of"
        " who runs the search\n",
    )


def test_files_that_cannot_be_removed_are_done_once(driver: Driver) -> None:
    driver.post(Enqueue(point={"loss.edge_weight": 0.3}))
    with read_only(driver.folder / "requests"):
        driver.take()
        driver.take()
    assert driver.engine.total == 9 and len(driver.said) == 2 and "cannot be removed" in driver.said[1]
    again = Driver(driver.folder)
    again.take()
    assert again.engine.total == 9 and waiting(driver.folder) == []
    again.close()


# Trials that end, wait or run again at that moment


def end(engine: Engine, number: int, reports: int = 4) -> None:
    for epoch in range(1, reports + 1):
        engine.report(number, report_of(engine.trials[number], epoch, 0.2 + 0.01 * number))
    engine.end(number)


def test_a_trial_that_ends_before_its_stop_keeps_its_end(driver: Driver) -> None:
    engine = driver.engine
    for _ in range(2):
        engine.ask()
    end(engine, 0)
    driver.post(Stop(trials=(0,)))  # asked of a state that is no more
    driver.post(Stop(trials=(1,)))
    (refused,) = driver.take().values()
    assert str(refused) == "stop: got trial 0, which has ended: it is COMPLETE"
    end(engine, 1)  # its last report was on its way when the stop came
    assert engine.states == {0: "COMPLETE", 1: "COMPLETE"}
    drive(engine)
    driver.close()
    assert replay(driver.folder) == (8, [])


def test_a_trial_that_waits_after_a_loss_is_stopped(driver: Driver) -> None:
    engine = driver.engine
    for _ in range(3):
        engine.ask()
    end(engine, 0)
    engine.lost(1, "process", "was killed")
    engine.lost(2, "oom", "out of memory")
    driver.post(Stop(trials=(1, 2)))
    assert driver.take() == {}
    assert engine.states == {0: "COMPLETE", 1: "PRUNED", 2: "PRUNED"}
    drive(engine)
    driver.close()
    assert len(engine.states) == 8 and replay(driver.folder) == (8, [])


def test_a_retry_is_refused_while_the_trial_runs_again(driver: Driver) -> None:
    engine = driver.engine
    engine.ask()
    engine.end(0, ("error", "x"))
    driver.post(Retry())
    driver.post(Retry(trials=(0,)))
    (refused,) = driver.take().values()
    assert str(refused).startswith("retry: got trial 0, which has not ended")
    drive(engine)
    driver.close()
    assert engine.states[0] == "COMPLETE" and replay(driver.folder) == (8, [])
