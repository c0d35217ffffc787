"""Objects, the lease and the mirror against a real server on loopback."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pytest

from bpkd_search.errors import ExperimentError, HeldError, StoreError
from bpkd_search.experiment.paths import EVENTS
from bpkd_search.experiment.requests import waiting
from bpkd_search.stores import store as stores
from bpkd_search.stores import uploads
from bpkd_search.stores.experiment import StorePlace, kept
from bpkd_search.stores.home import Link, current, fetch, link, local_folder, place_for
from bpkd_search.stores.lease import Lease
from bpkd_search.stores.mirror import Mirror
from bpkd_search.stores.requests import ask
from bpkd_search.stores.store import Store
from bpkd_search.stores.uploads import Uploads
from tests.store_server import StoreServer


def test_objects_are_what_the_server_keeps(server: StoreServer) -> None:
    store = Store(url := server.url())
    store.put("a/b.txt", b"first")
    store.put("a/b.txt", b"second")
    store.put("c.bin", bytes(12 * 2**20))  # more than one part of an upload
    assert server.objects(url) == {"a/b.txt": b"second", "c.bin": bytes(12 * 2**20)}
    assert (store.get("a/b.txt"), store.get("a/none")) == (b"second", None)
    assert {name: each.size for name, each in store.objects().items()} == {"a/b.txt": 6, "c.bin": 12 * 2**20}
    store.empty("a/b.txt")
    assert store.get("a/b.txt") is None and list(store.objects("a")) == [] and list(store.objects("none")) == []


def test_a_server_that_does_not_list_what_was_written_has_no_time(
    server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(server.url())
    assert store.now() <= store.now()
    monkeypatch.setattr(Store, "objects", lambda self, folder="": {})
    with pytest.raises(StoreError, match="now was written and is not there"):
        store.now()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://bucket", "must be a folder in a bucket"),
        ("https://bucket/folder", "valid: s3://, gs://"),
        ("s3://key:secret@bucket/folder", "s3://bucket/folder: must not contain credentials"),
        ("gs://secret@bucket/folder", "gs://bucket/folder: must not contain credentials"),
        (
            "abfs://box:sec/secret@a.dfs.core.windows.net/x",
            "abfs://box@a.dfs.core.windows.net/x: must not contain cred",
        ),
        ("abfs://container/folder", "abfs://container/folder: cannot be opened: AzureOptions doesn't contain a valid"),
    ],
)
def test_a_wrong_url_is_refused(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=re.escape(said)) as e:
        Store(url)
    assert "secret" not in str(e.value)


def test_containers_of_one_account_are_different_places() -> None:
    one, other = (f"abfs://{box}@a.dfs.core.windows.net/runs/first" for box in ("one", "other"))
    assert local_folder(one) != local_folder(other) == local_folder(f"{other}/?tenant_id=x")


def test_what_azure_refuses_is_an_error_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __getattr__(self, name: str) -> Callable[..., None]:
            def refuse(*arguments: object, **options: object) -> None:
                raise pa.ArrowException("Unknown error: no token\nmore")

            return refuse

    monkeypatch.setattr(stores, "open_url", lambda url: (Refusing(), "box/runs"))
    store = Store("abfs://box@a.dfs.core.windows.net/runs")
    for act in (lambda: store.put("a", b"1"), lambda: store.get("a"), store.objects):
        with pytest.raises(StoreError, match=r"^abfs://box@a[^:]*/runs: cannot be [a-z ]*: Unknown error: no token$"):
            act()


def test_a_missing_bucket_and_wrong_credentials_are_named(server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=r"^s3://nowhere/tiny: cannot be written to: NO_SUCH_BUCKET"):
        Store("s3://nowhere/tiny").put("a", b"1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match="cannot be written to: SIGNATURE_DOES_NOT_MATCH"):
        Store(server.url()).put("a", b"1")


def test_a_log_is_sent_in_segments_of_complete_lines(
    server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SEGMENT", 100)
    store, log = Store(url := server.url()), tmp_path / EVENTS
    sent = Uploads(store, tmp_path)
    lines = [json.dumps({"event": "report", "number": number}).encode() + b"\n" for number in range(30)]
    there = []
    for number, line in enumerate(lines):
        with log.open("ab") as file:
            file.write(line[:10])
        sent.send([EVENTS])
        there.append(b"".join(content for _, content in sorted(server.objects(url).items())))
        assert there[-1] == b"".join(lines[:number])  # nothing of the line that is being written
        with log.open("ab") as file:
            file.write(line[10:])
    sent.send([EVENTS])
    assert sent.behind([EVENTS]) == []
    segments = server.objects(url)
    assert b"".join(content for _, content in sorted(segments.items())) == log.read_bytes()
    assert [len(segment) for _, segment in sorted(segments.items())][:-1] == [100] * (log.stat().st_size // 100)


def test_what_the_store_has_is_fetched_and_what_is_newer_here_stays(server: StoreServer, tmp_path: Path) -> None:
    store, said = Store(server.url()), list[str]()
    first, second = tmp_path / "first", tmp_path / "second"
    for name, content in {"config.yaml": b"name: x\n", EVENTS: b'{"event":"a"}\n', "trials/part.parquet": b"1"}.items():
        (first / name).parent.mkdir(parents=True, exist_ok=True)
        (first / name).write_bytes(content)
    names = ["config.yaml", EVENTS, "trials/part.parquet"]
    Uploads(store, first).send(names)
    store.put("students/00001.safetensors", b"fetched when it is needed")

    fetch(store, second, said.append)
    assert {path.relative_to(second).as_posix() for path in second.rglob("*") if path.is_file()} == set(names)
    assert all((second / name).read_bytes() == (first / name).read_bytes() for name in names)

    (second / EVENTS).write_bytes(b'{"event":"a"}\n{"event":"here"}\n')
    fetch(store, second, said.append)
    assert (second / EVENTS).read_bytes() == b'{"event":"a"}\n{"event":"here"}\n' and not said

    (first / EVENTS).write_bytes(b'{"event":"a"}\n{"event":"there"}\n')
    Uploads(store, first).send(names)
    fetch(store, second, said.append)
    assert (second / EVENTS).read_bytes() == (first / EVENTS).read_bytes()
    (aside,) = tmp_path.glob("second-aside-*")
    assert (aside / EVENTS).read_bytes() == b'{"event":"a"}\n{"event":"here"}\n' and str(aside) in said[0]


def test_of_two_drivers_one_gets_the_lease(server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPKD_SEARCH_LEASE_SECONDS", "8")
    store, said = Store(server.url()), list[str]()
    first, second = Lease(store, "first"), Lease(store, "second")
    first.take(said.append)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(0.1):
            first.renew_if_due()

    thread = threading.Thread(target=renew)
    thread.start()
    with pytest.raises(HeldError, match=r"is held by process \d+ on .*; wait for it or stop it"):
        second.take(said.append)
    stop.set()
    thread.join()
    assert len(said) == 1 and "waiting to see" in said[0]

    # The first is cut off: its lease ends, and the second gets it. Then the first one finds out.
    begin = time.monotonic()
    second.take(said.append)
    assert time.monotonic() - begin > 1
    time.sleep(0.2)
    with pytest.raises(HeldError, match="was taken over by process"):
        first.renew_if_due()
    second.release()
    first.take(said.append)


def test_a_lease_that_was_given_back_is_free_at_once(server: StoreServer) -> None:
    store, said = Store(server.url()), list[str]()
    first = Lease(store, "first")
    first.take(said.append)
    first.release()
    Lease(store, "second").take(said.append)
    assert said == []  # nobody was waited for


def test_a_mirror_says_once_that_the_store_is_away_and_sends_the_rest_later(tmp_path: Path) -> None:
    server, said = StoreServer(tmp_path / "server"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        server.start()
        try:
            folder = tmp_path / "folder"
            folder.mkdir()
            mirror = Mirror(Uploads(Store(url := server.url()), folder), lambda: ["a", "b"], said.append)
            (folder / "a").write_bytes(b"1")
            assert mirror.try_work() is None and server.objects(url) == {"a": b"1"}
            server.stop()
            (folder / "a").write_bytes(b"22")
            (folder / "b").write_bytes(b"3")
            assert "NETWORK_CONNECTION" in str(mirror.try_work()) and mirror.behind() == ["a", "b"]
            assert mirror.try_work() is not None and len(said) == 1
            server.start()
            assert mirror.try_work() is None and server.objects(url) == {"a": b"22", "b": b"3"}
            assert said[1] == f"{url}: answers again" and mirror.behind() == []
        finally:
            server.stop()


def test_an_experiment_that_is_there_is_not_overwritten(server: StoreServer) -> None:
    Store(url := server.url()).put("config.yaml", b"name: x\n")
    with pytest.raises(ExperimentError, match=f"{url}: exists already; continue it with `bpkd-search resume {url}`"):
        place_for(url, pytest.fail)


def test_a_request_reaches_the_driver_through_the_store_and_is_let_go_of_when_done(
    server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url()
    driver, other = tmp_path / "driver", tmp_path / "other"
    monkeypatch.setenv("BPKD_SEARCH_CACHE", str(driver))
    folder = place_for(url, pytest.fail)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: x\n")
    link(folder, url)
    with kept(folder, pytest.fail) as place:
        assert isinstance(place, StorePlace)
        place.try_work()
        monkeypatch.setenv("BPKD_SEARCH_CACHE", str(other))
        (copy,) = {current(url, pytest.fail)}
        assert copy.parent.parent == other
        answers: list[object] = []
        asking = threading.Thread(target=lambda: answers.append(ask(url, copy, {"kind": "pause"}, 30)))
        asking.start()
        until = time.monotonic() + 30
        while not (waits := waiting(folder)) and time.monotonic() < until:
            time.sleep(0.1)
        assert json.loads(waits[0].read_text()) == {"kind": "pause"}
        with (folder / EVENTS).open("ab") as log:
            log.write(b'{"event":"request","id":"%s","answer":"done"}\n' % waits[0].stem.encode())
        waits[0].unlink()
        asking.join(30)
        assert answers == [{"event": "request", "id": waits[0].stem, "answer": "done"}]
    assert not [name for name in server.objects(url) if name.startswith(("requests/", "lease/"))]


def test_what_nobody_needs_is_emptied_and_what_no_process_sent_is_sent_at_the_end(
    server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url()
    monkeypatch.setenv("BPKD_SEARCH_CACHE", str(tmp_path))
    folder = place_for(url, pytest.fail)
    (folder / "students").mkdir(parents=True)
    (folder / "config.yaml").write_text("name: x\n")
    link(folder, url)
    for name in ("students/00001.safetensors", "checkpoints/00002.pt", "checkpoints/00003.pt"):
        Store(url).put(name, b"there")
    (folder / "students/00004.safetensors").write_bytes(b"here")
    with kept(folder, pytest.fail) as place:
        place.release([folder / "students/00001.safetensors", folder / "checkpoints/00002.pt"])
    objects = server.objects(url)
    assert {name for name in objects if "/" in name and not name.startswith("clock")} == {
        "checkpoints/00003.pt",
        "students/00004.safetensors",
    }
    with kept(folder, pytest.fail) as place:
        place.bring([folder / "checkpoints/00003.pt", folder / "checkpoints/00009.pt"])
    assert (folder / "checkpoints/00003.pt").read_bytes() == b"there"
    assert not (folder / "checkpoints/00009.pt").exists()


def test_a_lease_is_renewed_while_a_large_file_is_sent(
    server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPKD_SEARCH_LEASE_SECONDS", "8")
    url = server.url()
    place = StorePlace(tmp_path, Link(url, "first"), lambda line: None)
    sends, sent = threading.Event(), threading.Event()

    def send(names: Iterable[str]) -> None:
        sends.set()
        sent.wait(60)

    monkeypatch.setattr(place.uploads, "send", send)
    place.begin()
    try:
        assert sends.wait(30)
        with pytest.raises(HeldError, match="is held by process"):
            Lease(Store(url), "second").take(lambda line: None)
    finally:
        sent.set()
        assert place.end() is None
    Lease(Store(url), "second").take(lambda line: None)
