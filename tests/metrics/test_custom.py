"""A metric of the user: what it is given, and that its score is that of the whole split."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bpkd_search.config.load import parse
from bpkd_search.config.models import SearchConfig
from bpkd_search.errors import ConfigError
from bpkd_search.metrics import SegmentationMetrics
from bpkd_search.metrics.custom import CustomMetric

OWN = '''
import torch

class MeanIoU(torch.nn.Module):
    """As those of torchmetrics: a module with buffers."""
    def __init__(self, num_classes, *, ignore_index, scale=1.0):
        super().__init__()
        self.classes, self.ignored, self.scale = num_classes, ignore_index, scale
        self.register_buffer("counts", torch.zeros(num_classes * num_classes, dtype=torch.int64))

    def update(self, predictions, labels):
        assert predictions.dtype == labels.dtype == torch.int64
        known = labels != self.ignored
        self.counts += torch.bincount(labels[known] * self.classes + predictions[known], minlength=self.classes**2)

    def compute(self):
        table = self.counts.view(self.classes, self.classes).double()
        return self.scale * (table.diagonal() / (table.sum(0) + table.sum(1) - table.diagonal())).nanmean()

class Raises(MeanIoU):
    def update(self, predictions, labels):
        raise RuntimeError("counts overflow")

def needs_no_classes():
    return None
'''


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_metrics.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_metrics", raising=False)


def test_its_score_is_that_of_the_whole_split() -> None:
    generator = torch.Generator().manual_seed(0)
    own, ours = CustomMetric("own_metrics:MeanIoU", {"scale": 0.5}, 4), SegmentationMetrics(4)
    for size in (1, 3):
        labels = torch.randint(0, 4, (size, 16, 24), generator=generator, dtype=torch.uint8)
        labels[:, :3] = 255
        predictions = torch.randint(0, 4, labels.shape, generator=generator)
        own.update(predictions, labels)
        ours.update(predictions, labels)
    assert own.compute() == pytest.approx(0.5 * ours.compute().miou, abs=1e-12)


@pytest.mark.parametrize(
    ("place", "arguments", "fault"),
    [
        (
            "own_metrics:MeanIoU",
            {"scael": 1},
            "arguments.scael: own_metrics:MeanIoU has no such argument; did you mean",
        ),
        ("own_metrics:needs_no_classes", {}, "arguments: own_metrics:needs_no_classes takes 0 arguments by position"),
        ("own_metrics:torch", {}, "factory: own_metrics:torch is a module, must be a class or function"),
    ],
)
def test_what_cannot_be_made(place: str, arguments: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        CustomMetric(place, arguments, 4)
    assert error.value.faults[0].startswith(fault)


def test_what_it_raises_is_said() -> None:
    metric = CustomMetric("own_metrics:Raises", {}, 4)
    with pytest.raises(ConfigError, match="factory: own_metrics:Raises raised RuntimeError: counts overflow"):
        metric.update(torch.zeros(1, 8, 8, dtype=torch.int64), torch.zeros(1, 8, 8, dtype=torch.uint8))


def test_a_search_that_uses_its_score_needs_it(tiny: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        parse(SearchConfig, tiny | {"search": {**tiny["search"], "metric": "custom_score"}}, "test")
    assert "data.eval.metric: got nothing, is required where the search uses custom_score" in error.value.faults
