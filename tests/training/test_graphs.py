"""Steps that are recorded and replayed: shown on a tape that keeps operations and memory as a CUDA graph does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bpkd_search.config import RunConfig, SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.points import run_at
from bpkd_search.data.views import ViewStore
from bpkd_search.losses import bpkd_loss
from bpkd_search.models.build import build_model
from bpkd_search.training import distill, graphs
from bpkd_search.training.distill import Distillation
from bpkd_search.training.forward import forward
from bpkd_search.training.graphs import NoHostValues, NotRecordable
from bpkd_search.training.prepare import prepare
from tests.tape import TapeRecorder

GPU = torch.device("cuda", 0)


@pytest.fixture
def store(tiny: dict[str, Any]) -> ViewStore:
    return prepare(parse(SearchConfig, tiny, "test").run(), lambda line: None).open()


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> TapeRecorder:
    """In the place of what records on a GPU; the forward pass is not compiled."""
    recorder = TapeRecorder()
    monkeypatch.setattr(graphs, "recorder_for", lambda device: recorder)
    monkeypatch.setattr(distill, "compiled_forward", forward)
    return recorder


def run_of(tiny: dict[str, Any], loss: dict[str, Any] | None = None, **train: Any) -> RunConfig:
    changed = parse(SearchConfig, tiny, "test").run()
    changed = run_at(changed, {f"train.{name}": value for name, value in train.items()})
    return RunConfig.model_validate(changed.model_dump() | ({"loss": loss} if loss else {}))


def start(run: RunConfig, store: ViewStore, teacher: Any = None) -> Distillation:
    return Distillation(run.student, run.loss, run.train, store, teacher=teacher, device=torch.device("cpu"))


def weights(training: Distillation) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in training.student.state_dict().items()}


@pytest.mark.parametrize("method", ["ce", "kd", "cwd", "bpkd", "dist"])
@pytest.mark.parametrize(
    "train",
    [
        {"optimizer": "sgd", "grad_clip": 0.5, "warmup": 1.0, "head_lr": 10.0},
        {"optimizer": "adamw", "lr": 1e-3, "accumulate": 2, "batch_size": 2},
    ],
)
def test_a_replayed_run_is_the_run(
    tiny: dict[str, Any], store: ViewStore, tape: TapeRecorder, method: str, train: dict[str, Any]
) -> None:
    # The learning rate rises and falls at every step, and statistics of BatchNorm and momentum go on.
    run = run_of(tiny, {"method": method}, epochs=3, compile="graphs", **train)
    recorded, plain = start(run, store), start(run_at(run, {"train.compile": False}), store)
    # The same without a recording, and with rates in single precision, as a recorded step reads them.
    stepped = start(run, store)
    stepped._recorder = None
    for _ in range(3):
        expected, found, close = stepped.train_epoch(), recorded.train_epoch(), plain.train_epoch()
        losses = [{k: v for k, v in report.items() if k.startswith("loss")} for report in (found, expected, close)]
        # AdamW makes much of little: its first steps are as long for small gradients as for large ones.
        assert losses[0] == losses[1] and losses[0] == pytest.approx(losses[2], rel=2e-2)
    assert tape.recorded == 1
    assert all(torch.equal(recorded.student.state_dict()[n], value) for n, value in weights(stepped).items())


@pytest.mark.parametrize("method", ["bpkd", "feature_mse"])
def test_an_online_teacher_is_asked_outside(
    tiny: dict[str, Any], store: ViewStore, tape: TapeRecorder, method: str
) -> None:
    run = run_of({**tiny, "teacher": {**tiny["teacher"], "mode": "online"}}, {"method": method}, epochs=1, lr=1e-3)
    teacher, found = build_model(run.teacher, store.num_classes, 0).eval().requires_grad_(False), []
    for compiled in (False, "graphs"):
        training = start(run_at(run, {"train.compile": compiled}), store, teacher)
        found.append((training.train_epoch()["loss"], weights(training)))
    assert tape.recorded == 1 and found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], value, rtol=1e-3, atol=1e-5)


def test_recording_leaves_no_trace(tiny: dict[str, Any], store: ViewStore, tape: TapeRecorder) -> None:
    training = start(run_of(tiny, {"method": "bpkd"}, optimizer="adamw", compile="graphs"), store)
    before, random = weights(training), torch.get_rng_state()
    with training.train_mode():
        training.warm_up(0)
    assert tape.recorded == 1 and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], value) for name, value in weights(training).items())
    kept = [value for state in training.optimizer.state.values() for value in state.values()]
    assert kept and all(not value.any() for value in kept)


def test_a_scaled_gradient_that_overflows_is_skipped_in_a_replay(
    tiny: dict[str, Any], store: ViewStore, tape: TapeRecorder
) -> None:
    training = start(run_of(tiny, {"method": "bpkd"}, compile="graphs"), store)
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-60)
    batches = list(training.batches(0, 2))
    with training.train_mode():
        training.warm_up(0)
        before = weights(training)
        training.step(*batches[0], progress=0.0)
        # Skipped, and the scale is smaller the next time.
        assert all(torch.equal(before[n], p) for n, p in training.student.named_parameters())
        training.step(*batches[1], progress=0.0)
    assert tape.recorded == 1
    assert any(not torch.equal(before[n], p) for n, p in training.student.named_parameters())
    assert all(torch.isfinite(p).all() for p in training.student.parameters())


def test_after_a_checkpoint_it_is_recorded_anew_and_continues(
    tiny: dict[str, Any], store: ViewStore, tape: TapeRecorder, tmp_path: Path
) -> None:
    run = run_of(tiny, {"method": "kd"}, epochs=2, compile="graphs", optimizer="adamw")
    whole, first, second = (start(run, store) for _ in range(3))
    whole.train_epoch()
    whole.train_epoch()
    first.train_epoch()
    first.save(tmp_path / "c.pt")
    second.train_epoch()  # its own recording is of other memory
    second.load(tmp_path / "c.pt")
    second.train_epoch()
    assert tape.recorded == 4
    assert all(torch.equal(second.student.state_dict()[n], value) for n, value in weights(whole).items())


FALLING = {"method": "kd", "weight": {"start": 1.0, "end": 0.0}}


def test_what_changes_during_the_run_is_not_recorded(
    tiny: dict[str, Any], store: ViewStore, tape: TapeRecorder
) -> None:
    plain = start(run_of(tiny, FALLING, epochs=1), store)
    training = start(run_of(tiny, FALLING, epochs=1, compile="graphs"), store)
    with pytest.warns(RuntimeWarning, match="trains without CUDA graphs: a parameter of its loss changes"):
        report = training.train_epoch()
    assert tape.recorded == 0 and report["loss"] == pytest.approx(plain.train_epoch()["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("called a synchronizing CUDA operation\nmore"), "called a synchronizing CUDA operation"),
        (NotRecordable("it copies numbers from the host at every step"), "it copies numbers from the host"),
    ],
)
def test_a_recording_that_fails_is_said_in_one_sentence_and_the_run_goes_on(
    tiny: dict[str, Any], store: ViewStore, tape: TapeRecorder, monkeypatch: pytest.MonkeyPatch, error: Exception,
    said: str,
) -> None:  # fmt: skip
    def fail(run: Callable[[], object]) -> Any:
        run()
        raise error

    monkeypatch.setattr(tape, "record", fail)
    plain = start(run_of(tiny, {"method": "bpkd"}, epochs=2), store)
    training = start(run_of(tiny, {"method": "bpkd"}, epochs=2, compile="graphs"), store)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        losses = [training.train_epoch()["loss"] for _ in range(2)]
    told = [str(each.message) for each in caught if "train.compile" in str(each.message)]
    assert told == [f"train.compile: got graphs, this run trains without CUDA graphs: {told[0].rpartition(': ')[2]}"]
    assert said in told[0] and "\n" not in told[0]
    assert losses == pytest.approx([plain.train_epoch()["loss"] for _ in range(2)], rel=1e-4)


def test_too_little_memory_is_no_reason_to_go_on(
    tiny: dict[str, Any], store: ViewStore, tape: TapeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: Callable[[], object]) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(tape, "record", full)
    with pytest.raises(torch.OutOfMemoryError):
        start(run_of(tiny, {"method": "ce"}, compile="graphs"), store).train_epoch()


def test_copies_of_numbers_from_the_host_are_found() -> None:
    with FakeTensorMode():
        student = torch.empty(2, 3, 9, 13, device=GPU)
        labels = torch.empty(2, 34, 50, dtype=torch.uint8, device=GPU)
        with NoHostValues():
            bpkd_loss(student, student.half(), labels, alpha=2.0)
            with pytest.raises(NotRecordable, match="copies numbers from the host"):
                bpkd_loss(student, student.half(), labels, alpha=[1.0, 2.0, 1.0])


def test_a_cpu_records_nothing(tiny: dict[str, Any], store: ViewStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "compiled_forward", forward)
    recorded, plain = (start(run_of(tiny, {"method": "bpkd"}, compile=c), store) for c in ("graphs", False))
    assert recorded.train_epoch()["loss"] == plain.train_epoch()["loss"]
    assert all(torch.equal(plain.student.state_dict()[n], value) for n, value in weights(recorded).items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["ce", "bpkd"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_cuda_graph_trains_what_its_step_trains(
    tiny: dict[str, Any], store: ViewStore, method: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "compiled_forward", forward)
    found = []
    for compiled in (False, "graphs"):
        run = run_of(tiny, {"method": method}, epochs=2, amp="off", compile=compiled, optimizer=optimizer, lr=1e-3)
        training = Distillation(run.student, run.loss, run.train, store, device=GPU)
        with warnings.catch_warnings(action="error"):
            found.append([training.train_epoch()["loss"] for _ in range(2)])
        if compiled:
            batch = next(training.batches(0, 1))
            with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profile:
                training.step(*batch, progress=0.0)
                torch.cuda.synchronize()
            assert sum(event.name == "cudaGraphLaunch" for event in profile.events()) == 1
            assert sum(event.name == "cudaLaunchKernel" for event in profile.events()) <= 4
    assert found[1] == pytest.approx(found[0], rel=1e-2)
