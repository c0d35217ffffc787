"""The command of `search.on_end`, which tells somebody that a search is over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bpkd_search.results.leaderboard import Leaderboard

MOST_SECONDS = 60.0
FINISHED, PAUSED, STOPPED, FAILED = "finished", "paused", "stopped", "failed"


def best_in_words(board: Leaderboard) -> str:
    """The best trial of a finished search."""
    best = board.best(1).iloc[0]
    return f"best: trial {best['number']} ({best['method']}), {board.metric} {best[board.metric]:.4f}"


def run_on_end(
    command: str, directory: Path, outcome: str, message: str, say: Callable[[str], None], seconds: float = MOST_SECONDS
) -> None:
    """Run a shell command with the folder, the outcome and a sentence on it in its environment.

    What it prints goes to standard error. Whatever becomes of it, `say` gets a warning at most.
    """
    facts = {"DIRECTORY": str(directory), "OUTCOME": outcome, "MESSAGE": message}
    environment = {**os.environ, **{f"BPKD_SEARCH_{name}": value for name, value in facts.items()}}
    try:
        # In a group of its own, so that all of it can be ended.
        process = subprocess.Popen(
            command, shell=True, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
        )
    except (OSError, ValueError) as e:  # the latter for a command with a null character
        say(f"warning: search.on_end: cannot be started: {getattr(e, 'strerror', None) or e}")
        return
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        say(f"warning: search.on_end: has not ended within {seconds:g} s and was killed")
    else:
        if code:
            say(f"warning: search.on_end: ended with exit code {code}")
