"""Scores against torchmetrics and against slow per-class, per-image morphology with scipy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)

from bpkd_search.errors import ConfigError, DataError
from bpkd_search.metrics import Scores, SegmentationMetrics, confusion_matrix, mean_iou, pixel_accuracy

Pair = tuple[torch.Tensor, torch.Tensor]


def blobs(
    batch: int, height: int, width: int, classes: int, seed: int, *, smooth: float = 3.0, void: float = 0.1
) -> Pair:
    """Truth of smooth regions with a share of void, and a prediction that errs mostly along their borders."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(
        rng.normal(size=(batch, classes, height, width)), (0, 0, smooth, smooth), mode="nearest"
    )
    fields /= fields.std()
    noise = ndimage.gaussian_filter(rng.normal(size=fields.shape), (0, 0, smooth / 2, smooth / 2))
    labels = fields.argmax(1)
    hole = ndimage.gaussian_filter(rng.normal(size=labels.shape), (0, 1, 1))
    labels[hole > np.quantile(hole, 1 - void)] = 255
    predictions = (fields + 0.5 * noise / noise.std()).argmax(1)
    return torch.from_numpy(predictions), torch.from_numpy(labels)


def camvid(shared: Path, count: int = 4) -> Pair:
    """Real masks, with a shifted and partly relabelled copy of each as its prediction."""
    files = sorted((shared / "data/camvid/valannot").glob("*.png"))[:: 101 // count][:count]
    labels = torch.stack([torch.from_numpy(np.array(Image.open(file))).long() for file in files])
    predictions = torch.where(labels == 11, 3, labels).roll((2, -3), dims=(1, 2))
    predictions[:, 100:140, 200:300] = 8
    return predictions, labels.masked_fill(labels == 11, 255)


def square(radius: int) -> np.ndarray:
    return np.ones((2 * radius + 1, 2 * radius + 1), dtype=bool)


def near(mask: np.ndarray, radius: int) -> np.ndarray:
    return ndimage.binary_dilation(mask, square(radius))


def oracle(predictions: torch.Tensor, labels: torch.Tensor, classes: int, band: int, ratio: float) -> Scores:
    """Every score the slow way: a loop over images and classes, binarised first."""
    totals = {name: np.zeros(classes) for name in ("inter", "union", "tp_p", "n_p", "tp_g", "n_g")}
    matrices = np.zeros((2, classes, classes), dtype=np.int64)
    for guess, truth in zip(predictions.numpy(), labels.numpy(), strict=True):
        valid = truth != 255
        guess, truth = np.where(valid, guess, -1), np.where(valid, truth, -1)
        height, width = truth.shape
        distance = max(1, round(ratio * math.sqrt(height**2 + width**2)))
        edge = np.zeros_like(valid)
        for c in range(classes):
            edge |= (truth == c) & near(valid & (truth != c), band)
        for inside in (0, 1):
            chosen = valid & (edge == bool(inside))
            np.add.at(matrices[inside], (truth[chosen], guess[chosen]), 1)
        for c in range(classes):
            rims, lines = [], []
            for side in (truth, guess):
                mask = np.pad(side == c, 1)
                eroded = ndimage.binary_erosion(mask, square(1), iterations=distance, border_value=1)
                rims.append((mask & ~eroded)[1:-1, 1:-1])
                lines.append((side == c) & near(valid & (side != c), 1))
            totals["inter"][c] += (rims[0] & rims[1]).sum()
            totals["union"][c] += (rims[0] | rims[1]).sum()
            totals["tp_g"][c] += (lines[0] & near(lines[1], band)).sum()
            totals["tp_p"][c] += (lines[1] & near(lines[0], band)).sum()
            totals["n_g"][c] += lines[0].sum()
            totals["n_p"][c] += lines[1].sum()

    def ious(matrix: np.ndarray) -> list[float]:
        values = []
        for c in range(classes):
            union = matrix[c].sum() + matrix[:, c].sum() - matrix[c, c]
            values.append(matrix[c, c] / union if union else math.nan)
        return values

    def mean(values: list[float]) -> float:
        known = [v for v in values if not math.isnan(v)]
        return sum(known) / len(known) if known else math.nan

    scores = []
    for c in range(classes):
        if totals["n_p"][c] + totals["n_g"][c] == 0:
            continue
        precision = totals["tp_p"][c] / totals["n_p"][c] if totals["n_p"][c] else 0.0
        recall = totals["tp_g"][c] / totals["n_g"][c] if totals["n_g"][c] else 0.0
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    whole = matrices.sum(0)
    return Scores(
        miou=mean(ious(whole)),
        accuracy=np.trace(whole) / whole.sum() if whole.sum() else math.nan,
        edge_miou=mean(ious(matrices[1])),
        body_miou=mean(ious(matrices[0])),
        boundary_iou=mean([i / u for i, u in zip(totals["inter"], totals["union"], strict=True) if u]),
        boundary_f=mean(scores),
        macc=mean([whole[c, c] / whole[c].sum() if whole[c].sum() else math.nan for c in range(classes)]),
        iou=tuple(ious(whole)),
        edge_iou=tuple(ious(matrices[1])),
        band=band,
        boundary_ratio=ratio,
    )


def measured(
    predictions: torch.Tensor, labels: torch.Tensor, classes: int, band: int = 3, ratio: float = 0.02
) -> Scores:
    metrics = SegmentationMetrics(classes, band=band, boundary_ratio=ratio)
    metrics.update(predictions, labels)
    return metrics.compute()


def assert_same(got: Scores, expected: Scores) -> None:
    for name in Scores.__dataclass_fields__:
        assert getattr(got, name) == pytest.approx(getattr(expected, name), abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("classes", [2, 11, 100])
def test_confusion_and_its_means_agree_with_torchmetrics(classes: int) -> None:
    predictions, labels = blobs(3, 40, 56, classes, seed=classes)
    matrix = confusion_matrix(predictions, labels, classes)
    expected = multiclass_confusion_matrix(predictions, labels, classes, ignore_index=255)
    assert torch.equal(matrix, expected)
    assert mean_iou(matrix) == pytest.approx(
        multiclass_jaccard_index(predictions, labels, classes, ignore_index=255).item()
    )
    assert pixel_accuracy(matrix) == pytest.approx(
        multiclass_accuracy(predictions, labels, classes, average="micro", ignore_index=255).item()
    )


@pytest.mark.parametrize(
    ("classes", "size", "smooth", "void", "band", "ratio"),
    [
        (11, (40, 56), 4.0, 0.1, 3, 0.02),
        (5, (61, 47), 6.0, 0.0, 1, 0.1),
        (8, (33, 64), 0.5, 0.3, 2, 0.05),
        (9, (20, 24), 2.0, 0.5, 5, 0.005),
        (100, (48, 48), 1.5, 0.1, 3, 0.02),
        (300, (24, 24), 1.0, 0.1, 3, 0.02),
        (3, (7, 1), 1.0, 0.1, 4, 0.9),
    ],
)
def test_every_score_agrees_with_slow_morphology(
    classes: int, size: tuple[int, int], smooth: float, void: float, band: int, ratio: float
) -> None:
    predictions, labels = blobs(3, *size, classes, seed=band, smooth=smooth, void=void)
    assert_same(measured(predictions, labels, classes, band, ratio), oracle(predictions, labels, classes, band, ratio))


def test_every_score_agrees_with_slow_morphology_on_camvid(shared: Path) -> None:
    predictions, labels = camvid(shared)
    got = measured(predictions.byte(), labels.byte(), 11)
    assert_same(got, oracle(predictions, labels, 11, 3, 0.02))
    assert got.edge_miou < got.body_miou


def test_streaming_in_batches_equals_all_at_once_and_reset_forgets() -> None:
    predictions, labels = blobs(5, 32, 40, 6, seed=0)
    metrics = SegmentationMetrics(6)
    metrics.update(labels.flip(0), predictions)
    metrics.reset()
    for batch in (slice(0, 2), slice(2, 3), slice(3, 5)):
        metrics.update(predictions[batch], labels[batch])
    assert_same(metrics.compute(), measured(predictions, labels, 6))


def test_a_perfect_prediction_scores_one_everywhere() -> None:
    _, labels = blobs(2, 32, 40, 4, seed=1)
    scores = measured(labels.masked_fill(labels == 255, 0), labels, 4)
    assert scores.as_dict() == dict.fromkeys(
        ("miou", "accuracy", "edge_miou", "body_miou", "boundary_iou", "boundary_f", "macc"), 1.0
    )
    assert scores.band == 3 and scores.boundary_ratio == 0.02


def test_mean_accuracy_is_torchmetrics_over_the_classes_that_are_labelled() -> None:
    predictions, labels = blobs(3, 40, 56, 5, seed=4)
    labels[labels == 3] = 255  # class 3 is predicted and never labelled: it has no accuracy
    each = multiclass_accuracy(predictions, labels, 5, average="none", ignore_index=255)
    assert measured(predictions, labels, 5).macc == pytest.approx(each[[0, 1, 2, 4]].mean().item(), abs=1e-6)


def test_a_shifted_step_by_hand() -> None:
    # Classes 0 | 1 meet at column 10 of 20; the prediction has them meet at column 12.
    columns = torch.arange(20).expand(1, 8, 20)
    scores = measured((columns >= 12).long(), (columns >= 10).long(), 2, band=3)
    # The band is columns 7..12: truth 000111, prediction 000001.
    assert scores.edge_iou == (3 / 5, 1 / 3)
    assert scores.body_miou == 1.0
    # Contours two pixels apart match within three pixels, and not within one.
    assert scores.boundary_f == 1.0
    assert measured((columns >= 12).long(), (columns >= 10).long(), 2, band=1).boundary_f == 0.0


def test_nothing_labelled_leaves_every_score_undefined() -> None:
    labels = torch.full((2, 9, 9), 255)
    scores = measured(torch.zeros_like(labels), labels, 3)
    assert all(math.isnan(score) for score in scores.as_dict().values())


@pytest.mark.parametrize("classes", [1, 7])
def test_one_class_has_no_edge_and_the_frame_for_boundary(classes: int) -> None:
    labels = torch.zeros(1, 12, 12, dtype=torch.int64)
    scores = measured(labels, labels, classes)
    assert (scores.miou, scores.body_miou, scores.boundary_iou) == (1.0, 1.0, 1.0)
    assert math.isnan(scores.edge_miou) and math.isnan(scores.boundary_f)
    assert scores.iou[0] == 1.0 and all(math.isnan(iou) for iou in scores.iou[1:])


def test_a_class_only_predicted_counts_as_zero_and_one_in_neither_is_left_out() -> None:
    labels = torch.zeros(1, 10, 10, dtype=torch.int64)
    predictions = labels.clone()
    predictions[:, :, 5:] = 2
    scores = measured(predictions, labels, 4)
    assert scores.iou == pytest.approx((0.5, math.nan, 0.0, math.nan), nan_ok=True)
    assert scores.miou == 0.25
    assert scores.boundary_f == 0.0


@pytest.mark.parametrize(("ignored", "dtype"), [(-1, torch.int16), (-100, torch.int64), (0, torch.uint8)])
def test_any_id_can_be_the_ignored_one(ignored: int, dtype: torch.dtype) -> None:
    predictions, labels = blobs(2, 24, 30, 5, seed=3, void=0.2)
    predictions, labels = predictions + 1, torch.where(labels == 255, 255, labels + 1)
    expected = measured(predictions, labels, 6)
    metrics = SegmentationMetrics(6, ignore_index=ignored)
    metrics.update(predictions.to(dtype), labels.masked_fill(labels == 255, ignored).to(dtype))
    assert_same(metrics.compute(), expected)


@pytest.mark.parametrize(("label", "prediction"), [(11, 0), (0, 11), (-1, 0)])
def test_ids_out_of_range_are_reported_with_their_count(label: int, prediction: int) -> None:
    predictions, labels = torch.zeros(2, 1, 6, 6, dtype=torch.int64)
    labels[0, 2, 3:], predictions[0, 2, 3:] = label, prediction
    metrics = SegmentationMetrics(11)
    metrics.update(predictions, labels)
    with pytest.raises(DataError, match=r"3 pixels .* outside 0\.\.10"):
        metrics.compute()


def test_wrong_settings_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        SegmentationMetrics(0, band=0, boundary_ratio=2.0)
    assert [fault.split(":")[0] for fault in caught.value.faults] == ["num_classes", "band", "boundary_ratio"]
    with pytest.raises(ValueError, match="integer class ids"):
        SegmentationMetrics(3).update(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="integer class ids"):
        SegmentationMetrics(3).update(*torch.zeros(2, 4, 4, dtype=torch.int64))
