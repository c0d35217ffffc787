"""Copies of a store: the same bytes, whatever was there, whoever copies beside, and never from a damaged source."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from bpkd_search.data.views import ViewStore, build_logits, build_views, chunks
from bpkd_search.data.views.catalog import list_stores, remove, verify_store
from bpkd_search.data.views.copies import Contents, copy_store, is_whole, local_root, read_chunk
from bpkd_search.errors import DataError, ResourceError
from tests.data.test_views import SIZE, open_split, recipe
from tests.data.test_views_chunks import flip

PARTS = ("train", "validation", "logits-teacher")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 40 images, three chunks of views, with logits."""
    plan = recipe(train=open_split("synthetic", "train", train_images=40, val_images=3, **SIZE))
    store = build_views(plan, tmp_path_factory.mktemp("shared"))
    build_logits(store, lambda images: images.float()[:, :, ::8, ::8] / 255, "teacher")
    return store.path


class Reader:
    """Hands out the chunks of a store and writes down which; breaks off at one."""

    def __init__(self, store: Path, stop_at: tuple[str, int] | None = None) -> None:
        self.store, self.stop_at, self.read = store, stop_at, list[tuple[str, int]]()

    def __call__(self, part: str, chunk: int) -> dict[str, np.ndarray]:
        if (part, chunk) == self.stop_at:
            raise KeyboardInterrupt
        self.read.append((part, chunk))
        return read_chunk(self.store / part, chunk)


ALL = [("logits-teacher", 0), ("train", 0), ("train", 1), ("train", 2), ("validation", 0)]


