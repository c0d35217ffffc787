"""Checks of what the user has written, before anything is built or trained; and its content."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from bpkd_search.config.loss import terms_by_path
from bpkd_search.config.models import RunConfig, SearchConfig
from bpkd_search.config.points import losses_of
from bpkd_search.config.space import Choice
from bpkd_search.data.base import Dataset
from bpkd_search.errors import ConfigError
from bpkd_search.imports import import_object
from bpkd_search.losses.custom import function_faults
from bpkd_search.losses.methods import Custom
from bpkd_search.training.evaluation import custom_metric


def check_functions(run: RunConfig) -> None:
    """Import the own losses of a run, or of those its search may choose, and compare the names of their arguments.

    Raises `ConfigError` with all faults.
    """
    faults = []
    for point, loss in losses_of(run):
        for path, term in terms_by_path(loss).items():
            if isinstance(term, Custom):
                where = "space." if f"{path}.function" in point else ""
                found = function_faults(term.function, dict(term.arguments))
                faults += [f"{where}{path}.{fault}" for fault in found]
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))


def check_metric(run: RunConfig, data: Dataset) -> None:
    """Measure one perfect prediction with a run's own metric. Raises `ConfigError` if that gives no finite number."""
    metric = custom_metric(run.data.eval, len(data.class_names), "cpu")
    if metric is None:
        return
    _, label = data[0]
    try:
        metric.update(torch.where(label == data.ignore_index, 0, label)[None], label[None])
        value = metric.compute()
    except ConfigError as e:
        raise ConfigError([f"data.eval.metric.{fault}" for fault in e.faults]) from e
    if not math.isfinite(value):
        raise ConfigError(
            [f"data.eval.metric.factory: compute gives {value} for a perfect prediction, must be a finite number"]
        )


def own_code(config: SearchConfig) -> dict[str, tuple[str, Path]]:
    """Return hash and file of each module that a search names by an import path; of what that imports, nothing.

    Raises `ConfigError` if there is no such module or name.
    """
    found = {}
    for key, place in _places(config):
        import_object(place, key)
        module = place.partition(":")[0]
        file = Path(getattr(sys.modules[module], "__file__", None) or "")
        if file.is_file():
            found[module] = hashlib.sha256(file.read_bytes()).hexdigest()[:16], file
    return found


def _places(config: SearchConfig) -> Iterator[tuple[str, str]]:
    """Yield the import paths of a search, each with its key."""
    named = {
        "student": config.student,
        "teacher": config.teacher,
        "data.eval.metric": config.data.eval.metric,
        f"data.{config.data.kind}": config.data.options,
    }
    for key, block in named.items():
        if place := getattr(block, "factory", None):
            yield f"{key}.factory", place
    if isinstance(varied := config.space.get("student.factory"), Choice):
        yield from (("space.student.factory", str(place)) for place in varied.options)
    for _, loss in losses_of(config):
        for path, term in terms_by_path(loss).items():
            if isinstance(term, Custom):
                yield f"{path}.function", term.function
