"""Segmentation scores streamed over a split: mIoU, edge and body mIoU, Boundary IoU, boundary F-score."""

from bpkd_search.metrics.counts import class_iou, confusion_matrix, mean_iou, pixel_accuracy
from bpkd_search.metrics.scores import Scores, SegmentationMetrics

__all__ = [
    "Scores",
    "SegmentationMetrics",
    "class_iou",
    "confusion_matrix",
    "mean_iou",
    "pixel_accuracy",
]
