"""Transforms: image and label move together, pixel for pixel, and a seed fixes everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bpkd_search.data.geometry import Sides, offset
from bpkd_search.data.transforms import PADDING_COLOUR, EvalTransform, TrainTransform, crop, resize
from bpkd_search.errors import DataError


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """Return a label of small ids and an image whose three channels repeat it."""
    label = torch.randint(0, 5, (24, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return label.expand(3, -1, -1).contiguous(), label


def still(**changes: object) -> TrainTransform:
    """Return a transform that changes nothing but what is asked for."""
    return TrainTransform(**({"height": 24, "width": 32, "scale": (1, 1), "flip": 0, "colour_jitter": 0} | changes))


def test_flip_of_image_is_flip_of_label(pair: tuple[Tensor, Tensor]) -> None:
    image, label = still(flip=1)(*pair, seed=3)
    assert torch.equal(label, pair[1].flip(1))
    assert torch.equal(image, pair[0].flip(2))


def test_flips_come_at_their_probability(pair: tuple[Tensor, Tensor]) -> None:
    flipped = [torch.equal(still(flip=0.3)(*pair, seed=s)[1], pair[1].flip(1)) for s in range(1000)]
    assert abs(np.mean(flipped) - 0.3) < 0.05  # 3.5 standard deviations


def test_scale_one_is_the_evaluation_resize() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, 50, 71), generator=generator, dtype=torch.uint8)
    label = torch.randint(0, 9, (50, 71), generator=generator, dtype=torch.uint8)
    for ours, theirs in zip(
        still(resize=(24, 32))(image, label, seed=5), EvalTransform((24, 32), "resized")(image, label), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_label_takes_the_pixel_under_each_centre() -> None:
    label = torch.arange(35 * 7, dtype=torch.uint8).reshape(35, 7)
    _, small = resize(label.expand(3, -1, -1), label, 10, 5)
    for row in range(10):
        for column in range(5):
            assert small[row, column] == label[int((row + 0.5) * 3.5), int((column + 0.5) * 1.4)]


def test_resized_edges_of_image_and_label_stay_together() -> None:
    """A step edge in the image and in the label lies in the same place after shrinking by 4."""
    for column in (29, 31, 32):
        label = torch.zeros(64, 64, dtype=torch.uint8)
        label[:, column:] = 1
        image, small = resize(200 * label.expand(3, -1, -1), label, 16, 16)
        assert torch.equal(small, (image[0] > 100).to(torch.uint8))


@pytest.mark.parametrize(("height", "width"), [(8, 10), (30, 40), (8, 40), (24, 32)])
def test_crops_reach_every_position_and_pads_with_ignore(pair: tuple[Tensor, Tensor], height: int, width: int) -> None:
    image, label = pair
    canvas = np.full((24 + 2 * 6, 32 + 2 * 8), 255, dtype=np.uint8)
    canvas[6:30, 8:40] = label.numpy()
    rows, columns = set(), set()
    for step in range(60):
        position = step / 60
        _, cut = crop(image, label, offset(24, height, position), offset(32, width, position), height, width)
        found = [
            (r, c)
            for r in range(37 - height)
            for c in range(49 - width)
            if np.array_equal(canvas[r : r + height, c : c + width], cut.numpy())
        ]
        assert len(found) == 1
        rows.add(found[0][0])
        columns.add(found[0][1])
    assert len(rows) == abs(24 - height) + 1
    assert len(columns) == abs(32 - width) + 1


def test_padding_is_ignored_and_of_mean_colour(pair: tuple[Tensor, Tensor]) -> None:
    image, label = still(scale=(0.5, 0.5))(*pair, seed=0)
    padded = label == 255
    assert int(padded.sum()) == 24 * 32 - 12 * 16
    for channel, colour in enumerate(PADDING_COLOUR):
        assert bool((image[channel][padded] == colour).all())
        assert not bool((image[channel][~padded] == colour).any())


def test_crops_of_an_enlarged_image_match_its_label() -> None:
    """Blocks of one id, enlarged: the image (ten times the id) equals the label away from block edges."""
    label = torch.arange(12, dtype=torch.uint8).reshape(3, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)
    for seed in range(20):
        image, view = still(scale=(1.5, 2.0), flip=0.5)(10 * label.expand(3, -1, -1), label, seed=seed)
        agree = (image[0].float() / 10 - view.float()).abs() < 0.05
        assert agree.float().mean() > 0.7
        assert set(view.unique().tolist()) <= set(range(12))


def test_seed_fixes_the_view_and_leaves_the_global_generator_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(0, 256, (3, 40, 60), generator=generator, dtype=torch.uint8)
    label = torch.randint(0, 9, (40, 60), generator=generator, dtype=torch.uint8)
    transform = TrainTransform(24, 32)
    before = torch.get_rng_state()
    views = [transform(image, label, seed=seed) for seed in (0, 1, 2**40, 0, 1, 2**40)]
    assert torch.equal(torch.get_rng_state(), before)
    for first, again in zip(views[:3], views[3:], strict=True):
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
    assert not torch.equal(views[0][0], views[1][0])
    assert not torch.equal(views[0][0], views[2][0])


def test_jitter_changes_colours_within_its_strength_and_no_labels() -> None:
    image = torch.full((3, 24, 32), 100, dtype=torch.uint8)  # contrast and saturation leave plain grey alone
    label = torch.ones(24, 32, dtype=torch.uint8)
    values = []
    for seed in range(200):
        view, same = still(colour_jitter=0.4)(image, label, seed=seed)
        assert torch.equal(same, label)
        values.append(int(view[0, 0, 0]))
    assert 59 <= min(values) < 65
    assert 135 < max(values) <= 141


def test_identity_follows_the_parameters() -> None:
    base = TrainTransform(24, 32)
    assert base.identity() == TrainTransform(24, 32).identity()
    others = [
        TrainTransform(32, 24),
        TrainTransform(24, 32, scale=(1, 1)),
        TrainTransform(24, 32, flip=0),
        TrainTransform(24, 32, colour_jitter=0),
        TrainTransform(24, 32, resize=(24, 32)),
        TrainTransform(24, 32, hue=0.1),
        TrainTransform(24, 32, cat_max_ratio=0.75),
        TrainTransform(24, 32, steps=7),
        TrainTransform(24, 32, grid=4),
        EvalTransform((24, 32)),
        EvalTransform(),
        EvalTransform(Sides(short=24)),
    ]
    assert len({t.identity() for t in (base, *others)}) == len(others) + 1


def test_identity_of_squeezed_images_is_what_it_was() -> None:
    """The hashes of the version in which images were squeezed to the crop, so that its stores are found."""
    assert TrainTransform(24, 32, (0.75, 1.5), 0.5, 0.2, resize=(24, 32)).identity() == "acf828879c72c567"
    assert EvalTransform((24, 32), "resized").identity() == "52b092e067bf5f4f"


@pytest.mark.parametrize(
    "change",
    [{"height": 0}, {"scale": (2, 1)}, {"flip": 1.5}, {"colour_jitter": -0.1}, {"hue": 1}, {"cat_max_ratio": 0}],
)
def test_values_out_of_range(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match=f"{'size' if 'height' in change else next(iter(change))}: got .*must be"):
        still(**change)
