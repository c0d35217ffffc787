"""The clock of a run, the settings of PyTorch while it trains, and errors that end a process."""

from __future__ import annotations

import os
import time

import pytest
import torch

from bpkd_search.training.runtime import clock, is_poisoned, torch_settings

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_on_a_cpu_waiting_costs_nothing_and_computing_does() -> None:
    start = clock(CPU)
    time.sleep(0.3)  # as if other processes had the CPU
    assert clock(CPU) - start < 0.1
    start, wall = clock(CPU), time.perf_counter()
    weight = torch.rand(300, 300, requires_grad=True)
    while clock(CPU) - start < 0.2:
        (weight @ weight).sum().backward()  # backward is counted as well
    assert time.perf_counter() - wall >= 0.2


def test_on_a_gpu_waiting_counts() -> None:
    start = clock(GPU)
    time.sleep(0.05)
    assert clock(GPU) - start >= 0.05


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("device", [CPU, GPU])
def test_settings_of_the_process_last_as_long_as_the_run(
    device: torch.device, deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pytest.raises(KeyError), torch_settings(device, deterministic=deterministic):
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert torch.backends.cudnn.benchmark == (device == GPU and not deterministic)
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == deterministic
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    ("error", "poisoned"),
    [
        (RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be ..."), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("shapes differ"), False),
        (ValueError("CUDA error: a name in a text"), False),
    ],
)
def test_errors_that_cuda_does_not_recover_from(error: Exception, poisoned: bool) -> None:
    assert is_poisoned(error) == poisoned
    try:
        raise ValueError("training failed") from error
    except ValueError as e:
        assert is_poisoned(e) == poisoned


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="PyTorch before 2.8 has no such error")
def test_the_error_of_newer_versions_of_pytorch() -> None:
    assert is_poisoned(torch.AcceleratorError("CUDA error: unspecified launch failure"))
