"""Whole searches that are kept on an object store: a real server, Ray and Optuna, tiny images."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
import yaml

from bpkd_search import Leaderboard
from bpkd_search.experiment.reading import Folder
from bpkd_search.stores.home import local_folder
from tests.store_server import StoreServer

PATIENCE = 240
# What differs between two searches that do the same.
OF_THE_RUN = (
    "gpu_seconds",
    "calibrated_seconds",
    "wall_seconds",
    "latency_ms",
    "images_per_second",
    "peak_memory_mb",
    "started",
    "ended",
    "node",
    "time",
)


def table(where: Path | str, name: str) -> pd.DataFrame:
    """A table without what differs between two runs of one search, in the order of trials and epochs."""
    rows = Folder(where).table(name).to_pandas()
    keys = [key for key in ("number", "epoch") if key in rows]
    return rows.drop(columns=[key for key in OF_THE_RUN if key in rows]).sort_values(keys).reset_index(drop=True)


def same_tables(one: Path | str, other: Path | str) -> None:
    for name in ("trials", "reports"):
        left, right = table(one, name), table(other, name)
        if name == "trials":  # a lost trial says so
            left, right = (frame.drop(columns=["retries", "message"]) for frame in (left, right))
        pd.testing.assert_frame_equal(left, right, check_categorical=False)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, tiny_search: Callable[[], dict[str, Any]]) -> Path:
    tiny = tiny_search()
    tiny["train"]["epochs"] = 10  # longer than the outage of a store
    # A teacher of its own: one that a test has trained in this process, with another number of threads, has other bits.
    tiny["teacher"]["train"]["seed"] = 11
    tiny["search"] |= {"trials": 2, "concurrent": 1, "scheduler": {"name": "none"}}
    path = tmp_path_factory.mktemp("space") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return path


@pytest.fixture(scope="module")
def on_disk(space: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The search in a folder, which nothing disturbs."""
    folder = tmp_path_factory.mktemp("disk") / "out"
    # Not in this process, for the same reason.
    subprocess.run(command("run", space, "--out", folder), check=True, capture_output=True, timeout=PATIENCE)
    return folder


@pytest.fixture(scope="module")
def on_store(space: Path, server: StoreServer) -> Iterator[tuple[str, str]]:
    """The same search at a URL; the server is down for a while in its midst. Also what the search printed."""
    url = server.url()

    def outage() -> None:
        until = time.monotonic() + PATIENCE
        while reports_in(server, url) < 3 and time.monotonic() < until:
            time.sleep(0.02)
        server.stop()
        time.sleep(12)  # longer than pyarrow tries again by itself
        server.start()

    thread = threading.Thread(target=outage)
    thread.start()
    done = subprocess.run(command("run", space, "--out", url), capture_output=True, text=True, timeout=PATIENCE)
    thread.join()
    assert done.returncode == 0, done.stderr
    yield url, done.stderr
    shutil.rmtree(local_folder(url))


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "bpkd_search", *map(str, arguments)]


def reports_in(server: StoreServer, url: str) -> int:
    segments = [content for name, content in server.objects(url).items() if name.startswith("events/")]
    return sum(content.count(b'"event":"report"') for content in segments)


def test_the_tables_are_those_of_a_search_on_disk(
    on_disk: Path, on_store: tuple[str, str], server: StoreServer
) -> None:
    url, said = on_store
    same_tables(on_disk, url)
    assert said.count("this goes on without it") == said.count(f"{url}: answers again") == 1
    objects = server.objects(url)
    log = b"".join(content for name, content in sorted(objects.items()) if name.startswith("events/"))
    assert log == (local_folder(url) / "events.jsonl").read_bytes()
    trials = range(len(Leaderboard(on_disk).trials()))
    assert {name for name in objects if name.startswith("students/")} == {
        f"students/{n:05d}.safetensors" for n in trials
    }
    assert not [name for name in objects if name.split("/")[0] in ("checkpoints", "lease", "requests")]
    assert [name for name in objects if name.startswith("teacher/") and name.endswith(".safetensors")]
    assert not any(b"test-secret" in content for content in objects.values())


