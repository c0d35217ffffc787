"""Counts the device operations of a computation on a GPU that is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

# Change sizes and strides or allocate, and start nothing on the device.
FREE = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "device", "empty", "empty_like", "empty_strided",
    "expand", "lift_fresh", "narrow", "new_empty", "new_empty_strided", "permute", "select", "slice", "split",
    "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "view_as",
}  # fmt: skip
# Operations of several: a padded map is filled, then copied into; three kernels make the edge masks.
SEVERAL = {"constant_pad_nd": 2, "edge_shares": 3}


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.launches: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name not in FREE:
            assert torch.Tag.nondeterministic_seeded not in function.tags and name != "_local_scalar_dense", name
            self.launches += [name] * SEVERAL.get(name, 1)
        return result


def launches(run: Callable[[], object]) -> list[str]:
    """The operations that a GPU would start; `run` makes its tensors with device="cuda". Synchronising is an error."""
    with FakeTensorMode(allow_non_fake_inputs=True), _Counter() as counter:
        run()
    return counter.launches
