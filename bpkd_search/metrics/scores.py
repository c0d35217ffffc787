"""Scores of a split from counts summed over all its images; no score is a mean of per-image scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bpkd_search.errors import ConfigError, DataError
from bpkd_search.metrics.counts import class_iou, count, mean_iou, pixel_accuracy
from bpkd_search.metrics.regions import boundary_distance, encode, framed, inner, matched_contours, windows
from bpkd_search.metrics.table import SCORES


@dataclass(frozen=True)
class Scores:
    """Scores of a split, each in [0, 1], NaN if undefined, and the settings of their measurement."""

    miou: float
    accuracy: float
    edge_miou: float
    body_miou: float
    boundary_iou: float
    boundary_f: float
    macc: float
    iou: tuple[float, ...]
    edge_iou: tuple[float, ...]
    band: int
    boundary_ratio: float
    custom_score: float | None = None

    def as_dict(self) -> dict[str, float]:
        """Return the scalar scores by name, those of `metrics.table`; that of the user only if there is one."""
        return {name: value for name in SCORES if (value := getattr(self, name)) is not None}


class SegmentationMetrics:
    """Accumulates counts of a split on `device`; no image is kept, and no GPU is synchronised before `compute`.

    Edge and body mIoU (trimap): from the confusion matrix inside and outside `change_band` of the truth at `band`.
    Boundary IoU (Cheng et al., arXiv 2103.16562): overlap of the boundaries of both sides, per class; a class's
    boundary is its mask minus its erosion by `boundary_ratio` of the image diagonal, beyond which is no class.
    Boundary F-score (Csurka et al., BMVC 2013; Perazzi et al., CVPR 2016): precision and recall,
    per class, of contour pixels matched within `band` pixels; the image border is not a contour. Means are over
    the classes that occur on either side. Predictions at ignored pixels are ignored too.

    Raises `ConfigError` if a setting is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        band: int = 3,
        boundary_ratio: float = 0.02,
        ignore_index: int = 255,
        device: torch.device | str = "cpu",
    ) -> None:
        rules = {
            f"num_classes: got {num_classes}, must be from 1 to 32000": 1 <= num_classes <= 32000,
            f"band: got {band}, must be a number of pixels from 1": band >= 1,
            f"boundary_ratio: got {boundary_ratio}, must be above 0 and at most 1": 0 < boundary_ratio <= 1,
        }
        if faults := [rule for rule, holds in rules.items() if not holds]:
            raise ConfigError(faults, source="metrics")
        self.num_classes, self.band, self.boundary_ratio = num_classes, band, boundary_ratio
        self.ignore_index, self.device = ignore_index, torch.device(device)
        self.reset()

    def reset(self) -> None:
        """Reset all counts."""
        side = self.num_classes + 1
        # Bin 0 is of ignored pixels; bin 1, where only the truth would be ignored, is of ids out of range.
        self._joint = torch.zeros(4 * side * side, dtype=torch.int64, device=self.device)
        self._one = torch.ones((), dtype=torch.int64, device=self.device)
        self._regions = torch.zeros(2 * side * 8, dtype=torch.int64, device=self.device)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count a batch: integer class ids [B, H, W] each. Raises `ValueError` if a shape or dtype is wrong."""
        if predictions.shape != labels.shape or labels.ndim != 3 or predictions.is_floating_point():
            raise ValueError(
                "predictions and labels must be integer class ids [B, H, W]; got"
                f" {predictions.dtype} {tuple(predictions.shape)} and {labels.dtype} {tuple(labels.shape)}"
            )
        predictions, labels = predictions.to(self.device), labels.to(self.device)
        # One image at a time fits a CPU's cache; a GPU needs few, large operations.
        step = 1 if self.device.type == "cpu" else max(1, len(labels))
        for start in range(0, len(labels), step):
            self._count(predictions[start : start + step], labels[start : start + step])

    def _count(self, predictions: Tensor, labels: Tensor) -> None:
        height, width = labels.shape[1:]
        side, distance = self.num_classes + 1, boundary_distance(height, width, self.boundary_ratio)
        codes, invalid = encode(predictions, labels, self.num_classes, self.ignore_index)
        frame = framed(codes, max(distance, self.band + 1), self.num_classes)
        found = windows(frame, (1, self.band, distance))

        # Ignored pixels have code 0, whose bins are left out in the end, so they may be in any band.
        changes, at_margin = found[1][0], 2 * self.band
        contours = inner(frame, height + at_margin, width + at_margin) * inner(
            changes, height + at_margin, width + at_margin
        )
        matched = matched_contours(contours, self.band, self.num_classes)
        several, ignored = (inner(maps, height, width) for maps in found[distance])
        boundary = several | ignored
        edge = inner(found[self.band][0][0], height, width)

        where = torch.add(boundary.all(0).view(torch.uint8), edge, alpha=2)
        truth_row = torch.add(codes[0], where, alpha=side)
        count(self._joint, torch.add(codes[1], truth_row, alpha=side).add_(invalid), self._one)
        region = torch.add(boundary, inner(changes, height, width), alpha=2)
        region = torch.add(region.add_(matched, alpha=4), codes, alpha=8)
        region[1].add_(8 * side)
        count(self._regions, region, self._one)

    def compute(self) -> Scores:
        """Return the scores of all batches so far. Raises `DataError` if class ids were out of range."""
        side = self.num_classes + 1
        # Inside the edge band or not, on the boundaries of both sides or not, true class, predicted class.
        joint = self._joint.cpu().view(2, 2, side, side)
        if invalid := int(joint[:, :, 0, 1].sum()):
            raise DataError(
                f"{invalid} pixels have a label or a prediction outside 0..{self.num_classes - 1}"
                f" that is not the ignored id {self.ignore_index}"
            )
        joint = joint[:, :, 1:, 1:]
        body, edge = joint.sum(1)
        shared = joint[:, 1].sum(0).diagonal().double()
        # Matched or not, on the contour or not, on the boundary or not.
        regions = self._regions.cpu().double().view(2, side, 2, 2, 2)[:, 1:]
        boundary, contour, matched = (
            regions[..., 1].sum((2, 3)),
            regions[..., 1, :].sum((2, 3)),
            regions[:, :, 1, 1].sum(2),
        )
        # A class with a contour on one side only scores 0, with none NaN.
        recall, precision = matched / contour.clamp(min=1)
        f_score = (2 * precision * recall / (precision + recall)).nan_to_num(0)
        f_score[contour.sum(0) == 0] = math.nan
        hits, labelled = (body + edge).diagonal().double(), (body + edge).sum(1)
        return Scores(
            miou=mean_iou(body + edge),
            accuracy=pixel_accuracy(body + edge),
            edge_miou=mean_iou(edge),
            body_miou=mean_iou(body),
            boundary_iou=(shared / (boundary.sum(0) - shared)).nanmean().item(),
            boundary_f=f_score.nanmean().item(),
            macc=(hits / labelled).nanmean().item(),
            iou=tuple(class_iou(body + edge).tolist()),
            edge_iou=tuple(class_iou(edge).tolist()),
            band=self.band,
            boundary_ratio=self.boundary_ratio,
        )
