"""One run: it learns, it continues exactly, and it says which loss term diverged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bpkd_search.config import RunConfig, SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.models import Eval
from bpkd_search.config.points import run_at
from bpkd_search.data.views import ViewStore
from bpkd_search.errors import CheckpointError, ResourceError
from bpkd_search.losses import bpkd_loss
from bpkd_search.models.build import pick_device
from bpkd_search.models.heads import resize
from bpkd_search.training.distill import Distillation, Diverged
from bpkd_search.training.evaluation import evaluate
from bpkd_search.training.prepare import prepare
from bpkd_search.training.teacher import open_teacher

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
    losses = run._losses(images, labels, logits, progress=0.0)
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
    teacher = open_teacher(config, store.num_classes, Path(prepared.teacher or ""), CPU)
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
    teacher = open_teacher(config, store.num_classes, Path(prepared.teacher or ""), CPU)
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


def test_the_learning_rate_warms_up_and_decays_to_zero(tiny: dict[str, Any], store: ViewStore) -> None:
    run = start(base(tiny, train__warmup=1.0, train__power=1.0, train__lr=0.3), store)
    # 12 images in batches of 4: three steps an epoch, twelve in all, three of warm-up.
    expected = [0.075, 0.15, 0.225] + [0.3 * (1 - (step - 3) / 9) for step in range(3, 12)]
    assert [run.learning_rate(step, run.progress(step, 0.0)) for step in range(12)] == pytest.approx(expected)


def test_a_run_of_seconds_ends_at_the_epoch_that_comes_nearest(tiny: dict[str, Any], store: ViewStore) -> None:
    run = start(base(tiny, train__gpu_seconds=1e-6), store)
    run.train_epoch()
    assert run.finished and run.epoch == 1
    run = start(base(tiny, train__gpu_seconds=100.0, train__power=1.0, train__lr=0.3), store)
    run.epoch, run.spent = 9, 94.0  # 10.4 s an epoch: another one would end at 104.4 s
    assert not run.finished
    run.epoch, run.spent = 10, 96.0
    assert run.finished
    assert run.learning_rate(999, run.progress(999, 75.0)) == pytest.approx(0.3 * 0.25)


def test_void_alone_leaves_the_weights_finite(tiny: dict[str, Any], store: ViewStore) -> None:
    run = start(base(tiny), store)
    images, labels, logits = next(store.epoch(0, 4, 0))
    losses = run._losses(images, torch.full_like(labels, 255), logits, progress=0.0)
    assert all(value == 0 for value in losses.values())


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ResourceError, match="cuda:77"):
        pick_device("cuda:77")
