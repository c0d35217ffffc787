"""The command that a search runs at its end."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from bpkd_search.cluster.ending import run_on_end


def test_the_command_runs_where_standard_error_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's `sys.stderr` is an object that no other process can write to."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    said: list[str] = []
    command = f'printf "%s|%s" "$BPKD_SEARCH_OUTCOME" "$BPKD_SEARCH_MESSAGE" > "{tmp_path}/told"; echo printed'
    run_on_end(command, tmp_path, "finished", "Winner, P >= 0.95: `it` $HOME", said.append)
    assert (tmp_path / "told").read_text() == "finished|Winner, P >= 0.95: `it` $HOME"
    run_on_end("exit 3", tmp_path, "failed", "", said.append)
    assert said == ["warning: search.on_end: ended with exit code 3"]