def test_reading_commands_take_the_url_on_any_machine(
    on_store: tuple[str, str], server: StoreServer, call: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    url, _ = on_store
    monkeypatch.setenv("BPKD_SEARCH_CACHE", str(tmp_path / "other"))
    best = Leaderboard(url).best(1).iloc[0]
    code, out, err = call("leaderboard", url, "--format", "csv")
    assert (code, err) == (0, "") and f"{best['miou']:.4f}"[:5] in out
    assert call("show", url, "best")[0] == 0
    code, out, err = call("replay", url)
    assert (code, out.splitlines()[-1]) == (0, "6 trials regenerated, 0 difference(s)")
    code, _, err = call("export", url, "--out", tmp_path / "best", "--format", "safetensors")
    assert code == 0, err
    (exported,) = (tmp_path / "best").iterdir()
    assert exported.stat().st_size > 10_000
    assert call("report", url, "--out", tmp_path / "page.html")[0] == 0
    code, _, err = call("run", "quickstart", "--out", url)
    assert code == 2 and f"{url}: exists already" in err


@pytest.mark.long
def test_a_search_is_confirmed_from_its_url_as_from_its_folder(
    on_disk: Path, on_store: tuple[str, str], server: StoreServer, tmp_path: Path
) -> None:
    url, _ = on_store
    before, folder = server.objects(url), tmp_path / "folder"
    shutil.copytree(on_disk, folder)
    # The store has the teacher, the folder has not.
    for where, cache in ((folder, {}), (url, {"BPKD_SEARCH_CACHE": str(tmp_path / "other")})):
        confirm = command("confirm", where, "--top", "1", "--seeds", "2")
        done = subprocess.run(confirm, env=os.environ | cache, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
    mine, theirs = (
        rows.drop(columns=[key for key in OF_THE_RUN if key in rows]).sort_values("run").reset_index(drop=True)
        for rows in (Folder(where).table("confirm").to_pandas() for where in (folder, url))
    )
    assert len(mine) == 5 * 2 and set(mine["state"]) == {"COMPLETE"}
    pd.testing.assert_frame_equal(mine, theirs, check_categorical=False)
    after = server.objects(url)
    assert {name for name in after if name.startswith("confirmation/students/")} == {
        f"confirmation/students/{run:05d}.safetensors" for run in range(10)
    }
    assert not [name for name in after if "checkpoints/" in name or name.startswith("lease/")]
    search = [name for name in before if name.split("/")[0] in ("events", "trials", "reports", "students")]
    assert {name: after[name] for name in search} == {name: before[name] for name in search}


def continuing(objects: dict[str, bytes], epochs: int) -> tuple[str, bytes] | None:
    """The log of the trial that runs, by what a store has, and what it is to tell once the trial goes on from there.

    None where no trial is in its midst. The log of the search and the checkpoints are sent by different processes.
    """
    log = b"".join(content for name, content in sorted(objects.items()) if name.startswith("events/"))
    events = [json.loads(line) for line in log.splitlines()]
    ended = {event["number"] for event in events if event["event"] == "end"}
    reported = {event["number"]: event["epoch"] for event in events if event["event"] == "report"}
    for number in reported.keys() - ended:
        checkpoint = objects.get(f"checkpoints/{number:05d}.pt")
        if reported[number] < epochs and checkpoint:
            saved = torch.load(io.BytesIO(checkpoint), weights_only=True)["epoch"]
            told = f"continues after epoch {saved}" if saved <= reported[number] + 1 else "starts again"
            return f"logs/trials/{number:05d}.txt", told.encode()
    return None


@pytest.mark.long
def test_a_killed_search_goes_on_on_another_machine_from_the_url_alone(
    space: Path, server: StoreServer, tmp_path: Path
) -> None:
    tiny = yaml.safe_load(space.read_text())
    # Epochs that last longer than what a store has lags behind, about a second, but for one of a few trials.
    tiny["data"]["synthetic"]["train_images"] = 100
    tiny["search"]["trials"] = 1
    tiny["train"]["epochs"] = epochs = 6
    space = tmp_path / "tiny.yaml"
    space.write_text(yaml.safe_dump(tiny))
    on_disk = tmp_path / "disk"
    subprocess.run(command("run", space, "--out", on_disk), check=True, capture_output=True, timeout=PATIENCE)

    url, lease = server.url(), {"BPKD_SEARCH_LEASE_SECONDS": "20"}
    first, second = (os.environ | lease | {"BPKD_SEARCH_CACHE": str(tmp_path / name)} for name in ("first", "second"))
    driver = subprocess.Popen(command("run", space, "--out", url), env=first, stderr=subprocess.PIPE, text=True)

    def wait_for(ready: Callable[[], Any]) -> None:
        until = time.monotonic() + PATIENCE
        while not ready():
            assert driver.poll() is None and time.monotonic() < until
            time.sleep(0.05)

    wait_for(lambda: "config.yaml" in server.objects(url))
    refused = subprocess.run(command("resume", url), env=second, capture_output=True, text=True, timeout=PATIENCE)
    assert refused.returncode == 2 and f"error: {url}: is held by process {driver.pid} on" in refused.stderr
    wait_for(lambda: (going := continuing(server.objects(url), epochs)) and going[1].startswith(b"continues"))

    for process in [*psutil.Process(driver.pid).children(recursive=True), psutil.Process(driver.pid)]:
        process.kill()
    driver.communicate()
    shutil.rmtree(tmp_path / "first")
    kept = server.objects(url)
    before = b"".join(content for name, content in sorted(kept.items()) if name.startswith("events/"))

    resumed = subprocess.run(command("resume", url), env=second, capture_output=True, text=True, timeout=PATIENCE)
    assert resumed.returncode == 0, resumed.stderr
    after = b"".join(content for name, content in sorted(server.objects(url).items()) if name.startswith("events/"))
    assert after.startswith(before)
    assert "teacher: epoch" not in resumed.stderr  # it came from the store
    same_tables(on_disk, url)
    objects, going = server.objects(url), continuing(kept, epochs)
    assert going is not None
    assert [name for name in objects if name.startswith("logs/trials/")] == [going[0]]
    assert going[1] in objects[going[0]]
    assert not [name for name in objects if name.startswith("checkpoints/")]


def test_what_cannot_work_is_refused_before_anything_is_built(
    space: Path, server: StoreServer, call: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("BPKD_SEARCH_CACHE", str(tmp_path))
    for url, said in (
        ("s3://nowhere/tiny", "s3://nowhere/tiny: cannot be written to: NO_SUCH_BUCKET"),
        ("http://bucket/tiny", "http://bucket/tiny: must be a folder in a bucket"),
        ("s3://bucket", "s3://bucket: must be a folder in a bucket"),
    ):
        code, _, err = call("run", space, "--out", url)
        assert code == 2 and f"error: {said}" in err and "Traceback" not in err
    code, _, err = call("resume", url := server.url())
    assert code == 2 and f"error: {url}: is not an experiment directory" in err
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    code, _, err = call("run", space, "--out", url)
    assert code == 2 and f"error: {url}: cannot be" in err and len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
