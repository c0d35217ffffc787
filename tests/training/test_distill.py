"""One run: it learns, it continues exactly, and it says which loss term diverged."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from bpkd_search.config import RunConfig, SearchConfig
from bpkd_search.config.data import Eval
from bpkd_search.config.load import parse
from bpkd_search.config.points import run_at
from bpkd_search.data.views import ViewStore
from bpkd_search.errors import CheckpointError, ResourceError
from bpkd_search.losses import bpkd_loss
from bpkd_search.losses.methods import METHODS
from bpkd_search.models import build
from bpkd_search.models.build import pick_device
from bpkd_search.models.heads import resize
from bpkd_search.training import distill, forward
from bpkd_search.training.distill import Distillation
from bpkd_search.training.evaluation import evaluate
from bpkd_search.training.prepare import prepare
from bpkd_search.training.round import Diverged
from bpkd_search.training.teacher import open_teacher
from bpkd_search.training.update import loss_terms

CPU = torch.device("cpu")


def base(tiny: dict[str, Any], **point: Any) -> RunConfig:
    run = parse(SearchConfig, tiny, "test").run()
    return run_at(run, {key.replace("__", "."): value for key, value in point.items()})


def start(run: RunConfig, store: ViewStore) -> Distillation:
    return Distillation(run.student, run.loss, run.train, store)


@pytest.fixture
def store(tiny: dict[str, Any]) -> ViewStore:
    return prepare(base(tiny), lambda line: None).open()


def weights(run: Distillation) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in run.student.state_dict().items()}


def test_a_short_run_learns_the_scenes(tiny: dict[str, Any], store: ViewStore) -> None:
    run = start(base(tiny, train__epochs=12, train__optimizer="adamw", train__lr=0.005, loss__method="ce"), store)
    before = evaluate(run.student, store, CPU, Eval()).miou
    losses = [run.train_epoch()["loss"] for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]
    assert evaluate(run.student, store, CPU, Eval()).miou > before + 0.05


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_stopped_and_continued_is_never_stopped_bit_for_bit(
    tiny: dict[str, Any], store: ViewStore, tmp_path: Path, optimizer: str
) -> None:
    config = base(tiny, train__optimizer=optimizer, train__lr=0.005)
    whole = start(config, store)
    reports = [whole.train_epoch() for _ in range(4)]
    first = start(config, store)
    for _ in range(2):
        first.train_epoch()
    first.save(tmp_path / "c.pt", {"miou": 0.25})
    torch.manual_seed(12345)  # what else happens in the process must not matter
    second = start(config, store)
    assert second.load(tmp_path / "c.pt") == {"miou": 0.25}
    assert second.epoch == 2
    continued = [second.train_epoch() for _ in range(2)]
    assert all(torch.equal(v, weights(second)[k]) for k, v in weights(whole).items())
    assert [r["loss"] for r in continued] == [r["loss"] for r in reports[2:]]


def test_the_loss_is_cross_entropy_plus_the_weighted_terms(tiny: dict[str, Any], store: ViewStore) -> None:
    config = base(tiny, loss__edge_weight=3.0, loss__body_weight=0.5)
    run = start(config, store)
    run.student.eval()
    images, labels, logits = next(store.epoch(0, 4, 0))
    losses = loss_terms(run, images, labels, (logits, None), 0.0)
    student = run.student(images)
    ce = torch.nn.functional.cross_entropy(resize(student, labels.shape[-2:]), labels.long(), ignore_index=255)
    expected = bpkd_loss(student, logits, labels, edge_width=3, edge_weight=3.0, body_weight=0.5)
    torch.testing.assert_close(losses["ce"], ce)
    torch.testing.assert_close(losses["bpkd.edge"] + losses["bpkd.body"], expected.total)


def test_ce_never_looks_at_the_teacher(tiny: dict[str, Any], store: ViewStore) -> None:
    config = base(tiny, loss__method="ce")
    with_logits, without = start(config, store), start(config, ViewStore(store.path))
    with_logits.train_epoch(), without.train_epoch()
    assert all(torch.equal(v, weights(without)[k]) for k, v in weights(with_logits).items())


def test_an_online_teacher_gives_what_its_stored_logits_give(tiny: dict[str, Any], cache: Path) -> None:
    config = base(tiny, loss__method="kd")
    prepared = prepare(config, lambda line: None)
    store = prepared.open()
    teacher = open_teacher(config, store.class_names, Path(prepared.teacher or ""), CPU)
    online = Distillation(config.student, config.loss, config.train, store, teacher=teacher)
    stored = start(config, store)
    a, b = online.train_epoch(), stored.train_epoch()
    assert a["loss_kd"] == pytest.approx(b["loss_kd"], rel=2e-3)
    assert a["loss_ce"] == pytest.approx(b["loss_ce"], rel=2e-3)


@pytest.mark.parametrize("method", ["feature_mse", "cirkd"])
def test_feature_methods_train_with_the_online_teacher(tiny: dict[str, Any], method: str) -> None:
    tiny["teacher"]["mode"] = "online"
    tiny["space"] = {"loss.weight": {"float": [1, 2]}}
    tiny["loss"] = {"method": method}
    config = base(tiny)
    prepared = prepare(config, lambda line: None)
    assert prepared.logits is None
    store = prepared.open()
    teacher = open_teacher(config, store.class_names, Path(prepared.teacher or ""), CPU)
    run = Distillation(config.student, config.loss, config.train, store, teacher=teacher)
    before = [p.clone() for p in run.criterion.parameters()]
    first, *_, last = (run.train_epoch()[f"loss_{method}"] for _ in range(4))
    assert 0 < last < first
    assert all(not torch.equal(a, b) for a, b in zip(before, run.criterion.parameters(), strict=True))


def test_divergence_names_the_term_the_step_and_the_epoch(tiny: dict[str, Any], store: ViewStore) -> None:
    run = start(base(tiny, train__lr=1e20), store)
    with pytest.raises(Diverged, match=r"loss term (ce|bpkd\.\w+) is not finite at step \d+ of epoch 1"):
        run.train_epoch()


def test_a_checkpoint_of_another_student_is_refused(tiny: dict[str, Any], store: ViewStore, tmp_path: Path) -> None:
    start(base(tiny), store).save(tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this configuration"):
        start(base(tiny, student__channels=16), store).load(tmp_path / "c.pt")


class Noise:
    """An online teacher of logits and features that mean nothing, which are not finite from call `spoilt` on."""

    channels = 4

    def __init__(self, spoilt: int | None = None) -> None:
        self.calls, self.spoilt = 0, spoilt

    def __call__(self, images: torch.Tensor, return_features: bool = False) -> Any:
        generator = torch.Generator().manual_seed(7)
        logits, features = (torch.randn(len(images), n, 8, 12, generator=generator) for n in (8, self.channels))
        self.calls += 1
        if self.spoilt is not None and self.calls > self.spoilt:
            logits[0, 0, 0, 0] = float("nan")
        return logits, features


@pytest.mark.parametrize("method", METHODS)
def test_void_alone_leaves_the_weights_finite(tiny: dict[str, Any], store: ViewStore, method: str) -> None:
    config = base(tiny)
    student = config.student.model_copy(update={"auxiliary_weight": 0.4})
    run = Distillation(student, METHODS[method](), config.train, store, teacher=Noise())
    images, labels, _ = next(store.epoch(0, 4, 0))
    with run.train_mode():
        losses = run.step(images, torch.full_like(labels, 255), None, progress=0.0)
    assert all(value == 0 for value in losses.values())
    assert all(value.isfinite().all() for value in weights(run).values())


def test_an_online_teacher_that_is_not_finite_is_named(tiny: dict[str, Any], store: ViewStore) -> None:
    config = base(tiny, loss__method="kd")
    run = Distillation(config.student, config.loss, config.train, store, teacher=Noise(spoilt=2))
    with pytest.raises(CheckpointError, match=r"^teacher: gives logits that are not finite .* teacher\.input$"):
        run.train_epoch()
    # Where it is the student that is not, the loss is named.
    diverging = config.train.model_copy(update={"lr": 1e20})
    run = Distillation(config.student, config.loss, diverging, store, teacher=Noise())
    with pytest.raises(Diverged):
        run.train_epoch()


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ResourceError, match="cuda:77"):
        pick_device("cuda:77")


def same_weights(first: Distillation, second: Distillation) -> bool:
    return all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


def test_a_run_of_epochs_is_the_plain_loop_bit_for_bit(tiny: dict[str, Any], store: ViewStore) -> None:
    run = start(base(tiny, loss__method="kd", loss__weight=2.0, train__warmup=1.5, train__grad_clip=1.0), store)
    plain = start(base(tiny, loss__method="kd", loss__weight=2.0), store)
    student, settings = plain.student.train(), run.settings
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4, fused=True)
    for step in range(12):
        epoch, within = divmod(step, 3)
        images, labels, teacher = next(islice(store.epoch(epoch, 4, 0), within, None))
        images = images.contiguous(memory_format=torch.channels_last)
        logits = student(images)
        whole = resize(logits.float(), labels.shape[-2:])
        ce = F.cross_entropy(whole, labels.long(), ignore_index=255, reduction="sum") / (labels != 255).sum()
        kd = run.criterion(logits, teacher, labels)["kd"]
        optimizer.zero_grad()
        torch.stack([ce, kd]).sum().backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        left = 1.0 if step < 4.5 else (1 - step / 12) / (1 - 1.5 / 4)
        rate = settings.lr * (step + 1) / 5.5 if step < 4.5 else settings.lr * min(1.0, left) ** 0.9
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    reports = [run.train_epoch() for _ in range(4)]
    assert run.finished and [report["iteration"] for report in reports] == [3, 6, 9, 12]
    assert same_weights(run, plain)


def test_iterations_go_through_the_same_batches_as_epochs(tiny: dict[str, Any], store: ViewStore) -> None:
    epochs = start(base(tiny, train__power=0.0), store)
    tiny["train"] = {"iterations": 12, "validate_every": 5, "batch_size": 4, "lr": 0.02, "power": 0.0}
    run = start(base(tiny), store)
    reports, numbers = [], []
    while not run.finished:
        reports.append(run.train_epoch())
        numbers.append(run.optimizer.param_groups[0]["lr"])
    assert [(r["epoch"], r["iteration"]) for r in reports] == [(1, 5), (2, 10), (3, 12)]
    losses = [epochs.train_epoch()["loss"] for _ in range(4)]
    assert same_weights(run, epochs)
    parts = [reports[0]["loss"] * 5, reports[1]["loss"] * 5, reports[2]["loss"] * 2]
    assert sum(parts) == pytest.approx(3 * sum(losses))


def begun(config: RunConfig, store: ViewStore) -> Distillation:
    """A run whose student draws random numbers at every step."""
    run = start(config, store)
    run.student.classifier.register_forward_hook(lambda part, given, out: F.dropout(out, 0.3, part.training))
    return run


@pytest.mark.parametrize(("optimizer", "after"), [("sgd", 1), ("adamw", 5)])
def test_a_run_cut_inside_a_round_continues_bit_for_bit(
    tiny: dict[str, Any], store: ViewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, after: int
) -> None:
    tiny["train"] = {"iterations": 16, "validate_every": 8, "batch_size": 4, "optimizer": optimizer, "lr": 0.005}
    config = base(tiny, train__checkpoint_seconds=1e-9, train__min_lr=1e-4, train__warmup_iterations=3)
    whole, cut = begun(config, store), begun(config, store)
    reports = [whole.train_epoch(), whole.train_epoch()]
    cut.train_epoch(tmp_path / "c.pt")
    cut.save(tmp_path / "c.pt", {"miou": 0.25})
    step, taken = cut.step, [0]

    def stop(*batch: Any, **settings: Any) -> dict[str, torch.Tensor]:
        if taken[0] == after:
            raise KeyboardInterrupt
        taken[0] += 1
        return step(*batch, **settings)

    monkeypatch.setattr(cut, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        cut.train_epoch(tmp_path / "c.pt")
    torch.manual_seed(12345)
    again = begun(config, store)
    assert again.load(tmp_path / "c.pt") == {"miou": 0.25}
    assert (again.epoch, again.finished) == (1, False)
    evaluate(again.student, again.store, CPU, Eval())
    # As when the report of the round before was lost, and is given and saved again.
    again.save(tmp_path / "c.pt", {"miou": 0.25})
    again = begun(config, store)
    again.load(tmp_path / "c.pt")
    done = []
    monkeypatch.setattr(again, "step", lambda *a, _step=again.step, **k: done.append(1) or _step(*a, **k))
    report = again.train_epoch()
    assert len(done) == 8 - after
    assert same_weights(again, whole)
    assert {k: v for k, v in report.items() if k.startswith("loss") or k in ("epoch", "iteration")} == {
        k: v for k, v in reports[1].items() if k.startswith("loss") or k in ("epoch", "iteration")
    }
    assert again.spent > cut.spent and again.finished


class Ticks:
    """A clock that is a second later at every reading."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self, device: torch.device) -> float:
        self.now += 1.0
        return self.now


