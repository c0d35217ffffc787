"""The scores of a network on a validation split, as papers measure them: on labels in their own resolution."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice

import torch
from torch import Tensor

from bpkd_search.config.data import Data, Eval
from bpkd_search.data.resampling import pin
from bpkd_search.data.transforms import resize_label
from bpkd_search.data.views import ViewStore
from bpkd_search.errors import ConfigError
from bpkd_search.metrics import Scores, SegmentationMetrics
from bpkd_search.metrics.custom import CustomMetric
from bpkd_search.models import Network
from bpkd_search.models.inference import PIXELS, predict_classes
from bpkd_search.training.distill import Distillation

# Images in a batch at most.
BATCH = 16

Sample = tuple[Tensor, Tensor]


def evaluate(
    model: Network,
    store: ViewStore,
    device: torch.device,
    evaluation: Eval,
    rows: Sequence[int] | None = None,
    *,
    amp: bool = True,
) -> Scores:
    """Return every measure of a model on the store's validation split, or on some `rows` of it.

    Predictions are made as `evaluation` says and measured on the grid of each label; distances such as the width of
    the edge band are pixels of that grid. Memory does not grow with the split, and a batch that is too large for what
    is left of a GPU is halved. `amp` computes in mixed precision if
    the device supports it. The model stays in evaluation mode.
    Raises `DataError` if it cannot take the images.
    """
    metrics = SegmentationMetrics(store.num_classes, device=device)
    own = custom_metric(evaluation, store.num_classes, device)
    model.eval()
    for images, labels in batches(store.val_samples(rows), evaluation):
        images, labels = (pin(part, device).to(device, non_blocking=True) for part in (images, labels))
        predictions = _predicted(model, images, labels.shape[-2:], evaluation, amp)
        metrics.update(predictions, labels)
        if own is not None:
            own.update(predictions, labels)
    return metrics.compute() if own is None else replace(metrics.compute(), custom_score=own.compute())


def custom_metric(evaluation: Eval, num_classes: int, device: torch.device | str) -> CustomMetric | None:
    """Return the user's metric, None if there is none. Raises `ConfigError` if it cannot be made."""
    if (given := evaluation.metric) is None:
        return None
    try:
        return CustomMetric(given.factory, given.arguments, num_classes, device=device)
    except ConfigError as e:
        raise ConfigError([f"data.eval.metric.{fault}" for fault in e.faults]) from e


def evaluate_run(run: Distillation, data: Data) -> Scores:
    """Return every measure of a run's student: on the sample `data.val_images`, after its last round on all images."""
    rows = run.store.val_sample(data.val_images) if data.val_images and not run.finished else None
    return evaluate(run.student, run.store, run.device, data.evaluation, rows, amp=run.amp)


def batches(samples: Iterable[Sample], evaluation: Eval) -> Iterator[Sample]:
    """Join consecutive samples (image [3, h, w], label [H, W]) of one size into batches that a device's memory holds.

    Labels are resized to their images if `evaluation.labels` says so.
    """
    if evaluation.labels == "resized":
        samples = ((image, resize_label(label, *image.shape[-2:])) for image, label in samples)
    for shapes, group in groupby(samples, key=lambda sample: tuple(part.shape[-2:] for part in sample)):
        image, label = (shape.numel() for shape in shapes)
        while some := list(islice(group, images_at_once(image, label, evaluation))):
            images, labels = zip(*some, strict=True)
            yield torch.stack(images), torch.stack(labels)


def images_at_once(image: int, label: int, evaluation: Eval) -> int:
    """Return how many images of so many pixels, and labels of so many, are evaluated together."""
    return max(1, min(BATCH, int(PIXELS / max(label, image * max(evaluation.scales) ** 2))))


def _predicted(model: Network, images: Tensor, size: Sequence[int], evaluation: Eval, amp: bool) -> Tensor:
    try:
        return predict_classes(model, images, size, evaluation, amp=amp)
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise
    # Out of the handler, whose traceback keeps the maps of the larger batch.
    torch.cuda.empty_cache()
    halves = torch.split(images, -(-len(images) // 2))
    return torch.cat([_predicted(model, half, size, evaluation, amp) for half in halves])
