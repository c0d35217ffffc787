"""A metric of the user, such as one of torchmetrics: an object with `update(predictions, labels)` and `compute()`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bpkd_search.errors import ConfigError, UserError
from bpkd_search.imports import argument_faults, first_line, import_object


class CustomMetric:
    """The metric that the class or function at `place` makes of (num_classes, ignore_index=..., **arguments).

    Raises `ConfigError`, with keys of the metric's block, if there is none, an argument is unknown or missing, it
    raises, or it lacks a method; `update` and `compute` raise it if those of the metric do.
    """

    def __init__(
        self,
        place: str,
        arguments: Mapping[str, Any],
        num_classes: int,
        *,
        ignore_index: int = 255,
        device: torch.device | str = "cpu",
    ) -> None:
        self._place = place
        factory = import_object(place, "factory")
        if not callable(factory):
            raise ConfigError([f"factory: {place} is a {type(factory).__name__}, must be a class or function"])
        if faults := argument_faults(
            factory, place, arguments, "arguments", handed=("num_classes",), also="ignore_index"
        ):
            raise ConfigError(faults)
        self._metric = self._call(factory, num_classes, ignore_index=ignore_index, **arguments)
        if lacking := [name for name in ("update", "compute") if not callable(getattr(self._metric, name, None))]:
            kind = type(self._metric).__name__
            raise ConfigError([f"factory: {place} makes a {kind} without a method {' and '.join(lacking)}"])
        if isinstance(self._metric, nn.Module):
            self._metric.to(device)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Add a batch: class ids int64 [B, H, W] each, on one device; ignored pixels are those labelled 255."""
        self._call(self._metric.update, predictions.long(), labels.long())

    def compute(self) -> float:
        """Return the score of all batches so far."""
        value = self._call(self._metric.compute)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, int | float):
            got = f"a tensor of the shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError([f"factory: compute of {self._place} returned {got}, must be one number"])
        return float(value)

    def _call(self, function: Any, *given: Any, **arguments: Any) -> Any:
        try:
            return function(*given, **arguments)
        except (UserError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as e:
            raise ConfigError([f"factory: {self._place} raised {first_line(e)}"]) from e