def test_seconds_count_the_share_of_the_gpu_and_the_kind_of_device(
    tiny: dict[str, Any], store: ViewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "clock", Ticks())
    whole, quarter = start(base(tiny), store), start(base(tiny), store)
    quarter.share, quarter.speed = 0.25, 2.0
    one, two = whole.train_epoch(), quarter.train_epoch()
    assert one["gpu_seconds"] == one["calibrated_seconds"] > 1
    assert two["gpu_seconds"] == 0.25 * one["gpu_seconds"]
    assert two["calibrated_seconds"] == 0.5 * one["gpu_seconds"]
    assert two["images_per_second"] == one["images_per_second"]
    # It moves to another kind: what it spent before keeps its price.
    quarter.save(tmp_path / "c.pt")
    moved = start(base(tiny), store)
    moved.load(tmp_path / "c.pt")
    moved.share, moved.speed = 1.0, 3.0
    report, before = moved.train_epoch(), whole.spent
    rest = whole.train_epoch()["gpu_seconds"] - before
    assert report["gpu_seconds"] == pytest.approx(0.25 * before + rest)
    assert report["calibrated_seconds"] == pytest.approx(0.5 * before + 3.0 * rest)


def test_what_a_checkpoint_within_a_round_has_counted_is_not_counted_again(
    tiny: dict[str, Any], store: ViewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "clock", Ticks())
    whole = start(base(tiny), store)
    seconds = whole.train_epoch()["gpu_seconds"]
    often = start(base(tiny, train__checkpoint_seconds=1e-9), store)
    states = list[tuple[float, float]]()

    def save(self: Distillation, path: Path, report: Any) -> None:
        states.append((self.spent, self._round.seconds))

    monkeypatch.setattr(Distillation, "save", save)
    report = often.train_epoch(tmp_path / "c.pt")
    assert len(states) > 0 and all(spent == seconds for spent, seconds in states)
    # Each checkpoint reads the clock once more, and once more starts anew.
    assert report["gpu_seconds"] == often.spent == pytest.approx(seconds + len(states))


