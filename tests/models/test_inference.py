"""Class ids from logits: against a bilinear resize written out, and one precision for all who show or measure them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bpkd_search.config import RunConfig
from bpkd_search.config.load import parse
from bpkd_search.models import inference
from bpkd_search.models.build import build_model
from bpkd_search.models.inference import predict_classes
from bpkd_search.pictures.comparison import classes
from bpkd_search.predict import classify
from bpkd_search.training.distill import evaluate
from bpkd_search.training.forms import Form
from bpkd_search.training.inputs import prepare_views


class Fixed(nn.Module):
    """A model that gives the same logits whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


def bilinear(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize of [h, w] with pixel areas aligned, one target pixel at a time."""
    h, w = plane.shape
    out = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * h / height - 0.5, 0), h - 1)
            u = min(max((x + 0.5) * w / width - 0.5, 0), w - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            a, b = v - top, u - left
            out[y, x] = (1 - a) * ((1 - b) * plane[top, left] + b * plane[top, right]) + a * (
                (1 - b) * plane[bottom, left] + b * plane[bottom, right]
            )
    return out


@pytest.mark.parametrize("size", [(9, 14), (3, 4), (2, 3)])
def test_classes_are_the_largest_of_the_resized_logits(size: tuple[int, int]) -> None:
    logits = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype(np.float32)
    got = predict_classes(Fixed(torch.from_numpy(logits)), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), size)
    expected = np.array([[bilinear(plane, *size) for plane in image] for image in logits]).argmax(axis=1)
    assert got.dtype == torch.int64
    np.testing.assert_array_equal(got.numpy(), expected)


def test_panels_masks_and_validation_see_a_model_in_the_same_precision(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = parse(RunConfig, {key: tiny[key] for key in ("data", "student")}, "test")
    store = prepare_views(run.data, Form(2, "stored"), lambda line: None)
    model = build_model(run.student, store.num_classes, 0).eval()
    seen: list[torch.dtype] = []
    model.classifier.register_forward_hook(lambda module, args, logits: seen.append(logits.dtype))
    # A CPU computes in float32; this one acts as a GPU does.
    half = torch.autocast("cpu", dtype=torch.bfloat16)
    monkeypatch.setattr(inference, "autocast", lambda device, enabled: half)
    image, _ = next(store.val_samples())
    shown = classes(model, image)
    written = classify(model, image.permute(1, 2, 0).numpy(), (32, 48))
    measured = evaluate(model, store, torch.device("cpu")).accuracy
    assert set(seen) == {torch.bfloat16}
    np.testing.assert_array_equal(shown.numpy(), written)
    labels = np.stack([label.numpy() for _, label in store.val_samples()])
    guesses = np.stack([classes(model, img).numpy() for img, _ in store.val_samples()])
    assert measured == pytest.approx((guesses == labels)[labels != 255].mean())
