"""Fresh crops and the slices of a teacher's maps: what lands where, pixel for pixel, and what the disk holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bpkd_search.data import EvalTransform, TrainTransform
from bpkd_search.data.geometry import Sides, Window
from bpkd_search.data.transforms import PADDING_COLOUR, read_label_window, read_window, resize
from bpkd_search.data.views import ViewRecipe, ViewStore, build_maps, build_views
from bpkd_search.data.views.catalog import list_stores, verify_store
from bpkd_search.data.views.copies import Contents, copy_store, read_chunk
from bpkd_search.errors import ConfigError, DataError

CLASSES = 5
# Of differing sizes, none of them a multiple of anything.
SIZES = [(50, 71), (33, 90), (64, 64), (41, 47), (70, 52), (38, 38)]


class Patterns:
    """Random blocks of 5 classes in images whose three channels encode the class."""

    class_names = tuple("abcde")
    palette = ((0, 0, 0),) * CLASSES
    ignore_index = 255

    def __init__(self, sizes: list[tuple[int, int]], block: int = 4) -> None:
        self.sizes, self.block, self.names = sizes, block, [str(i) for i in range(len(sizes))]

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        height, width = self.sizes[index]
        blocks = torch.randint(0, CLASSES, (40, 40), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
        label = blocks.repeat_interleave(self.block, 0).repeat_interleave(self.block, 1)[:height, :width].contiguous()
        return torch.stack([40 * label, 255 - 40 * label, label]), label

    def identity(self, cache: Path | None = None) -> str:
        return f"patterns {self.sizes} {self.block}"


def recipe(**changes: object) -> ViewRecipe:
    options = {"scale": (1.0, 2.0), "colour_jitter": 0.0, "steps": 2, "grid": 4} | changes
    return ViewRecipe(Patterns(SIZES), Patterns(SIZES[:3]), TrainTransform(32, 48, **options), EvalTransform(), 0)


def mean_colour(images: Tensor) -> Tensor:
    """A teacher without surroundings: its logits are the mean colours of cells of 4x4, and a constant."""
    cells = F.avg_pool2d(images.float(), 4)
    return torch.cat([cells, cells.mean(1, keepdim=True), torch.ones_like(cells[:, :1])], 1)


def crops(store: ViewStore, epoch: int) -> tuple[Tensor, Tensor, list[Window], Tensor]:
    indices = np.arange(store.num_images)
    images, labels, cut = store.crops.cut(epoch, indices)
    logits = store.logits.decode(store.logits.gather(store.manifest.train_sizes, indices, cut))
    return images, labels, cut, logits


@pytest.mark.parametrize("scale", [(1.0, 2.0), (0.5, 1.0), (1.0, 1.0)])
def test_logits_land_on_their_pixels_after_scale_crop_padding_and_flip(
    tmp_path: Path, scale: tuple[float, float]
) -> None:
    store = build_maps(build_views(recipe(scale=scale), tmp_path), mean_colour, "key")
    seen = set()
    for epoch in range(12):
        images, labels, cut, logits = crops(store, epoch)
        expected = mean_colour(images).half()
        # Cells that hold a pixel of the image; those in the padding alone have no label, and no logits.
        inside = F.max_pool2d((labels != 255).float(), 4).bool()
        assert inside.any()
        for place, window in enumerate(cut):
            assert torch.equal(logits[place][:, inside[place]], expected[place][:, inside[place]])
            seen.add((window.step, window.flip, window.top > 0, window.left > 0))
        assert torch.equal(labels[:, ::4, ::4] != 255, inside)
    assert len(seen) >= (8 if scale == (1.0, 2.0) else 4)


def test_logits_of_every_pixel_land_on_theirs_in_images_smaller_than_the_crop(tmp_path: Path) -> None:
    def colours(images: Tensor) -> Tensor:
        return torch.cat([images.float(), images.float().mean(1, keepdim=True), torch.ones_like(images[:, :1])], 1)

    store, before = build_maps(build_views(recipe(scale=(1.0, 1.0), grid=1), tmp_path), colours, "key"), False
    for epoch in range(6):
        images, labels, cut, logits = crops(store, epoch)
        inside, expected = labels != 255, colours(images).half()
        for place, window in enumerate(cut):
            assert torch.equal(logits[place][:, inside[place]], expected[place][:, inside[place]])
            before |= window.left < 0
    assert before


def test_image_and_label_are_cut_alike_and_padding_is_ignored(tmp_path: Path) -> None:
    store = build_views(recipe(scale=(1.0, 1.0), grid=1, steps=None), tmp_path)
    for epoch in range(5):
        images, labels, _ = store.crops.cut(epoch, np.arange(len(SIZES)))
        void = labels == 255
        assert torch.equal(images[:, 2][~void], labels[~void])
        for channel, colour in enumerate(PADDING_COLOUR):
            assert (images[:, channel][void] == colour).all()
    assert void.any()


def test_a_window_is_the_crop_of_the_whole_scaled_image() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 130, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(image).resize((65, 45)).resize((130, 90)))
    label = rng.integers(0, 9, (90, 130), dtype=np.uint8)
    for _ in range(60):
        scaled = tuple(int(x) for x in rng.integers(40, 220, 2))
        whole = np.asarray(Image.fromarray(image).resize(scaled[::-1], Image.Resampling.BILINEAR))
        exact = resize(torch.from_numpy(image.copy()).permute(2, 0, 1), torch.from_numpy(label), *scaled)[1].numpy()
        flip = bool(rng.integers(2))
        if flip:
            whole, exact = whole[:, ::-1], exact[:, ::-1]
        top, left = int(rng.integers(0, scaled[0] - 16)), int(rng.integers(0, scaled[1] - 24))
        window = Window(scaled, flip, top, left, 16, 24)
        part = read_window(image, window).astype(int)
        # Up to rounding: Pillow computes in whole numbers, twice.
        assert np.abs(part - whole[top : top + 16, left : left + 24]).max() <= 3
        assert np.abs(part - whole[top : top + 16, left : left + 24]).mean() < 0.5
        assert np.array_equal(read_label_window(label, window), exact[top : top + 16, left : left + 24])


def test_an_image_keeps_its_aspect_ratio_and_its_resolution(tmp_path: Path) -> None:
    plan = recipe(scale=(0.5, 1.0), steps=None, grid=1, resize=Sides(short=64))
    store = build_views(dataclasses.replace(plan, eval_transform=EvalTransform(Sides(short=64))), tmp_path)
    for epoch in range(4):
        for (height, width), window in zip(SIZES, store.crops.cut(epoch, np.arange(len(SIZES)))[2], strict=True):
            ratio = window.scaled[1] / window.scaled[0]
            assert ratio == pytest.approx(width / height, rel=0.04)
            assert 31 <= min(window.scaled) <= 64
    for (image, label), size in zip(store.val_samples(), SIZES, strict=False):
        assert label.shape == size
        assert min(image.shape[1:]) == 64
    # Whole images are kept at their own size unless the largest scale is smaller.
    small = build_views(recipe(scale=(0.5, 0.8), steps=None, grid=1, resize=(32, 48)), tmp_path / "b")
    assert small.crops._records.images == (*((26, 38),) * 5, (38, 38))
    assert store.crops._records.images == tuple(SIZES)


def test_every_epoch_has_new_crops_and_equal_seeds_the_same(tmp_path: Path) -> None:
    store = build_maps(build_views(recipe(), tmp_path), mean_colour, "key")
    again = ViewStore(store.path, store.logits.path)
    epochs = []
    for epoch in range(4):
        batches, other = list(store.epoch(epoch, 2, 5)), list(again.epoch(epoch, 2, 5))
        assert [len(images) for images, _, _ in batches] == [2, 2, 2]
        for a, b in zip(batches, other, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        epochs.append(torch.cat([images for images, _, _ in batches]))
        tail = list(store.epoch(epoch, 2, 5, start=2))
        assert len(tail) == 1
        assert torch.equal(tail[0][0], batches[2][0])
    assert not any(torch.equal(a, b) for i, a in enumerate(epochs) for b in epochs[:i])
    # The order is the trial's, the crops are the data's: another order has the same crops.
    other = torch.cat([images for images, _, _ in store.epoch(0, 2, 6)])
    assert sorted(image.sum().item() for image in other) == sorted(image.sum().item() for image in epochs[0])


@pytest.mark.parametrize("codec", ["int8", "topk:2"])
def test_smaller_formats_are_sliced_too(tmp_path: Path, codec: str) -> None:
    store = build_views(recipe(), tmp_path)
    exact, small = build_maps(store, mean_colour, "a"), build_maps(store, mean_colour, "b", codec=codec)
    for epoch in range(3):
        _, labels, _, expected = crops(exact, epoch)
        logits = crops(small, epoch)[3]
        valid = (labels != 255)[:, ::4, ::4]
        assert logits.shape == expected.shape
        if codec == "int8":
            error = (logits - expected).abs().permute(0, 2, 3, 1)[valid]
            assert error.max() <= 255 / 255 / 2 + 0.2
        best = expected.topk(2, 1)
        torch.testing.assert_close(
            logits.gather(1, best.indices).permute(0, 2, 3, 1)[valid],
            best.values.permute(0, 2, 3, 1)[valid],
            atol=0.8 if codec == "int8" else 0,
            rtol=0,
        )


def test_a_crop_that_one_class_fills_is_drawn_again(tmp_path: Path) -> None:
    class Halves(Patterns):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            label = torch.zeros(200, 200, dtype=torch.uint8)
            label[:, 150:] = 1
            return label.expand(3, -1, -1).contiguous(), label

    def filled(ratio: float) -> int:
        plan = recipe(scale=(1.0, 1.0), flip=0.0, cat_max_ratio=ratio)
        store = build_views(dataclasses.replace(plan, train=Halves([(200, 200)])), tmp_path)
        labels = [store.crops.cut(epoch, [0])[1] for epoch in range(60)]
        return sum(len(label.unique()) == 1 for label in labels)

    assert filled(1.0) > 30
    assert filled(0.9) < 15


def test_copies_checks_and_prunes_see_maps_as_they_see_views(tmp_path: Path) -> None:
    store = build_maps(build_views(recipe(), tmp_path / "a"), mean_colour, "key", about={"teacher": "t"})
    parts = ("whole", "validation", "logits-key")
    contents = Contents.of(store.path, parts)
    copy_store(contents, tmp_path / "b", lambda part, chunk: read_chunk(store.path / part, chunk))
    copied = ViewStore(contents.path(tmp_path / "b"), contents.path(tmp_path / "b") / "logits-key")
    for a, b in zip(store.epoch(1, 2, 0), copied.epoch(1, 2, 0), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    (entry,) = list_stores(tmp_path / "a")
    assert entry.finished
    assert "6 images whole, 32x48" in entry.line()
    flat = store.path / "logits-key" / "records.npy"
    data = bytearray(flat.read_bytes())
    data[-100] ^= 255
    flat.write_bytes(data)
    lines: list[str] = []
    assert verify_store(store.path, lines.append) == 1
    assert "logits-key: damaged chunks: 0" in lines[0]
    with pytest.raises(DataError, match="lacks 1 chunks"):
        ViewStore(store.path, store.logits.path)
    mended = build_maps(ViewStore(store.path), mean_colour, "key")
    for a, b in zip(mended.epoch(1, 2, 0), copied.epoch(1, 2, 0), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_crop_larger_than_every_image_is_refused(tmp_path: Path) -> None:
    plan = dataclasses.replace(recipe(), train_transform=TrainTransform(160, 48, (0.5, 2.0)))
    with pytest.raises(ConfigError, match=r"data.crop: got 160x48, no training image is that large: .* is 128x128"):
        build_views(plan, tmp_path)
