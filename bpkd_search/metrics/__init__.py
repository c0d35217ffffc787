"""Segmentation scores streamed over a split: mIoU, edge and body mIoU, Boundary IoU, boundary F-score.

`table` lists every measure and does not import torch; the modules that compute them load on first use.
"""

from typing import TYPE_CHECKING

from bpkd_search.imports import lazy_names

if TYPE_CHECKING:
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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("class_iou", "confusion_matrix", "mean_iou", "pixel_accuracy"), "bpkd_search.metrics.counts"),
        **dict.fromkeys(("Scores", "SegmentationMetrics"), "bpkd_search.metrics.scores"),
    },
)
