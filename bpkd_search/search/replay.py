"""Replaying an experiment's log: is every suggestion and decision the one that its record leads to?"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.storages import InMemoryStorage

from bpkd_search.config.points import to_tree
from bpkd_search.experiment.events import Event, read_events
from bpkd_search.experiment.folder import read_config
from bpkd_search.experiment.origin import at_its_place
from bpkd_search.experiment.requests import as_begun
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.engine import Engine


def replay(directory: Path, fixed: Sequence[Trial] | None = None) -> tuple[int, list[str]]:
    """Regenerate every suggestion and state of an experiment from its event log.

    A fresh engine with an empty study is told the recorded reports, ends and requests in their order. Gives the number
    of trials regenerated, and a line for every one that comes out differently. `fixed` are the trials that the search
    ran first, by default the baselines. Raises `ExperimentError`, `ConfigError`.
    """
    config = as_begun(directory, read_config(directory))
    # What was learned from other experiments is in the log; they may have been removed. How long the driver had run
    # when it asked is not.
    budget = config.search.budget.model_copy(update={"hours": None})
    search = config.search.model_copy(update={"warm_start": (), "memory": None, "budget": budget})
    quiet = config.model_copy(update={"search": search})
    differences: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        now = 0.0
        engine = Engine(quiet, Path(folder), "replay", fixed=fixed, storage=InMemoryStorage(), clock=lambda: now)
        count = 0
        for event in read_events(directory):
            now = event["time"]
            number = int(event["number"])
            if event["event"] == "session":
                engine.paused = False
            elif event["event"] == "request":
                _request(engine, event)
            elif event["event"] == "sources":
                engine.offer(event["sources"], event.get("first", ()), event.get("weighed", ()))
            elif event["event"] == "warm_start":
                # Older searches took other searches' trials as they were.
                if "agreement" not in event:
                    engine.learn(event["trials"])
                elif (learned := engine.judge_sources()) != event["trials"]:
                    differences.append(
                        f"warm start: {len(event['trials'])} trials were used, {len(learned or ())} are now,"
                        " or with other values"
                    )
            elif event["event"] == "ask":
                count += 1
                trial = engine.ask()
                if trial is None or trial.number != number:
                    differences.append(f"trial {number}: was asked, and is not asked now")
                    break
                differences += _differences(number, _as_read_now(event["config"], engine), to_tree(trial.run))
            elif event["event"] == "report":
                engine.report(number, {k: v for k, v in event.items() if k not in ("event", "number", "time")})
            elif event["event"] == "end":
                failed = event["state"] == "FAILED"
                engine.end(number, (event["reason"], event["message"]) if failed else None)
                now_state = engine.states.get(number, "RUNNING")
                if now_state != event["state"]:
                    differences.append(f"trial {number}: was {event['state']}, is {now_state} now")
            elif event["event"] == "latency":
                engine.measured_alone(number, event["latency_ms"])
            elif event["event"] == "judge" and engine.trials[number].feasible is not event["feasible"]:
                differences.append(f"trial {number}: feasible was {event['feasible']}, is not now")
        engine.recorder.close()
    return count, differences


def _request(engine: Engine, event: Event) -> None:
    """Do what a request did; trials that it runs again are asked at once, as the log does not say when they were."""
    done = {key: value for key, value in event.items() if key not in ("event", "number", "time")}
    if "changes" in done:
        done["changes"] = {path: values for path, values in done["changes"].items() if path != "search.budget.hours"}
    engine.request(done)
    paused, engine.paused = engine.paused, False
    for _ in done.get("retry", ()):
        engine.ask()
    engine.paused = paused


def _as_read_now(config: dict[str, Any], engine: Engine) -> dict[str, Any]:
    """A recorded configuration with the defaults of keys that came later, where its files are now."""
    try:
        return to_tree(at_its_place(config, engine.plan.base, engine.config.space))
    except ValueError:
        return config


def _differences(number: int, then: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        return [
            line
            for key in sorted({*then, *now})
            for line in _differences(number, then.get(key), now.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if then == now else [f"trial {number}: {path} was {then!r}, is {now!r} now"]
