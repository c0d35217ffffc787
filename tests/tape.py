"""Records a computation as a CUDA graph does, on a CPU: operations with their numbers, on fixed memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Any]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, tree_leaves(result)))
        return result

    def replay(self) -> None:
        with torch.no_grad():
            for function, args, kwargs, before in self.calls:
                for old, new in zip(before, tree_leaves(function(*args, **kwargs)), strict=True):
                    # A view, or what is changed in place, is where it was.
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class TapeRecorder:
    """A `graphs.Recorder`: no line of Python runs in a replay, and no number of it changes."""

    def __init__(self) -> None:
        self.recorded = 0

    def warm_up(self, run: Callable[[], object], times: int) -> None:
        for _ in range(times):
            run()

    def record(self, run: Callable[[], T]) -> tuple[Callable[[], None], T]:
        self.recorded += 1
        with _Tape() as tape:
            result = run()
        return tape.replay, result
