"""Logits and classes of whole images: resizing, windows, flips and scales against each written out one by one."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from bpkd_search.config import RunConfig
from bpkd_search.config.data import Eval
from bpkd_search.config.load import parse
from bpkd_search.errors import DataError
from bpkd_search.models import Segmentor, inference
from bpkd_search.models.build import build_model
from bpkd_search.models.inference import predict_classes, predict_logits
from bpkd_search.pictures.comparison import classes
from bpkd_search.predict import classify
from bpkd_search.training.evaluation import evaluate
from bpkd_search.training.forms import Form
from bpkd_search.training.inputs import prepare_views


class Fixed(nn.Module):
    """A model that gives the same logits whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


@pytest.fixture(scope="module")
def net() -> Segmentor:
    """A network of four classes whose logits depend on what it sees."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Segmentor("mobilenetv3_small_050", 4, channels=8)
        with torch.no_grad():
            model.classifier.weight.mul_(30)
    return model.eval().requires_grad_(False)


def noise(batch: int, height: int, width: int) -> Tensor:
    pixels = torch.randint(0, 256, (batch, 3, height // 8 + 1, width // 8 + 1), generator=torch.manual_seed(height))
    return F.interpolate(pixels.float(), scale_factor=8)[..., :height, :width].round().to(torch.uint8)


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


def enlarged(logits: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("size", [(9, 14), (3, 4), (2, 3)])
def test_classes_are_the_largest_of_the_resized_logits(size: tuple[int, int]) -> None:
    logits = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype(np.float32)
    got = predict_classes(Fixed(torch.from_numpy(logits)), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), size)
    expected = np.array([[bilinear(plane, *size) for plane in image] for image in logits]).argmax(axis=1)
    assert got.dtype == torch.int64
    np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("count", [3, 16, 19, 150])
def test_maps_enlarged_in_parts_are_the_same_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format, count: int
) -> None:
    logits = torch.randn(3, count, 25, 37, generator=torch.manual_seed(0)).contiguous(memory_format=layout)
    logits[:, 1] = logits[:, -1]  # of equal classes the first is taken
    model, images = Fixed(logits), torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    whole = enlarged(logits, 101, 149).argmax(1)
    assert torch.equal(predict_classes(model, images, (101, 149)), whole)
    for values in (1, 20 * 101 * 149, 200 * 101 * 149):
        monkeypatch.setattr(inference, "VALUES", values)
        assert torch.equal(predict_classes(model, images, (101, 149)), whole)


def test_a_map_of_many_classes_is_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest(TorchDispatchMode):
        values = 0

        def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = call(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                self.values = max(self.values, result.numel())
            return result

    monkeypatch.setattr(inference, "VALUES", 2**20)
    model = Fixed(torch.randn(1, 150, 32, 64, generator=torch.manual_seed(0)))
    with Largest() as largest:
        predict_classes(model, torch.zeros(1, 3, 8, 8, dtype=torch.uint8), (256, 512))
    assert largest.values <= 31 * 256 * 512 < 150 * 256 * 512 / 4


@pytest.mark.parametrize(
    ("size", "crop", "stride"),
    [
        ((70, 90), (32, 48), None),  # neither side is reached in whole strides
        ((64, 96), (32, 48), (32, 48)),  # no overlap
        ((40, 150), (48, 64), (1 + 48 // 2, 50)),  # lower than the window, and wider
        ((33, 40), (48, 64), None),  # smaller
    ],
)
def test_windows_against_each_pixels_own_mean(
    net: Segmentor, size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int] | None
) -> None:
    images = noise(2, *size)
    got = predict_logits(net, images, Eval(mode="slide", crop=crop, stride=stride))
    down, right = stride or ((21, 32) if crop == (32, 48) else (32, 43))
    frame = [max(a, b) for a, b in zip(size, crop, strict=True)]
    canvas = torch.tensor([124, 116, 104], dtype=torch.uint8).view(1, 3, 1, 1).repeat(2, 1, *frame)
    canvas[:, :, : size[0], : size[1]] = images

    def corners(side: int, window: int, step: int) -> list[int]:
        found, at = [], 0
        while at + window < side:
            found.append(at)
            at += step
        return [*found, side - window]

    total, times = np.zeros((2, 4, *frame)), np.zeros(frame)
    for top, left in product(corners(frame[0], crop[0], down), corners(frame[1], crop[1], right)):
        window = canvas[:, :, top : top + crop[0], left : left + crop[1]]
        total[:, :, top : top + crop[0], left : left + crop[1]] += enlarged(net(window), *crop).numpy()
        times[top : top + crop[0], left : left + crop[1]] += 1
    assert times.min() >= 1
    np.testing.assert_allclose(got.numpy(), (total / times)[..., : size[0], : size[1]], rtol=0, atol=2e-4)


def test_one_window_of_the_images_size_is_the_whole_image(net: Segmentor) -> None:
    images = noise(2, 64, 96)
    slide = predict_logits(net, images, Eval(mode="slide", crop=(64, 96)))
    assert torch.equal(slide, predict_logits(net, images))
    assert torch.equal(slide, enlarged(net(images), 64, 96))


@pytest.mark.parametrize("windows", [{}, {"mode": "slide", "crop": (48, 64), "stride": (24, 32)}])
def test_flips_and_scales_average_probabilities(
    net: Segmentor, windows: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = noise(3, 64, 96)
    total = np.zeros((3, 4, 64, 96))
    for (height, width), flip in product([(64, 96), (32, 48), (112, 168)], [False, True]):
        seen = F.interpolate(images.float(), (height, width), mode="bilinear", antialias=True)
        seen = torch.from_numpy(seen.numpy()[..., ::-1].copy()) if flip else seen
        logits = predict_logits(net, seen, Eval(**windows)) if windows else net(seen)
        probabilities = enlarged(logits, 64, 96).softmax(1).numpy()
        total += probabilities[..., ::-1] if flip else probabilities
    evaluation = Eval(**windows, flip=True, scales=(1.0, 0.5, 1.75))
    got = predict_logits(net, images, evaluation)
    np.testing.assert_allclose(got.numpy(), total / 6, rtol=0, atol=1e-5)
    found = predict_classes(net, images, (70, 80), evaluation)
    assert torch.equal(found, enlarged(got, 70, 80).argmax(1))
    monkeypatch.setattr(inference, "VALUES", 4 * 64 * 96)
    monkeypatch.setattr(inference, "PIXELS", 2 * 48 * 64)
    in_parts = predict_logits(net, images, evaluation)
    torch.testing.assert_close(in_parts, got, rtol=0, atol=1e-5)
    assert (predict_classes(net, images, (70, 80), evaluation) == found).float().mean() > 0.999


def test_a_size_that_a_network_cannot_take_is_said_in_one_sentence() -> None:
    class Even(Segmentor):
        """A network for sizes that are multiples of 64."""

        def forward(self, images: Tensor, return_features: bool = False) -> Any:
            if images.shape[-1] % 64:
                raise RuntimeError("must be a multiple of 64\nand more")
            return super().forward(images, return_features)

    model = Even("mobilenetv3_small_050", 3, channels=8).eval()
    with pytest.raises(DataError) as e:
        predict_classes(model, noise(1, 64, 72), (64, 72))
    assert str(e.value).startswith("the network cannot read an image of 64x72 pixels (must be a multiple of 64): ")
    assert str(e.value).endswith("or set data.eval.mode to slide with such a data.eval.crop")
    assert "\n" not in str(e.value)
    # Windows of a size that it takes.
    assert predict_classes(model, noise(1, 64, 72), (64, 72), Eval(mode="slide", crop=(64, 64))).shape == (1, 64, 72)


def test_too_little_memory_is_no_fault_of_the_size() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(1, 3, 1, 1))

        def forward(self, images: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        predict_classes(Large(), noise(1, 32, 32), (32, 32))


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
    how, size = run.data.evaluation, (32, 48)
    image, _ = next(store.val_samples())
    shown = classes(model, image, size, how)
    written = classify(model, image.permute(1, 2, 0).numpy(), run.data)
    measured = evaluate(model, store, torch.device("cpu"), how).accuracy
    assert set(seen) == {torch.bfloat16}
    np.testing.assert_array_equal(shown.numpy(), written)
    labels = np.stack([label.numpy() for _, label in store.val_samples()])
    guesses = np.stack([classes(model, img, size, how).numpy() for img, _ in store.val_samples()])
    assert measured == pytest.approx((guesses == labels)[labels != 255].mean())
