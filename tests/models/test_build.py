"""Which device and which precision a run gets; without a GPU, from what PyTorch would say of one."""

from __future__ import annotations

import pytest
import torch

from bpkd_search.errors import ResourceError
from bpkd_search.models.build import autocast, half_precision, pick_device, teacher_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("given", [None, "", "-1", "NoDevFiles"])
def test_without_a_gpu_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch, no_gpu: None, given: str | None) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert pick_device("auto") == CPU


def test_a_gpu_that_pytorch_cannot_use_is_no_reason_to_train_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, no_gpu: None
) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nUpdate it")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(ResourceError) as caught:
        pick_device("auto")
    said = str(caught.value)
    assert "train.device: got auto" in said and "GPU(s) 3 (CUDA_VISIBLE_DEVICES)" in said
    assert f"PyTorch {torch.__version__}" in said and "is too old (found version 11040).)" not in said
    assert "found version 11040" in said and "Update" not in said
    assert f"CUDA of PyTorch: {torch.version.cuda or 'none'}, NVIDIA driver: " in said
    assert said.endswith("or set train.device to cpu")
    assert pick_device("cpu") == CPU


def test_a_gpu_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")


@pytest.mark.filterwarnings("ignore:.*CUDA is not available", "ignore:User provided device_type of 'cuda'")
@pytest.mark.parametrize(("real", "half"), [(True, torch.bfloat16), (False, torch.float16)])
def test_emulated_bfloat16_does_not_count(monkeypatch: pytest.MonkeyPatch, real: bool, half: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or real)
    assert half_precision(GPU) == half
    assert autocast(GPU).fast_dtype == half
    assert autocast(GPU, dtype=torch.float16).fast_dtype == torch.float16
    assert half_precision(CPU) is None


def test_a_teacher_is_never_in_bfloat16() -> None:
    assert [teacher_precision(device, amp) for device in (CPU, GPU) for amp in (True, False)] == [
        "cpu float32",
        "cpu float32",
        "cuda float16",
        "cuda float32",
    ]


@pytest.mark.parametrize("enabled", [True, False])
def test_a_cpu_computes_in_float32(enabled: bool) -> None:
    weight = torch.ones(2, 2)
    with autocast(CPU, enabled, dtype=torch.float16):
        assert (weight @ weight).dtype == torch.float32
