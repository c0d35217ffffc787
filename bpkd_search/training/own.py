"""Checks of what the user has written, before anything is built or trained: losses, metric, data set."""

from __future__ import annotations

import math

import torch

from bpkd_search.config.loss import terms_by_path
from bpkd_search.config.models import RunConfig
from bpkd_search.data.base import Dataset
from bpkd_search.errors import ConfigError
from bpkd_search.losses.custom import function_faults
from bpkd_search.losses.methods import Custom
from bpkd_search.training.evaluation import custom_metric


def check_functions(run: RunConfig) -> None:
    """Import a run's own losses and metric, and compare the names of their arguments with the functions'.

    Raises `ConfigError` with all faults.
    """
    faults = [
        f"{path}.{fault}"
        for path, term in terms_by_path(run.loss).items()
        if isinstance(term, Custom)
        for fault in function_faults(term.function, dict(term.arguments))
    ]
    if faults:
        raise ConfigError(faults)


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
