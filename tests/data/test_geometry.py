"""Sizes and windows, against what is drawn on paper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpkd_search.data.geometry import Sides, base_size, offset, padded_size, scale_steps, scaled_size, windows


@pytest.mark.parametrize(
    ("resize", "size", "expected"),
    [
        (None, (360, 480), (360, 480)),
        ((64, 96), (360, 480), (64, 96)),
        (Sides(short=120), (360, 480), (120, 160)),
        (Sides(short=120), (480, 360), (160, 120)),
        (Sides(long=240), (360, 480), (180, 240)),
        # ADE20K in mmsegmentation: short side 512, long side 2048 at most.
        (Sides(short=512, long=2048), (683, 1024), (512, 768)),
        (Sides(short=512, long=2048), (256, 2000), (262, 2048)),
    ],
)
def test_size_at_scale_one(resize: object, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert base_size(size, resize) == expected


def test_sides_need_one_length() -> None:
    with pytest.raises(ValueError, match="must give short, long or both"):
        Sides()


def test_scales_are_even_and_padding_goes_up() -> None:
    assert scale_steps(0.5, 2.0, 7) == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    assert scale_steps(0.5, 2.0, 1) == (1.25,)
    assert scale_steps(1.0, 1.0, 7) == (1.0,)
    assert scaled_size((360, 480), 0.75) == (270, 360)
    assert scaled_size((1, 3), 0.1) == (1, 1)
    assert padded_size((96, 97)) == (96, 128)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 4, 8]))
def test_every_offset_is_drawn_and_the_crop_covers_both_ends(length: int, crop: int, grid: int) -> None:
    starts = {offset(length, crop, position, grid) for position in np.linspace(0, 1, 4000, endpoint=False)}
    if grid == 1 or length <= crop:
        whole = {0} if grid > 1 else set(range(min(0, length - crop), max(0, length - crop) + 1))
        assert starts == (whole if grid > 1 or length >= crop else set(range(length - crop, 1)))
    else:
        assert starts == set(range(0, max(starts) + 1, grid))
        assert length <= max(starts) + crop < length + grid


@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 30), st.integers(1, 30), st.integers(1, 30))
def test_windows_cover_every_pixel_and_stay_inside(height: int, width: int, side: int, other: int, stride: int) -> None:
    crop, covered = (side, other), np.zeros((height, width), int)
    step = (min(stride, side), min(stride, other))
    starts = list(windows((height, width), crop, step))
    assert len(starts) == len(set(starts))
    for top, left in starts:
        assert top == 0 or top + side <= height
        assert left == 0 or left + other <= width
        covered[top : top + side, left : left + other] += 1
    assert covered.min() > 0
