"""What happened to one trial: its events, with the tracebacks of its failures between them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.events import Event
from bpkd_search.experiment.folder import read_config
from bpkd_search.experiment.paths import EVENTS, short, trial_log
from bpkd_search.experiment.requests import holder
from bpkd_search.experiment.schema import RUNNING
from bpkd_search.show.text_table import cell

LOOK_SECONDS = 0.5
# How an entry of a trial's own log begins.
_ENTRY = re.compile(r"^(\d{4}-\d\d-\d\dT[\d:.]+\+00:00) (?=trial \d+ on )", re.MULTILINE)


class _Tail:
    """Gives the whole lines that a file has got since the last time."""

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, 0

    def new(self) -> str:
        if not self._path.exists():
            return ""
        with self._path.open("rb") as file:
            file.seek(self._position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._position += len(whole)
        return whole.decode("utf-8", "replace")


def show_logs(directory: Path, number: int, follow: bool = False, seconds: float = LOOK_SECONDS) -> None:
    """Print what happened to a trial; with `follow`, go on until it has ended or nobody runs the search.

    Raises `ExperimentError` if there is no such trial, or if the log is damaged.
    """
    metric = read_config(directory).search.ranked_by
    events, entries = _Tail(directory / EVENTS), _Tail(trial_log(directory, number))
    known, state = set[int](), RUNNING
    while True:
        running = holder(directory)
        lines = list(_entries(entries.new()))
        for event in _read(events.new(), directory / EVENTS):
            known.add(int(event["number"]))
            if number in (event["number"], *event.get("stop", ()), *event.get("retry", ())):
                state = event.get("state", RUNNING)
                lines.append((float(event["time"]), _line(event, metric)))
        if number not in known:
            valid = f"valid: 0 to {max(known)}" if max(known, default=-1) >= 0 else "no trial has begun yet"
            raise ExperimentError(f"{directory}: has no trial {number}; {valid}")
        for when, line in sorted(lines, key=lambda entry: entry[0]):
            # A message may contain anything, including codes that move the cursor.
            text = "\n".join(cell("", part) for part in line.splitlines())
            print(f"{datetime.fromtimestamp(when, timezone.utc):%Y-%m-%d %H:%M:%S} {text}", flush=True)
        if not follow or state != RUNNING:
            return
        if not running:
            print(f"nobody runs this search now; the trial goes on with: bpkd-search resume {short(directory)}")
            return
        time.sleep(seconds)


def _read(lines: str, path: Path) -> list[Event]:
    try:
        return [json.loads(line) for line in lines.splitlines()]
    except ValueError as e:
        raise ExperimentError(f"{path}: is damaged: {e}") from e


def _entries(text: str) -> Iterator[tuple[float, str]]:
    """Time and text of each entry of a trial's own log."""
    _, *parts = _ENTRY.split(text)
    for when, entry in zip(parts[::2], parts[1::2], strict=True):
        yield datetime.fromisoformat(when).timestamp(), entry.strip()


def _line(event: Event, metric: str) -> str:
    """An event in words."""
    kind = event["event"]
    if kind == "ask":
        point = ", ".join(f"{path}={value}" for path, value in event["point"].items() if value is not None)
        return f"{event['method']} ({event['origin']}), seed {event['seed']}: {point}"
    if kind == "report":
        score, loss = event.get(metric), event.get("loss")
        parts = [f"{metric} {score:.4f}"] if score is not None else []
        parts += [f"loss {loss:.4f}"] if loss is not None else []
        parts += [f"{event['gpu_seconds']:.0f} s"] if "gpu_seconds" in event else []
        return f"epoch {event['epoch']}: {', '.join(parts)}"
    if kind == "lost":
        return f"lost: {event['message']}"
    if kind == "end":
        why = f" ({event['reason']})" if event.get("reason") else ""
        return f"{event['state']}{why}{': ' + event['message'] if event.get('message') else ''}"
    if kind == "latency":
        return f"latency, measured when no trial ran: {event['latency_ms']:.3g} ms"
    if kind == "judge":
        return f"feasible: {event['feasible']}"
    return f"request: {event['answer']}" if kind == "request" else str(kind)
