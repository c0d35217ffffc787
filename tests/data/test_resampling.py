"""Crops that are scaled, flipped and coloured on the device: those of the CPU, from the same draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bpkd_search.data.geometry import Window
from bpkd_search.data.resampling import batch_of
from bpkd_search.data.transforms import PADDING_COLOUR, read_window, source_of
from bpkd_search.data.views import ViewStore, build_maps, build_views
from tests.data.test_maps import SIZES, mean_colour, recipe

CPU, GPU, META = torch.device("cpu"), torch.device("cuda", 0), torch.device("meta")


def windows(rng: np.random.Generator, count: int) -> list[tuple[np.ndarray, Window]]:
    """Noisy images with windows of 48x64: larger and smaller ones, some beyond the border, half of them flipped."""
    drawn = []
    for _ in range(count):
        height, width = (int(x) for x in rng.integers(30, 200, 2))
        factor = rng.uniform(0.4, 2.2) if rng.random() < 0.8 else 1.0
        scaled = max(1, round(height * factor)), max(1, round(width * factor))
        top, left = (int(rng.integers(-20, max(1, side - 30))) for side in scaled)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        drawn.append((image, Window(scaled, bool(rng.random() < 0.5), top, left, 48, 64)))
    return drawn


def resampled(drawn: list[tuple[np.ndarray, Window]], device: torch.device = CPU) -> torch.Tensor:
    sources = [source_of(image, window) for image, window in drawn]
    return batch_of(sources, [window.flip for _, window in drawn], 48, 64).on(device).resampled().cpu()


def test_windows_are_pillows_up_to_the_rounding_between_its_passes() -> None:
    rng, same = np.random.default_rng(0), []
    for _ in range(20):
        drawn = windows(rng, 5)
        expected = torch.from_numpy(np.stack([read_window(*each) for each in drawn])).permute(0, 3, 1, 2)
        difference = (resampled(drawn).int() - expected.int()).abs()
        assert difference.max() <= 1
        same += [not bool(each.any()) for each in difference]
    assert np.mean(same) > 0.8


@pytest.mark.parametrize(("size", "scaled"), [((60, 80), (60, 40)), ((60, 80), (90, 80)), ((60, 80), (60, 80))])
def test_they_are_crops_of_the_whole_scaled_image(size: tuple[int, int], scaled: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    whole = np.asarray(Image.fromarray(image).resize(scaled[::-1], Image.Resampling.BILINEAR))
    top, left = scaled[0] - 50, scaled[1] - 50
    found = resampled([(image, Window(scaled, False, top, left, 48, 64))])[0].permute(1, 2, 0).numpy()
    inside = whole[top : top + 48, max(0, left) : left + 64]
    start = max(0, -left)
    # The box of a crop is in single precision: a weight may be off by a rounding.
    assert np.abs(found[:, start : start + inside.shape[1]].astype(int) - inside).max() <= (size != scaled)
    outside = np.delete(found, np.s_[start : start + inside.shape[1]], axis=1)
    assert (outside == np.array(PADDING_COLOUR, np.uint8)).all()


@pytest.fixture
def store(tmp_path: Path) -> ViewStore:
    return build_maps(build_views(recipe(colour_jitter=0.3, hue=0.1), tmp_path), mean_colour, "key")


def test_an_epochs_crops_on_a_device_have_the_draws_of_the_cpu(store: ViewStore) -> None:
    indices = np.arange(len(SIZES))
    for epoch in range(4):
        images, labels, *maps = store.crops.gather(epoch, indices, True)
        found, found_labels, *found_maps = store.crops.on_device(epoch, indices, True, CPU)()  # type: ignore[attr-defined]
        assert torch.equal(found_labels, labels)
        assert len(maps) > 0 and all(torch.equal(a, b) for a, b in zip(found_maps, maps, strict=True))
        # A level before the colours is two after them at most; other colours would be tens of levels away.
        assert (found.int() - images.int()).abs().max() <= 4
        other = store.crops.gather(epoch + 1, indices, True)[0]
        assert (other.int() - images.int()).abs().max() > 100


def test_nothing_waits_for_the_device(store: ViewStore) -> None:
    # The meta device has no values: reading one raises.
    batches = list(store.epoch(0, 3, 0, device=META))
    assert len(batches) == len(SIZES) // 3
    for images, labels, logits in batches:
        assert images.shape == (3, 3, 32, 48) and images.dtype == torch.uint8
        assert logits is not None and {part.device for part in (images, labels, logits)} == {META}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_bits_of_the_cpu(store: ViewStore) -> None:
    drawn = windows(np.random.default_rng(2), 40)
    assert torch.equal(resampled(drawn, GPU), resampled(drawn))
    indices = np.arange(len(SIZES))
    on_cpu = store.crops.on_device(0, indices, True, CPU)()  # type: ignore[attr-defined]
    on_gpu = [part.cpu() for part in store.crops.on_device(0, indices, True, GPU)()]  # type: ignore[attr-defined]
    # The mean grey of a contrast is summed in another order.
    assert (on_gpu[0].int() - on_cpu[0].int()).abs().max() <= 2
    assert all(torch.equal(a, b) for a, b in zip(on_gpu[1:], on_cpu[1:], strict=True))