def test_a_run_of_gpu_seconds_lasts_as_long_as_the_reference_would_take(
    tiny: dict[str, Any], store: ViewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "clock", Ticks())
    first = start(base(tiny), store).train_epoch()["gpu_seconds"]
    rounds = {}
    for share, speed in ((1.0, 1.0), (1.0, 2.0), (0.5, 2.0), (0.25, 1.0)):
        run = start(base(tiny, train__gpu_seconds=8 * first), store)
        run.share, run.speed = share, speed
        while not run.finished:
            run.train_epoch()
        rounds[share, speed] = run.epoch
    assert rounds == {(1.0, 1.0): 8, (1.0, 2.0): 4, (0.5, 2.0): 8, (0.25, 1.0): 32}


def test_checkpoints_within_a_round_come_by_the_clock(
    tiny: dict[str, Any], store: ViewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(base(tiny), store)
    run.train_epoch(tmp_path / "c.pt")
    assert not (tmp_path / "c.pt").exists()  # ten minutes are not over
    now = [0.0]

    def monotonic() -> float:
        now[0] += 400.0
        return now[0]

    written: list[int] = []
    monkeypatch.setattr(time, "monotonic", monotonic)
    monkeypatch.setattr(Distillation, "save", lambda self, path, report: written.append(self._round.done))
    run.train_epoch(tmp_path / "c.pt")
    assert written == [2]  # after 800 s; after the last step, the round's own checkpoint follows


def test_checkpoints_of_version_0_1_0_are_read(tiny: dict[str, Any], store: ViewStore, tmp_path: Path) -> None:
    whole, first, second = (start(base(tiny), store) for _ in range(3))
    whole.train_epoch(), whole.train_epoch()
    first.train_epoch()
    first.save(tmp_path / "c.pt", {"epoch": 1})
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    del state["round"]
    torch.save(state, tmp_path / "c.pt")
    assert second.load(tmp_path / "c.pt") == {"epoch": 1}
    second.train_epoch()
    assert same_weights(second, whole)


def with_void(labels: torch.Tensor) -> torch.Tensor:
    """Labels of which a part is void, another share in every image."""
    labels = labels.clone()
    for index, image in enumerate(labels):
        image[: 7 * index] = 255
    return labels


@pytest.mark.parametrize("clip", [None, 0.5])
def test_two_batches_of_an_iteration_are_one_of_twice_the_size(
    tiny: dict[str, Any], store: ViewStore, clip: float | None
) -> None:
    settings = {"loss__method": "kd", "train__batchnorm": "frozen", "train__grad_clip": clip}
    one = start(base(tiny, **settings), store)
    two = start(base(tiny, **settings, train__batch_size=2, train__accumulate=2), store)
    assert two.schedule.steps == one.schedule.steps == 3
    for whole, parts in zip(one.batches(0, 6), two.batches(0, 6), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    images, labels, logits = next(one.batches(0, 1))
    labels = with_void(labels)
    for run in (one, two):
        with run.train_mode():
            losses = [run.step(images, labels, logits, progress=0.0) for _ in range(2)]
        run.losses = losses
    for expected, found in zip(one.losses, two.losses, strict=True):
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)
    for (name, weight), other in zip(one.student.named_parameters(), two.student.parameters(), strict=True):
        torch.testing.assert_close(other, weight, rtol=1e-3, atol=1e-5, msg=name)


def test_a_part_without_labels_leaves_the_loss_as_it_is(tiny: dict[str, Any], store: ViewStore) -> None:
    run = start(base(tiny, train__batch_size=2, train__accumulate=2, train__batchnorm="frozen"), store)
    images, labels, logits = next(run.batches(0, 1))
    labels[2:] = 255
    with run.train_mode():
        alone = loss_terms(run, images[:2], labels[:2], (logits[:2], None), 0.0)
        losses = run.step(images, labels, logits, progress=0.0)
    for name in alone:
        torch.testing.assert_close(losses[name], alone[name].detach())


def test_an_iteration_of_two_batches_counts_their_images(tiny: dict[str, Any], store: ViewStore) -> None:
    run = start(base(tiny, train__batch_size=2, train__accumulate=3), store)
    report = run.train_epoch()
    assert report["iteration"] == 2
    assert report["images_per_second"] * report["gpu_seconds"] == pytest.approx(12)


def test_gradients_that_overflow_skip_the_step_and_are_no_divergence(tiny: dict[str, Any], store: ViewStore) -> None:
    run = start(base(tiny), store)
    # Float16 without a GPU: the scaler is the same.
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-60)
    before = [weight.clone() for weight in run.student.parameters()]
    images, labels, logits = next(run.batches(0, 1))
    with run.train_mode():
        run.step(images, labels, logits, progress=0.0)
    assert run.scaler.get_scale() == 2.0**67
    assert all(torch.equal(a, b) for a, b in zip(before, run.student.parameters(), strict=True))
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-60)
    report = run.train_epoch()
    assert report["loss"] > 0 and not all(
        torch.equal(a, b) for a, b in zip(before, run.student.parameters(), strict=True)
    )


