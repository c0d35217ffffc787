"""What a GPU is asked to do for the scores of a batch: few operations, and as many for 150 classes as for 11."""

from __future__ import annotations

import pytest
import torch

from bpkd_search.metrics import SegmentationMetrics
from tests.launches import launches


@pytest.mark.parametrize("size", [(360, 480), (512, 1024)])
@pytest.mark.parametrize("classes", [2, 11, 150, 253])
def test_an_update_needs_at_most_60_operations_at_any_number_of_classes(classes: int, size: tuple[int, int]) -> None:
    def create() -> SegmentationMetrics:
        return SegmentationMetrics(classes, device="cuda")

    def update() -> None:
        labels = torch.empty(1, *size, dtype=torch.uint8, device="cuda")
        create().update(torch.empty(1, *size, dtype=torch.int64, device="cuda"), labels)

    assert 20 < len(launches(update)) - len(launches(create)) <= 60
