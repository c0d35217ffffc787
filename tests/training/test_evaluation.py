"""Scores on labels of their own resolution, against torchmetrics; images of many sizes, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from bpkd_search.config import RunConfig
from bpkd_search.config.data import Eval
from bpkd_search.config.load import parse
from bpkd_search.data.scenes import street_scene
from bpkd_search.data.transforms import resize
from bpkd_search.metrics import SegmentationMetrics
from bpkd_search.models import Segmentor
from bpkd_search.models.build import build_model
from bpkd_search.models.inference import predict_logits
from bpkd_search.training import evaluation as module
from bpkd_search.training.evaluation import batches, evaluate
from bpkd_search.training.forms import Form
from bpkd_search.training.inputs import prepare_views

CPU = torch.device("cpu")
CLASSES = 8
# Sizes of images and of their labels; consecutive equal ones are one batch.
SIZES = [((48, 64), (90, 121))] * 3 + [((48, 64), (48, 64)), ((50, 70), (200, 100)), ((48, 64), (90, 121))]


class Split:
    """A validation split of images at their base size and labels at their own."""

    num_classes = CLASSES

    def __init__(self) -> None:
        self.val_images: list[np.ndarray] = []
        self.val_labels: list[np.ndarray] = []
        for seed, (size, label_size) in enumerate(SIZES):
            image, label = street_scene(np.random.default_rng(seed), *label_size)
            small, _ = resize(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label), *size)
            label = np.where(label < CLASSES, label, 255).astype(np.uint8)
            label[:3] = 255
            self.val_images.append(small.numpy())
            self.val_labels.append(label)

    def val_samples(self, rows: Sequence[int] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        for row in range(len(self.val_images)) if rows is None else rows:
            yield torch.from_numpy(self.val_images[row].copy()), torch.from_numpy(self.val_labels[row].copy())


@pytest.fixture(scope="module")
def split() -> Any:
    return Split()


@pytest.fixture(scope="module")
def net() -> Segmentor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Segmentor("mobilenetv3_small_050", CLASSES, channels=8)
        with torch.no_grad():
            model.classifier.weight.mul_(30)
    return model.eval().requires_grad_(False)


SLIDE = Eval(mode="slide", crop=(32, 48), flip=True, scales=(1.0, 1.5))


@pytest.mark.parametrize("how", [Eval(), SLIDE], ids=["whole", "slide"])
def test_scores_are_torchmetrics_on_the_original_labels(split: Any, net: Segmentor, how: Eval) -> None:
    confusion = MulticlassConfusionMatrix(CLASSES, ignore_index=255)
    jaccard = MulticlassJaccardIndex(CLASSES, average="none", ignore_index=255)
    ours = SegmentationMetrics(CLASSES)
    for image, label in split.val_samples():
        logits = net(image[None]) if how == Eval() else predict_logits(net, image[None], how)
        guess = F.interpolate(logits, label.shape, mode="bilinear").argmax(1)
        confusion.update(guess, label[None].long())
        jaccard.update(guess, label[None].long())
        ours.update(guess, label[None])  # one image of its own size at a time: band and diagonal are its own
    scores = evaluate(net, split, CPU, how)
    matrix = confusion.compute()
    present = (matrix.sum(0) + matrix.sum(1)) > 0
    assert present.sum() >= 5
    iou = torch.tensor(scores.iou)[present]
    torch.testing.assert_close(iou, jaccard.compute()[present], rtol=0, atol=2e-3, check_dtype=False)
    assert scores.miou == pytest.approx(jaccard.compute()[present].mean().item(), abs=1e-3)
    assert scores.accuracy == pytest.approx((matrix.diagonal().sum() / matrix.sum()).item(), abs=1e-3)
    assert scores.as_dict() == pytest.approx(ours.compute().as_dict(), abs=1e-3)


def test_resized_labels_are_those_of_the_networks_input(split: Any, net: Segmentor) -> None:
    expected = SegmentationMetrics(CLASSES)
    for image, label in split.val_samples():
        _, small = resize(torch.zeros(3, *label.shape, dtype=torch.uint8), label, *image.shape[1:])
        guess = F.interpolate(net(image[None]), small.shape, mode="bilinear").argmax(1)
        expected.update(guess, small[None])
    resized = evaluate(net, split, CPU, Eval(labels="resized"))
    assert resized.as_dict() == pytest.approx(expected.compute().as_dict(), abs=1e-3)
    assert resized.as_dict() != evaluate(net, split, CPU, Eval()).as_dict()


def test_some_rows_alone(split: Any, net: Segmentor) -> None:
    one, other = (evaluate(net, split, CPU, Eval(), rows=[row]) for row in (0, 4))
    label = split.val_labels[4]
    guess = F.interpolate(net(torch.from_numpy(split.val_images[4])[None]), label.shape, mode="bilinear").argmax(1)[0]
    accuracy = (guess.numpy() == label)[label != 255].mean()
    assert other.accuracy == pytest.approx(accuracy) and one.accuracy != other.accuracy


def test_batches_hold_one_size_and_no_more_than_fits(split: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(how: Eval) -> list[tuple[int, ...]]:
        parts = list(batches(split.val_samples(), how))
        images = [image for images, _ in parts for image in images]
        assert all(torch.equal(a, b) for a, (b, _) in zip(images, split.val_samples(), strict=True))
        return [tuple(labels.shape) for _, labels in parts]

    assert found(Eval()) == [(3, 90, 121), (1, 48, 64), (1, 200, 100), (1, 90, 121)]
    assert found(Eval(labels="resized")) == [(4, 48, 64), (1, 50, 70), (1, 48, 64)]
    monkeypatch.setattr(module, "PIXELS", 2 * 90 * 121)
    assert found(Eval()) == [(2, 90, 121), (1, 90, 121), (1, 48, 64), (1, 200, 100), (1, 90, 121)]
    # The network sees nine times the pixels at scale 3.
    assert found(Eval(labels="resized", scales=(1.0, 3.0)))[:4] == [(1, 48, 64)] * 4


def test_the_scores_of_a_store_of_one_size_are_those_before_bit_for_bit(tiny: dict[str, Any]) -> None:
    run = parse(RunConfig, {key: tiny[key] for key in ("data", "student")}, "test")
    store = prepare_views(run.data, Form(2, "stored"), lambda line: None)
    model = build_model(run.student, store.num_classes, 0).to(memory_format=torch.channels_last)
    expected = SegmentationMetrics(store.num_classes)
    model.eval()
    samples = list(store.val_samples())
    for first in range(0, len(samples), 16):  # batches of 16, enlarged as a whole
        images, labels = (torch.stack(part) for part in zip(*samples[first : first + 16], strict=True))
        with torch.inference_mode():
            expected.update(F.interpolate(model(images), labels.shape[-2:], mode="bilinear").argmax(1), labels)
    model.train()
    scores = evaluate(model, store, CPU, Eval(labels="resized"))
    assert not model.training
    assert repr(scores) == repr(expected.compute())


def test_a_batch_that_is_too_large_for_the_memory_is_halved(
    split: Any, net: Segmentor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    expected = evaluate(net, split, CPU, Eval())
    whole = module.predict_classes

    def little_memory(model: Any, images: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(model, images, *given, **named)

    monkeypatch.setattr(module, "predict_classes", little_memory)
    assert evaluate(net, split, CPU, Eval()).as_dict() == expected.as_dict()
    assert max(sizes) > 2 and sizes.count(1) == len(SIZES)

    def none(model: Any, images: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(module, "predict_classes", none)
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(net, split, CPU, Eval())
