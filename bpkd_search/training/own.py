"""Checks of what the user has written, before anything is built or trained: losses, metric, data set."""

from __future__ import annotations

import math

import torch

from bpkd_search.config.loss import terms_by_path
from bpkd_search.config.models import RunConfig
from bpkd_search.config.points import losses_of
from bpkd_search.data.base import Dataset
from bpkd_search.errors import ConfigError
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
