"""Builds that are killed, damaged, doubled or too large for the disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bpkd_search.data.views import chunks
from bpkd_search.data.views.catalog import find, list_stores, remove, verify_store
from bpkd_search.data.views.layout import Layout
from bpkd_search.data.views.store import ViewStore
from bpkd_search.errors import DataError, ResourceError

ARRAYS = {"a": ((2, 3), "<f4"), "b": ((), "|u1")}
# Ten items in two groups, three a chunk: chunks of 3, 3, 3 and 1.
LAYOUT = Layout(ARRAYS, items=10, groups=2, chunk=3)


def values() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "a": generator.normal(size=(2, 10, 2, 3)).astype("f4"),
        "b": generator.integers(0, 255, (2, 10), dtype=np.uint8),
    }


class Worker:
    """Gives the rows of `values` and counts; breaks off at a chunk."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.made, self.stop_at = [], stop_at

    def __call__(self, start: int, stop: int) -> dict[str, np.ndarray]:
        if start // 3 == self.stop_at:
            raise KeyboardInterrupt
        self.made.append(start // 3)
        return {name: array[:, start:stop] for name, array in values().items()}


def whole(folder: Path) -> bool:
    _, arrays = chunks.read(folder)
    return all(np.array_equal(arrays[name], rows.reshape(20, *rows.shape[2:])) for name, rows in values().items())


def test_rows_lie_group_by_group_and_numpy_reads_them(tmp_path: Path) -> None:
    chunks.build(tmp_path, LAYOUT, Worker(), about={})
    assert whole(tmp_path)
    assert np.array_equal(np.load(tmp_path / "a.npy"), values()["a"].reshape(20, 2, 3))
    assert np.load(tmp_path / "b.npy").nbytes + np.load(tmp_path / "a.npy").nbytes == LAYOUT.bytes


def test_any_order_gives_the_same_files(tmp_path: Path) -> None:
    chunks.build(tmp_path / "a", LAYOUT, Worker(), about={})
    chunks.build(tmp_path / "b", LAYOUT, Worker(), about={}, map=lambda f, items: map(f, reversed(items)))
    chunks.build(tmp_path / "c", LAYOUT, Worker(), about={}, map=chunks.thread_map)
    for name in ("a.npy", "b.npy"):
        assert len({(tmp_path / folder / name).read_bytes() for folder in "abc"}) == 1


def test_an_interrupted_build_keeps_its_chunks_and_makes_the_others(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        chunks.build(tmp_path, LAYOUT, Worker(stop_at=2), about={})
    with pytest.raises(DataError, match=r"lacks 2 chunks; `bpkd-search views SPACE.yaml` builds the rest"):
        chunks.read(tmp_path)
    second, seen = Worker(), []
    chunks.build(tmp_path, LAYOUT, second, about={}, progress=lambda done, total: seen.append((done, total)))
    assert second.made == [2, 3]
    assert seen == [(9, 10), (10, 10)]
    assert whole(tmp_path)
    third = Worker()
    chunks.build(tmp_path, LAYOUT, third, about={})
    assert third.made == []


BUILDER = """
import sys, time
from pathlib import Path
from bpkd_search.data.views import chunks
from tests.data import test_views_chunks as here

folder = Path(sys.argv[1])

class Held(here.Worker):
    def __call__(self, start, stop):
        while start >= 6 and not (folder / "go").exists():
            time.sleep(0.02)
        return super().__call__(start, stop)

held = Held()
chunks.build(folder, here.LAYOUT, held, about={}, waiting=(folder / "waits").touch)
print(*held.made, flush=True)
"""


def builder(folder: Path) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", BUILDER, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def two_done(folder: Path) -> bool:
    table = chunks.Table.read(folder)
    return table is not None and len(table.done) == 2


def test_a_killed_process_leaves_its_chunks_and_no_lock(tmp_path: Path) -> None:
    process = builder(tmp_path)
    wait_for(lambda: two_done(tmp_path))
    process.send_signal(signal.SIGKILL)
    process.wait()
    rest = Worker()
    chunks.build(tmp_path, LAYOUT, rest, about={})
    assert rest.made == [2, 3]
    assert whole(tmp_path)


def test_of_two_processes_the_second_waits_and_finds_it_done(tmp_path: Path) -> None:
    first = builder(tmp_path)
    wait_for(lambda: two_done(tmp_path))
    second = builder(tmp_path)
    wait_for((tmp_path / "waits").exists)
    (tmp_path / "go").touch()
    assert first.communicate(timeout=60)[0].split() == ["0", "1", "2", "3"]
    assert second.communicate(timeout=60)[0].split() == []
    assert whole(tmp_path)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_one_changed_bit_is_found_and_its_chunk_alone_is_made_again(tmp_path: Path) -> None:
    chunks.build(tmp_path, LAYOUT, Worker(), about={})
    assert chunks.verify(tmp_path) == []
    # Row 14 is item 4 of group 1: chunk 1.
    flip(tmp_path / "b.npy", (tmp_path / "b.npy").stat().st_size - 20 + 14)
    assert chunks.verify(tmp_path) == [1]
    again = Worker()
    chunks.build(tmp_path, LAYOUT, again, about={})
    assert again.made == [1]
    assert whole(tmp_path)


def test_a_truncated_or_missing_file_is_found_by_its_size_and_its_lost_chunks_are_made_again(tmp_path: Path) -> None:
    chunks.build(tmp_path, LAYOUT, Worker(), about={})
    # The last three rows of group 1: chunk 3 and two thirds of chunk 2.
    os.truncate(tmp_path / "a.npy", (tmp_path / "a.npy").stat().st_size - 3 * 24)
    with pytest.raises(DataError, match=r"a\.npy: is not a readable array.*views SPACE.yaml --verify"):
        chunks.read(tmp_path)
    again = Worker()
    chunks.build(tmp_path, LAYOUT, again, about={})
    assert again.made == [2, 3]
    assert whole(tmp_path)
    (tmp_path / "b.npy").unlink()
    lost = Worker()
    chunks.build(tmp_path, LAYOUT, lost, about={})
    assert lost.made == [0, 1, 2, 3]
    assert whole(tmp_path)


def test_a_damaged_table_or_header_and_another_layout(tmp_path: Path) -> None:
    chunks.build(tmp_path, LAYOUT, Worker(), about={})
    flip(tmp_path / "a.npy", 0)
    with pytest.raises(DataError, match="not a readable array"):
        chunks.read(tmp_path)
    assert chunks.verify(tmp_path) == []
    assert whole(tmp_path)
    (tmp_path / "chunks.json").write_text("{")
    again = Worker()
    chunks.build(tmp_path, LAYOUT, again, about={})
    assert again.made == [0, 1, 2, 3]
    other = Worker()
    chunks.build(tmp_path, Layout(ARRAYS, 10, 2, 5), other, about={})
    assert len(other.made) == 2


def test_a_worker_that_sees_another_folder_at_the_path_is_refused(tmp_path: Path) -> None:
    chunks.build(tmp_path, LAYOUT, Worker(), about={})
    task = chunks.ChunkTask(tmp_path, "the token of another build", LAYOUT, Worker())
    with pytest.raises(DataError, match=r"is not the directory that the driver sees; set data\.views_dir"):
        task(0)


def test_a_disk_that_fills_up_is_an_error_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(chunks, "write_rows", full)
    with pytest.raises(ResourceError, match=r"cannot be written: No space left on device"):
        chunks.build(tmp_path, LAYOUT, Worker(), about={})


def test_stores_are_listed_verified_and_removed_only_when_nobody_reads_them(tmp_path: Path) -> None:
    from tests.data.test_views import build_views, recipe

    store = build_views(recipe(about={"kind": "synthetic"}), tmp_path)
    (entry,) = list_stores(tmp_path)
    assert entry.finished and entry.key == store.path.name
    assert entry.bytes >= sum(layout.bytes for layout in (recipe().views_layout,))
    for said in ("synthetic 5 images x 3 views, 32x48", "logits: none", "seconds ago"):
        assert said in entry.line()
    flip(store.path / "validation" / "records.npy", (store.path / "validation" / "records.npy").stat().st_size - 1)
    lines: list[str] = []
    assert verify_store(store.path, lines.append) == 1
    assert lines == [f"{entry.key}/validation: damaged chunks: 0"]
    assert not list_stores(tmp_path)[0].finished
    assert len(list(build_views(recipe(), tmp_path).val_samples())) == 3
    with pytest.raises(DataError, match="in use by another process"):
        remove(entry)
    del store
    reader = ViewStore(entry.path)
    with pytest.raises(DataError, match="in use by another process"):
        remove(entry)
    del reader
    remove(find(tmp_path, entry.key))
    assert list_stores(tmp_path) == []
    with pytest.raises(DataError, match="has no store 'nothing'; existing: none"):
        find(tmp_path, "nothing")


def test_a_full_disk_is_refused_up_front_with_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.data.test_views import build_views, recipe

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(
        ResourceError, match=r"the images 108 KiB are needed and the disk has 1 KiB free.*data\.views_dir"
    ):
        build_views(recipe(), tmp_path)
