"""A training step as a CUDA graph: recorded once for a run, then started by a single launch.

A recorded step reads and writes the memory of its recording, and Python does not run again: numbers of the host are
as they were then. So the step's inputs are copied to where the recording reads them, learning rates are tensors, and a
step that waits for the device or copies numbers from the host is not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bpkd_search.training.runtime import is_poisoned
from bpkd_search.training.update import Maps

# Steps before the recording, in which libraries choose kernels and set up what they keep.
WARM_UP_STEPS = 3

T = TypeVar("T")
# Images, labels, and a teacher's maps of each part of the batch.
Inputs = tuple[Tensor, Tensor, Sequence[Maps]]
Update = Callable[[Tensor, Tensor, Sequence[Maps]], dict[str, Tensor]]


class NotRecordable(Exception):
    """A step cannot be a CUDA graph; the message says why."""


class Recorder(Protocol):
    """Records the work that a function starts on a device."""

    def warm_up(self, run: Callable[[], object], times: int) -> None:
        """Run it so often, and find out whether it can be recorded. Raises `NotRecordable`."""

    def record(self, run: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Return what starts the same work again, and the function's result, which that overwrites."""


class RecordedStep:
    """One update of the weights, recorded; a call copies the inputs, starts it, and returns its loss terms.

    `update` is the step on `Inputs`, and leaves nothing on the host that it needs the next time. Weights, statistics
    and whatever else is in `state` are as before after this is made. Raises `NotRecordable`.
    """

    def __init__(
        self, recorder: Recorder, update: Update, inputs: Inputs, state: Callable[[], Sequence[Tensor]]
    ) -> None:
        images, labels, teacher = inputs
        self._inputs: Inputs = (images.clone(), labels.clone(), [(_clone(a), _clone(b)) for a, b in teacher])
        with undone(state), _as_reasons():
            recorder.warm_up(lambda: update(*self._inputs), WARM_UP_STEPS)
            self._start, self._terms = recorder.record(lambda: update(*self._inputs))

    def takes(self, inputs: Inputs) -> bool:
        """Return whether inputs have the shapes that were recorded."""
        return [x.shape for x in _flat(inputs)] == [x.shape for x in _flat(self._inputs)]

    def __call__(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the loss terms, scalars that the next call overwrites."""
        for kept, new in zip(_flat(self._inputs), _flat(inputs), strict=True):
            kept.copy_(new, non_blocking=True)
        self._start()
        return self._terms


@contextmanager
def undone(state: Callable[[], Sequence[Tensor]]) -> Iterator[None]:
    """Set the tensors of `state` back in place at the end; those that are new by then become zero, as AdamW begins."""
    before = [(tensor, tensor.detach().clone()) for tensor in state()]
    try:
        yield
    finally:
        known = {id(tensor) for tensor, _ in before}
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
            for tensor in state():
                if id(tensor) not in known:
                    tensor.zero_()


class CudaRecorder:
    """Records as a CUDA graph."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def warm_up(self, run: Callable[[], object], times: int) -> None:
        """Run beside the main stream, as a recording does; the last time, whatever cannot be recorded is an error.

        Found out here, because a recording that is broken off can leave PyTorch's random numbers unusable.
        """
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        try:
            with torch.cuda.stream(stream):
                for _ in range(times - 1):
                    run()
                torch.cuda.set_sync_debug_mode("error")
                with NoHostValues():  # type: ignore[no-untyped-call]
                    run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
            torch.cuda.current_stream(self.device).wait_stream(stream)

    def record(self, run: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Return the graph's replay, and the result."""
        graph = torch.cuda.CUDAGraph()
        # Threads that pin memory for the next batches are not part of it.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = run()
        return graph.replay, result


class NoHostValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises `NotRecordable` where numbers of the host are copied to a GPU: a recording would copy from there again."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; its arguments are those of PyTorch's protocol."""
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[1] if function.overloadpacket is torch.ops.aten.copy_ else args[0]
            if source.device.type == "cpu" and result.device.type != "cpu":
                raise NotRecordable("it copies numbers from the host at every step")
        return result


def recorder_for(device: torch.device) -> Recorder | None:
    """Return what records on a device, None on a CPU, where nothing is launched."""
    return CudaRecorder(device) if device.type == "cuda" else None


@contextmanager
def _as_reasons() -> Iterator[None]:
    """What PyTorch says of a step that cannot be recorded is a reason; too little memory is none."""
    try:
        yield
    except RuntimeError as e:
        if isinstance(e, torch.OutOfMemoryError) or is_poisoned(e):
            raise
        raise NotRecordable((str(e).strip() or type(e).__name__).splitlines()[0]) from e


def _clone(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def _flat(inputs: Inputs) -> list[Tensor]:
    images, labels, teacher = inputs
    return [images, labels, *(part for pair in teacher for part in pair if part is not None)]
