"""Hashes of files: against hashlib, and the cache of those that have not changed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from bpkd_search.data.hashes import content_hashes

LONG_AGO = 10**18


def settled(path: Path, content: bytes, time: int = LONG_AGO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(time, time))
    return path


def expected(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """More files than a thread takes at once."""
    return [settled(tmp_path / "data" / str(i % 3) / f"{i}.png", b"%d" % i * 50) for i in range(200)]


def test_hashes_are_those_of_hashlib_in_order(files: list[Path], tmp_path: Path) -> None:
    assert content_hashes([]) == content_hashes([], tmp_path) == []
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        assert content_hashes(files, cache) == expected(files)
        assert content_hashes(files[::-1], cache) == expected(files[::-1])


def test_a_known_file_is_not_read_again_until_its_size_or_time_changes(files: list[Path], tmp_path: Path) -> None:
    cache, (first, *_) = tmp_path / "cache", files
    before = content_hashes(files, cache)
    settled(first, b"x" * first.stat().st_size)
    assert content_hashes(files, cache) == before
    settled(first, first.read_bytes(), LONG_AGO + 1)
    assert content_hashes(files, cache) == expected(files) != before
    settled(first, b"longer" + first.read_bytes(), LONG_AGO + 1)
    assert content_hashes(files, cache) == expected(files)


def test_a_file_that_changed_a_moment_ago_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "new.png"
    file.write_bytes(b"one")
    time = file.stat().st_mtime_ns
    assert content_hashes([file], tmp_path / "cache") == expected([file])
    settled(file, b"two", time)
    assert content_hashes([file], tmp_path / "cache") == expected([file])


def test_splits_of_one_folder_do_not_drop_each_other(files: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    train, val = files[:100], files[100:]
    before = content_hashes(train, cache), content_hashes(val, cache)
    for path in files:
        settled(path, b"x" * path.stat().st_size)
    assert (content_hashes(train, cache), content_hashes(val, cache)) == before


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff", None, "pairs", "words", "nothing"])
def test_a_damaged_cache_is_ignored_and_replaced(files: list[Path], tmp_path: Path, damage: bytes | str | None) -> None:
    cache = tmp_path / "cache"
    content_hashes(files, cache)
    (kept,) = (cache / "hashes").iterdir()
    whole = json.loads(kept.read_text())
    if damage is None:
        kept.unlink()
    elif isinstance(damage, bytes):
        kept.write_bytes(damage)
    else:
        broken = {
            "pairs": lambda entry: entry[:2],
            "words": lambda entry: "abc",
            "nothing": lambda entry: [*entry[:2], None],
        }
        kept.write_text(json.dumps({name: broken[damage](entry) for name, entry in whole.items()}))
    assert content_hashes(files, cache) == expected(files)
    assert json.loads(kept.read_text()) == whole


def test_without_a_place_for_the_cache_the_files_are_hashed(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the directory would be")
    assert content_hashes(files, tmp_path / "cache") == expected(files)


def test_a_missing_file_is_an_error(files: list[Path], tmp_path: Path) -> None:
    content_hashes(files, tmp_path / "cache")
    files[7].unlink()
    with pytest.raises(FileNotFoundError, match=str(files[7])):
        content_hashes(files, tmp_path / "cache")