def test_scaled_gradients_give_the_weights_of_unscaled_ones(tiny: dict[str, Any], store: ViewStore) -> None:
    plain, scaled = (start(base(tiny, train__grad_clip=0.1), store) for _ in range(2))
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plain.train_epoch(), scaled.train_epoch()
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(scaled)[name], value, msg=name)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_gpu_without_bfloat16_trains_in_float16_with_a_scaled_loss(
    tiny: dict[str, Any], store: ViewStore, optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = base(
        tiny, loss__method="ce", train__epochs=2, train__optimizer=optimizer, train__lr=1e-3, train__grad_clip=1.0
    )
    single = start(config, store)
    for module in (build, distill):
        monkeypatch.setattr(module, "half_precision", lambda device: torch.float16)
    whole, half, continued = (start(config, store) for _ in range(3))
    assert whole.scaler.is_enabled() and not single.scaler.is_enabled()
    whole.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    seen: list[torch.dtype] = []
    whole.student.classifier.register_forward_hook(lambda *given: seen.append(given[2].dtype))  # type: ignore[operator]
    losses = [whole.train_epoch()["loss"] for _ in range(2)]
    assert set(seen) == {torch.float16}
    assert losses == pytest.approx([single.train_epoch()["loss"] for _ in range(2)], rel=0.02)
    # The scale is of the run: it is kept with its state.
    half.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**9)
    half.train_epoch()
    half.save(tmp_path / "c.pt")
    continued.load(tmp_path / "c.pt")
    assert continued.scaler.get_scale() == 2.0**9
    half.train_epoch(), continued.train_epoch()
    assert all(torch.equal(value, weights(continued)[name]) for name, value in weights(half).items())


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")],
        ),
    ],
)
def test_clipping_counts_the_weights_of_the_loss(tiny: dict[str, Any], device: str) -> None:
    tiny["teacher"]["mode"], tiny["teacher"]["train"]["device"] = "online", device
    tiny["space"], tiny["loss"] = {"loss.weight": {"float": [1, 2]}}, {"method": "feature_mse"}
    config = base(tiny, train__grad_clip=0.01, train__device=device, train__amp="off")
    prepared = prepare(config, lambda line: None)
    store = prepared.open()
    teacher = open_teacher(config, store.class_names, Path(prepared.teacher or ""), torch.device(device))
    run = Distillation(config.student, config.loss, config.train, store, teacher=teacher)
    with run.train_mode():
        run.step(*next(run.batches(0, 1)), progress=0.0)
    of_loss = [weight.grad for weight in run.criterion.parameters()]
    assert of_loss and all(gradient.device.type == device for gradient in of_loss)
    gradients = [weight.grad for weight in run.student.parameters() if weight.grad is not None] + of_loss
    norm = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients])).item()
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_compiling_is_not_counted_and_changes_nothing(
    tiny: dict[str, Any], store: ViewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[float] = []

    def slow(graph: Any, inputs: Any) -> Any:
        start = time.thread_time()
        while time.thread_time() - start < 1.0:
            pass
        compiled.append(time.thread_time() - start)
        return graph

    monkeypatch.setattr(forward, "BACKEND", slow)
    forward.forget_code()
    run, plain = start(base(tiny, train__compile=True), store), start(base(tiny), store)
    try:
        assert run.train_epoch()["gpu_seconds"] < 0.9
        assert len(compiled) == 1
        plain.train_epoch()
        assert same_weights(run, plain)
    finally:
        forward.forget_code()


def test_the_warm_up_leaves_no_trace(tiny: dict[str, Any], store: ViewStore, tmp_path: Path) -> None:
    run, of_loss = begun(base(tiny), store), list[Any]()
    run._warm = False
    run.criterion.register_forward_hook(lambda *given: of_loss.append(given[0]))
    torch.manual_seed(3)
    run.save(tmp_path / "before.pt")
    before = torch.get_rng_state()
    with run.train_mode():
        run.warm_up(0)
    assert run._warm and torch.equal(torch.get_rng_state(), before)
    # The kernels of the loss are chosen too, by a copy of it.
    (copied,) = of_loss
    assert copied is not run.criterion
    run.save(tmp_path / "after.pt")
    assert (tmp_path / "after.pt").read_bytes() == (tmp_path / "before.pt").read_bytes()
    assert all(weight.grad is None for weight in run.student.parameters())


def test_a_deterministic_run_asks_pytorch_for_it_and_learns_the_same(tiny: dict[str, Any], store: ViewStore) -> None:
    run, plain = start(base(tiny, train__deterministic=True), store), start(base(tiny), store)
    asked: list[bool] = []
    run.student.classifier.register_forward_hook(lambda *_: asked.append(torch.are_deterministic_algorithms_enabled()))
    a, b = run.train_epoch(), plain.train_epoch()
    assert asked == [True] * 3
    assert not torch.are_deterministic_algorithms_enabled()
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
