"""How fast the kinds of devices of an experiment are, so that seconds on one kind compare with those on another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.paths import CALIBRATION
from bpkd_search.files import lock, write_text


def step_seconds(directory: Path) -> dict[str, float]:
    """Return the seconds that the same step takes on each kind of device; the first kind is the reference.

    Empty before any was timed. Raises `ExperimentError` if the file is damaged.
    """
    path = directory / CALIBRATION
    return read_steps(path.read_text(encoding="utf-8") if path.is_file() else None, str(path))


def read_steps(text: str | None, where: str) -> dict[str, float]:
    """Return what the text of the file says, as `step_seconds`; `where` names it in errors."""
    try:
        return {str(kind): float(seconds) for kind, seconds in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError) as e:
        raise ExperimentError(f"{where}: is damaged: {e}; remove it to have the steps timed again") from e


def scale(steps: dict[str, float], first: dict[str, float]) -> float | None:
    """Return the factor from an experiment's calibrated seconds to those of a `first` one, by their `step_seconds`.

    None where no step was timed on both references. An experiment without any has one kind of device, taken to be the
    same.
    """
    if not steps or not first:
        return 1.0
    own, other = next(iter(steps)), next(iter(first))
    both = steps if other in steps else first
    return both[other] / both[own] if own in both and other in both else None


def calibrate(directory: Path, kind: str, measure: Callable[[], float]) -> float:
    """Return how many seconds of the reference one second of a kind of device is worth: 0.5 where it is half as fast.

    `measure` times the step; it is called once for each kind, while all other processes of this kind wait. Raises
    `ExperimentError` if the file is damaged or cannot be written.
    """
    known = step_seconds(directory)
    if kind not in known:
        path = directory / CALIBRATION
        with lock(path.with_suffix(".lock"), error=ExperimentError):
            known = step_seconds(directory)
            if kind not in known:
                known[kind] = measure()
                write_text(path, json.dumps(known, indent=1))
    return next(iter(known.values())) / known[kind]
