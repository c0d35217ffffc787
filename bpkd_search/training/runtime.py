"""What a process sets PyTorch to while it trains, the clock of a run, and errors after which it cannot go on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bpkd_search.machine import cpu_model

# What PyTorch says of an error that a kernel has left behind, whichever library meets it.
_POISON = ("cuda error", "cudnn_status_execution_failed")


def clock(device: torch.device) -> float:
    """Return the reading of the clock that counts seconds inside training on a device.

    On a GPU it is wall time; who reads it waits for queued work first. On a CPU it is the CPU time of the calling
    thread, which is the wall time of an idle machine: the same run counts the same beside other busy processes, and
    the waiting for data and for other threads is left out.
    """
    return time.perf_counter() if device.type == "cuda" else time.thread_time()


def device_kind(device: torch.device, named: str = "") -> str:
    """Return PyTorch's name of a GPU, else what a cluster calls it (`named`), else the model of the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else named or cpu_model()


def synchronize(device: torch.device) -> None:
    """Wait for the work that is queued on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def torch_settings(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """Set what is of the whole process for one run, and set it back at the end.

    Deterministic algorithms, or on a GPU cuDNN's choice of the fastest ones by trial: shapes do not change.
    """
    if deterministic:
        # Read by cuBLAS at its first use; without it, PyTorch refuses matrix products.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        if deterministic:
            torch.use_deterministic_algorithms(False)


def is_poisoned(error: BaseException) -> bool:
    """Return whether an error is one after which every call of CUDA in this process fails, such as a device assert.

    Too little memory is none of them. Other errors may have such a one as their cause.
    """
    text = str(error).lower()
    memory = isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "alloc_failed" in text
    # torch.AcceleratorError is a RuntimeError, and PyTorch before 2.8 has only that.
    if isinstance(error, RuntimeError) and not memory and any(sign in text for sign in _POISON):
        return True
    return error.__cause__ is not None and is_poisoned(error.__cause__)
