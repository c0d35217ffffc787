"""Losses of the user: a function by its import path, and a check of what it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bpkd_search.errors import ConfigError, UserError
from bpkd_search.imports import argument_faults, first_line, import_object

# What the function gets by position.
HANDED = ("student", "teacher", "labels")


def custom_loss(place: str) -> Callable[..., Tensor]:
    """Return the function at `place` as a loss of this package: `function(student, teacher, labels, *, ...)`.

    The result is multiplied by `weight`. Raises `ConfigError`, when called, if the function raises or returns anything
    but a floating-point scalar that gradients flow through.
    """
    function = import_object(place, "function")

    def loss(
        student: Tensor, teacher: Tensor | None, labels: Tensor, *, ignore_index: int, weight: float, **arguments: Any
    ) -> Tensor:
        try:
            value = function(student, teacher, labels, ignore_index=ignore_index, **arguments)
        except (UserError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as e:
            raise ConfigError([f"loss.function: {place} raised {first_line(e)}"]) from e
        fault = None
        if not isinstance(value, Tensor):
            fault = f"a {type(value).__name__}"
        elif value.ndim or not value.is_floating_point():
            fault = f"a tensor of the shape {list(value.shape)} and the dtype {value.dtype}"
        elif torch.is_grad_enabled() and not value.requires_grad:
            fault = "a number without a gradient"
        if fault is not None:
            raise ConfigError(
                [f"loss.function: {place} returned {fault}, must be a scalar tensor computed from the student's map"]
            )
        weighted: Tensor = weight * value
        return weighted

    return loss


def function_faults(place: str, arguments: dict[str, Any]) -> list[str]:
    """Return what is wrong with a user's loss before it is called: its module, its name, and its arguments' names."""
    try:
        function = import_object(place, "function")
    except ConfigError as e:
        return e.faults
    if not callable(function):
        return [f"function: {place} is a {type(function).__name__}, must be a function"]
    return argument_faults(function, place, arguments, "arguments", handed=HANDED, also="ignore_index")
