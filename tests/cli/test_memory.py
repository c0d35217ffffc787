"""`bpkd-search memory`: lists, adds finished searches of this and older versions, and refuses what does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

SEARCHES = Path(__file__).parents[1] / "fixtures" / "searches"


def test_a_finished_search_of_an_older_version_is_added_and_listed(call, tmp_path: Path) -> None:
    old = shutil.copytree(SEARCHES / "confirmed", tmp_path / "confirmed")
    memory = tmp_path / "memory"
    code, printed, _ = call("memory", memory, "--add", old)
    (file,) = memory.iterdir()
    assert code == 0
    first, header, row = printed.splitlines()
    assert first == f"{old}: its table is {file}"
    assert header.split() == ["name", "date", "trials", "metric", "best", "space", "file"]
    _, board, _ = call("leaderboard", old, "--format", "csv")
    best = max(
        float(line.split(",")[board.splitlines()[0].split(",").index("miou")]) for line in board.splitlines()[1:]
    )
    words = row.split()
    assert (words[2], words[3], words[4], words[-1]) == ("10", "miou", f"{best:.4f}", file.stem)
    again, printed_again, _ = call("memory", memory, "--add", old)
    assert again == 0 and printed_again == printed


def test_what_is_wrong_is_one_sentence_and_code_2(call, tmp_path: Path) -> None:
    assert call("memory", tmp_path / "none") == (0, f"{tmp_path / 'none'}: holds no search yet\n", "")
    code, _, error = call("memory", tmp_path / "memory", "--add", tmp_path)
    assert (code, error) == (2, f"error: {tmp_path}: is not an experiment directory (it has no config.yaml)\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "a.parquet").write_bytes(b"torn")
    code, printed, error = call("memory", tmp_path / "memory")
    assert (code, printed) == (2, "") and error.startswith(f"error: {tmp_path / 'memory'}/a.parquet: cannot be read: ")
    assert len(error.splitlines()) == 1
