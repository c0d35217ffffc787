"""The command of `search.on_end`, which tells somebody that a search is over."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from bpkd_search.config import SearchConfig
from bpkd_search.errors import FullDiskError, UserError
from bpkd_search.experiment.memory import Memory
from bpkd_search.experiment.paths import short
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.search.memory import leave

MOST_SECONDS = 60.0
# Not `sys.stderr`, which a notebook replaces by an object that no other process can write to.
STDERR = 2
FINISHED, PAUSED, STOPPED, FAILED = "finished", "paused", "stopped", "failed"


def best_in_words(board: Leaderboard) -> str:
    """The best trial of a finished search, or the verdict of its race."""
    if board.raced:
        return str(board.race().attrs["verdict"])
    best = board.best(1).iloc[0]
    return f"best: trial {best['number']} ({best['method']}), {board.metric} {best[board.metric]:.4f}"


def open_memory(config: SearchConfig) -> Memory | None:
    """The memory of a search, made if it does not exist, that can be written to. Raises `ExperimentError`."""
    if config.search.memory is None:
        return None
    memory = Memory(config.search.memory)
    memory.make()
    return memory


def leave_in_memory(directory: Path, memory: Memory, say: Callable[[str], None]) -> None:
    """Leave the table of a finished search in its memory; where that fails, `say` gets a warning with what to do.

    Raises `FullDiskError`, after which the search is resumed.
    """
    try:
        say(f"memory: the table of this search is {leave(directory, memory)}")
    except FullDiskError:
        raise
    except UserError as e:
        say(f"warning: memory: {e}; leave it there with: bpkd-search memory {memory.name} --add {short(directory)}")


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
            command, shell=True, env=environment, stdin=subprocess.DEVNULL, stdout=STDERR, start_new_session=True
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