def files(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*.npy")}


def test_a_copy_is_the_store_byte_for_byte_and_a_folder_of_stores(source: Path, tmp_path: Path) -> None:
    contents, reader = Contents.of(source, PARTS), Reader(source)
    copied = contents.path(tmp_path)
    assert not is_whole(copied, PARTS)
    assert contents.missing(tmp_path) == sum(table.layout.bytes for table in contents.tables.values())
    assert copy_store(contents, tmp_path, reader) == contents.missing(tmp_path / "nothing")
    assert sorted(reader.read) == ALL
    assert len(files(copied)) == 4 and files(copied) == files(source)
    assert is_whole(copied, PARTS) and contents.missing(tmp_path) == 0
    one, two = (ViewStore(path, path / "logits-teacher") for path in (source, copied))
    for a, b in zip(one.epoch(1, 4, 0), two.epoch(1, 4, 0), strict=True):
        assert all(bool((x == y).all()) for x, y in zip(a, b, strict=True))
    (entry,) = list_stores(tmp_path)
    assert entry.finished and entry.key == source.name and entry.logits == ("? (float16)",)
    with pytest.raises(DataError, match="in use by another process"):
        remove(entry)
    del one, two
    remove(entry)
    assert list_stores(tmp_path) == []


def test_where_the_store_itself_lies_nothing_is_copied(source: Path) -> None:
    reader = Reader(source)
    assert copy_store(Contents.of(source, PARTS), source.parent.parent, reader) == 0
    assert reader.read == []


def test_views_that_are_computed_are_copied_without_them(source: Path, tmp_path: Path) -> None:
    contents = Contents.of(source, ("validation", "logits-teacher"))
    copy_store(contents, tmp_path, Reader(source))
    assert sorted(files(contents.path(tmp_path))) == [
        "logits-teacher/values.npy",
        "validation/records.npy",
    ]


def test_a_damaged_chunk_of_a_copy_and_a_shortened_file_alone_are_copied_again(source: Path, tmp_path: Path) -> None:
    contents = Contents.of(source, PARTS)
    copy_store(contents, tmp_path, Reader(source))
    copied = contents.path(tmp_path)
    # Row 5 of the labels is image 5 in view 0: chunk 0.
    flip(copied / "train" / "labels.npy", 128 + 5 * 32 * 48)
    said: list[str] = []
    assert verify_store(copied, said.append) == 1 and "train: damaged chunks: 0" in said[0]
    assert not is_whole(copied, PARTS)
    again = Reader(source)
    copy_store(contents, tmp_path, again)
    assert again.read == [("train", 0)]
    labels = copied / "validation" / "records.npy"
    labels.write_bytes(labels.read_bytes()[:-1])
    assert not is_whole(copied, PARTS)
    last = Reader(source)
    copy_store(contents, tmp_path, last)
    assert last.read == [("validation", 0)]
    assert files(copied) == files(source)


def test_a_damaged_source_is_not_copied(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "shared" / source.name
    shutil.copytree(source, store)
    flip(store / "train" / "images.npy", 128 + 39 * 3 * 32 * 48)
    contents = Contents.of(store, PARTS)
    with pytest.raises(DataError, match=r"train: chunk 2 does not match its checksum; `bpkd-search views .* --verify`"):
        copy_store(contents, tmp_path, Reader(store))
    assert not is_whole(contents.path(tmp_path), PARTS)


def test_a_broken_off_copy_goes_on_where_it_was(source: Path, tmp_path: Path) -> None:
    contents = Contents.of(source, PARTS)
    with pytest.raises(KeyboardInterrupt):
        copy_store(contents, tmp_path, Reader(source, stop_at=("logits-teacher", 0)))
    rest = Reader(source)
    copy_store(contents, tmp_path, rest)
    assert rest.read == [("logits-teacher", 0)]
    assert files(contents.path(tmp_path)) == files(source)


COPIER = """
import sys, time
from pathlib import Path
from bpkd_search.data.views.copies import Contents, copy_store, read_chunk

source, root = Path(sys.argv[1]), Path(sys.argv[2])

def rows(part, chunk):
    while (part, chunk) == ("train", 2):
        (root / "stands").touch()
        time.sleep(0.05)
    return read_chunk(source / part, chunk)

copy_store(Contents.of(source, ("train", "validation")), root, rows)
"""


def test_a_killed_copy_leaves_its_chunks_and_no_lock(source: Path, tmp_path: Path) -> None:
    contents = Contents.of(source, PARTS)
    process = subprocess.Popen([sys.executable, "-c", COPIER, str(source), str(tmp_path)])
    end = time.monotonic() + 60
    train = contents.path(tmp_path) / "train"
    while (table := chunks.Table.read(train)) is None or sorted(table.done) != [0, 1]:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rest = Reader(source)
    copy_store(contents, tmp_path, rest)
    assert sorted(rest.read) == [("logits-teacher", 0), ("train", 2), ("validation", 0)]
    assert files(contents.path(tmp_path)) == files(source)


def test_of_two_copies_at_once_the_second_fetches_nothing_twice(source: Path, tmp_path: Path) -> None:
    contents, begun, go = Contents.of(source, PARTS), threading.Event(), threading.Event()
    first, second = Reader(source), Reader(source)

    def slow(part: str, chunk: int) -> dict[str, np.ndarray]:
        begun.set()
        assert go.wait(60)
        return first(part, chunk)

    threads = [threading.Thread(target=copy_store, args=(contents, tmp_path, rows)) for rows in (slow, second)]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    time.sleep(0.1)
    assert second.read == []
    go.set()
    for thread in threads:
        thread.join(60)
    assert sorted(first.read + second.read) == ALL
    assert files(contents.path(tmp_path)) == files(source)


def test_a_disk_too_small_is_refused_before_anything_is_fetched(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    reader = Reader(source)
    needed = r"a copy of the views 755 KiB are needed and the disk has 1 KiB free; set data\.local_dir to a larger disk"
    with pytest.raises(ResourceError, match=needed):
        copy_store(Contents.of(source, PARTS), tmp_path, reader)
    assert reader.read == []


def test_the_folder_is_that_of_the_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCRATCH_OF_NODE", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/somebody")
    assert local_root("$SCRATCH_OF_NODE/views") == tmp_path / "views"
    assert local_root("~/views") == Path("/home/somebody/views")
    monkeypatch.delenv("SCRATCH_OF_NODE")
    for given in ("$SCRATCH_OF_NODE/views", "views"):
        with pytest.raises(ResourceError, match=r"data\.local_dir: .*views is .*; must be an absolute path there"):
            local_root(given)
