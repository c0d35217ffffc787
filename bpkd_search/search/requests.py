"""What somebody may ask of a search that has begun, and what the engine and its log make of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictInt, TypeAdapter, ValidationError

from bpkd_search.blocks import Block
from bpkd_search.config.changes import Changes, changes_by, changes_space, with_changes
from bpkd_search.config.checks import given_faults
from bpkd_search.config.models import SearchConfig
from bpkd_search.config.points import Point
from bpkd_search.config.yaml_text import read_text
from bpkd_search.errors import ConfigError, ExperimentError
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.schema import COMPLETE, FAILED, RUNNING

if TYPE_CHECKING:
    from bpkd_search.search.engine import Engine

_Trials = Annotated[tuple[StrictInt, ...], Field(min_length=1)]


class Stop(Block):
    """End trials that have not ended."""

    kind: Literal["stop"] = "stop"
    trials: _Trials


class Retry(Block):
    """Run trials again that failed or were stopped; without numbers, all that failed."""

    kind: Literal["retry"] = "retry"
    trials: tuple[StrictInt, ...] = ()


class Enqueue(Block):
    """Try a point next."""

    kind: Literal["enqueue"] = "enqueue"
    point: Annotated[dict[str, Any], Field(min_length=1)]


class Pause(Block):
    """Start no more trials."""

    kind: Literal["pause"] = "pause"


class Change(Block):
    """Change the configuration by settings as of `--set`, and by so many trials more."""

    kind: Literal["change"] = "change"
    settings: tuple[str, ...] = ()
    more_trials: Annotated[StrictInt, Field(ge=0)] = 0


Request = Stop | Retry | Enqueue | Pause | Change
_READ: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Discriminator("kind")])


def parse(text: str | bytes) -> Request:
    """The request that a file holds. Raises `ValueError` for one that is none."""
    try:
        return _READ.validate_json(text)
    except ValidationError as e:
        first = e.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"is no request: {place + ': ' if place else ''}{first['msg']}") from e


def read_point(settings: Sequence[str]) -> Point:
    """The point that `PARAMETER=VALUE` settings give. Raises `ConfigError`."""
    point, faults = Point(), list[str]()
    for text in settings:
        path, equals, value = text.partition("=")
        if not equals or not path:
            faults.append(f"got {text!r}, must be PARAMETER=VALUE, as in loss.edge_weight=0.3")
        elif path in point:
            faults.append(f"{path}: is given twice; another point is another call")
        else:
            try:
                point[path] = read_text(value)
            except ValueError as e:
                faults.append(f"{path}: {e}")
    if faults:
        raise ConfigError(faults, "enqueue")
    return point


def states_of(directory: Path) -> dict[int, str]:
    """The state of every trial of an experiment by its log; RUNNING for one that has not ended."""
    states: dict[int, str] = {}
    for event in read_events(directory):
        if event["event"] in ("ask", "end"):
            states[int(event["number"])] = event.get("state", RUNNING)
        states.update(dict.fromkeys(event.get("retry", ()), RUNNING))
    return states


def states_of_engine(engine: Engine) -> dict[int, str]:
    """The same of the trials of an engine."""
    return {number: engine.states.get(number, RUNNING) for number in engine.trials}


def effect(
    request: Request,
    config: SearchConfig,
    states: Mapping[int, str],
    tried: int = 0,
    requested: Iterable[Point] = (),
) -> dict[str, Any]:
    """What a request does to a search in these states, as its log has it.

    `states` has every trial; `tried` points of `enqueue:` have been tried, and `requested` points of requests wait.
    Raises `ConfigError` for settings that cannot be, `ExperimentError` for trials of which there are none in such a
    state.
    """
    if isinstance(request, Enqueue):
        if faults := given_faults(config, request.point):
            raise ConfigError([fault.removeprefix(": ") for fault in faults], "enqueue")
        return {"enqueue": [request.point]}
    if isinstance(request, Pause):
        return {"pause": True}
    if isinstance(request, Change):
        changes: Changes = changes_by(config, request.settings, request.more_trials, tried)
        new = with_changes(config, changes) if changes_space(changes) else config
        if faults := [f"a point that waits: {fault}" for point in requested for fault in given_faults(new, point)]:
            raise ConfigError(faults, config.name)
        return {"changes": {path: list(values) for path, values in changes.items()}}
    numbers = list(dict.fromkeys(request.trials))
    if isinstance(request, Retry) and not numbers:
        numbers = [number for number, state in states.items() if state == FAILED]
        if not numbers:
            raise ExperimentError("retry: no trial has failed")
    faults = [fault for number in numbers if (fault := _fault(request, number, states))]
    if faults:
        raise ExperimentError("\n".join(faults))
    return {request.kind: numbers}


def change_of(event: Mapping[str, Any], config: SearchConfig) -> SearchConfig | None:
    """The configuration of which an effect makes another space; None if it makes none."""
    changes = event.get("changes", {})
    return with_changes(config, changes) if changes_space(changes) else None


def answer(event: Mapping[str, Any], engine: Engine) -> str:
    """A sentence on an effect that the engine is about to have."""
    if "stop" in event:
        return f"{_named(event['stop'])} will be stopped"
    if "retry" in event:
        return f"{_named(event['retry'])} will run again, from the beginning"
    if "enqueue" in event:
        shown = ", ".join(f"{path}={value}" for path, value in event["enqueue"][0].items())
        return f"{shown} will be tried next, beside the {engine.total} trials that are planned"
    if "pause" in event:
        return f"no trial is started any more; the search stops when the {engine.running} running ones have ended"
    changes = event["changes"].items()
    lines = [line for path, (old, new) in changes for line in _in_words(path, old, new)] or ["nothing changes"]
    if (config := change_of(event, engine.config)) is not None:
        lines.append(_old_trials(engine, config))
    return "; ".join(lines)


def _in_words(path: str, old: Any, new: Any) -> Iterator[str]:
    """A change, of a parameter of the space by what is different there."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        yield f"{path}: was {old}, is {new}"
        return
    for key, value in new.items():
        if old.get(key) != value:
            yield f"{path}.{key}: was {old.get(key)}, is {value}"


def _old_trials(engine: Engine, config: SearchConfig) -> str:
    """What becomes of the trials so far in another space."""
    known = [trial for trial in engine.trials.values() if engine.plan.point(trial) is not None]
    left = sum(engine.plan.point(trial, config) is not None for trial in known)
    return (
        f"of {len(known)} trials that the sampler knew it goes on with the {left} that lie in the new space; all keep"
        " their results"
    )


def _fault(request: Stop | Retry, number: int, states: Mapping[int, str]) -> str | None:
    """Why a trial cannot be stopped or run again."""
    here, state = f"{request.kind}: got trial {number}", states.get(number)
    if state is None:
        return f"{here}, {f'valid: 0 to {max(states)}' if states else 'but no trial has begun yet'}"
    if isinstance(request, Stop):
        return None if state == RUNNING else f"{here}, which has ended: it is {state}"
    if state == RUNNING:
        return f"{here}, which has not ended; only a trial that failed or was stopped can run again"
    if state == COMPLETE:
        return f"{here}, which is COMPLETE; `bpkd-search enqueue` tries its setting again with another training seed"
    return None


def _named(numbers: Sequence[int]) -> str:
    return f"trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
