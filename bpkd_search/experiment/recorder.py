"""The recorder writes each event to the log at once, and from there to the Parquet tables."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bpkd_search.experiment.events import Event, EventLog, read_events
from bpkd_search.experiment.paths import REPORTS, TRIALS
from bpkd_search.experiment.schema import RUNNING, reports_schema, trials_schema
from bpkd_search.experiment.tables import AppendedTable, ChunkedTable
from bpkd_search.metrics.table import MEASURES

# What a trial's row takes from its newest report.
MEASURED = (*(measure.name for measure in MEASURES), "node", "device")
TRIALS_A_FILE, REPORTS_A_FILE = 500, 20_000


class Recorder:
    """Keeps `events.jsonl`, `trials/` and `reports/` of an experiment directory consistent.

    The tables are a function of the log: opening a directory replays its log, so that they contain every logged
    event even after the writer was killed. Events are mappings with a key `event`:

    - `ask`: number, origin, method, point, config (mapping), seed, trial_id;
    - `report`: number, epoch, the measures, costs, node, parameters, loss terms;
    - `lost`: number, cause, message, node: the trial lost its process or node and is asked again;
    - `end`: number, state, reason, message, feasible;
    - `latency`: number, latency_ms, if it was measured anew when no trial ran;
    - `judge`: number, feasible, if it has changed since the end;
    - `request`, number -1: id, and either `refused` (why), or request (mapping), `answer` and what it does: `changes`
      of the configuration, `enqueue` (points), `pause`, and the trials to `stop` and to `retry`;
    - `session`, `sources` (trials of other searches) and `warm_start` (what of them the study learns), of the whole
      search, with number -1: only in the log.

    `time` (seconds since 1970) is added. Rewriting tables takes at most about 5 % of the time, and memory
    holds the rows of all trials but only the newest reports.
    """

    def __init__(
        self,
        directory: Path,
        experiment: str,
        parameters: Mapping[str, str],
        version: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.experiment, self.version, self.parameters, self.clock = experiment, version, parameters, clock
        self.trials: dict[int, dict[str, Any]] = {}
        self._trial_table = ChunkedTable(directory / TRIALS, trials_schema(parameters), TRIALS_A_FILE)
        self._report_table = AppendedTable(directory / REPORTS, reports_schema(), REPORTS_A_FILE)
        self._written, self._write_seconds = 0.0, 0.0
        for event in read_events(directory):
            self._apply(event)
        self._log = EventLog(directory)
        self.flush()

    def record(self, event: str, number: int, **values: Any) -> None:
        """Log an event and update the tables, at once unless they were rewritten a moment ago."""
        entry: Event = {"event": event, "number": number, "time": self.clock(), **values}
        self._log.append(entry)
        self._apply(entry)
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Write waiting rows unless the last write was a moment ago."""
        waited = time.monotonic() - self._written
        if (self._trial_table.dirty or self._report_table.dirty) and waited > 20 * self._write_seconds:
            self.flush()

    def flush(self) -> None:
        """Write waiting rows now."""
        start = time.monotonic()
        self._trial_table.flush()
        self._report_table.flush()
        self._written = time.monotonic()
        self._write_seconds = self._written - start

    def close(self) -> None:
        """Write waiting rows and close the log."""
        try:
            self.flush()
        finally:
            self._log.close()

    def _apply(self, event: Event) -> None:
        kind, number = event["event"], int(event["number"])
        for again in event.get("retry", ()):
            row = self.trials[again]
            row |= {**dict.fromkeys((*MEASURED, "reason", "feasible", "ended")), "state": RUNNING, "epochs": 0}
            row["retries"] += 1
            self._trial_table.put(again, row)
        if number < 0:
            return
        when = datetime.fromtimestamp(event["time"], timezone.utc)
        if kind == "ask":
            self.trials[number] = {
                "experiment": self.experiment,
                "number": number,
                "trial_id": event["trial_id"],
                "state": RUNNING,
                "method": event["method"],
                "origin": event["origin"],
                "replicate_of": event.get("replicate_of"),
                "epochs": 0,
                "retries": 0,
                "seed": event["seed"],
                "started": when,
                "config": json.dumps(event["config"]),
                "version": self.version,
                **{path: _typed(event["point"].get(path), kind) for path, kind in self.parameters.items()},
            }
        row = self.trials[number]
        if kind == "report":
            row.update({name: event.get(name) for name in MEASURED}, epochs=event["epoch"])
            terms = {k.removeprefix("loss_"): v for k, v in event.items() if k.startswith("loss_")}
            report = {**event, "experiment": self.experiment, "time": when, "loss_terms": json.dumps(terms)}
            self._report_table.append(report)
        elif kind == "lost":
            row.update(message=event["message"], retries=row["retries"] + 1)
        elif kind == "end":
            row.update({k: event.get(k) for k in ("state", "reason", "feasible")}, ended=when)
            # A trial that was retried and then ended well keeps the message of its loss.
            row["message"] = event.get("message") or row.get("message")
        elif kind == "latency":
            row["latency_ms"] = event["latency_ms"]
        elif kind == "judge":
            row["feasible"] = event["feasible"]
        self._trial_table.put(number, row)


def _typed(value: Any, kind: str) -> Any:
    """Convert a parameter's value to its column's type; None if the trial has none, or a schedule or list instead."""
    if value is None or isinstance(value, dict | list):
        return None
    return {"float": float, "int": int, "bool": bool, "string": str}[kind](value)
