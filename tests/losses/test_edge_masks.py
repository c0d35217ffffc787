"""Edge masks against binary morphology per class, computed one class and one window at a time by scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn import functional as F

from bpkd_search.losses import edge_band, edge_masks, valid_fraction
from bpkd_search.losses.pooling import pool_bits


def _oracle(labels: torch.Tensor, num_classes: int, width: int, ignore_index: int) -> torch.Tensor:
    masks = np.zeros((labels.shape[0], num_classes, *labels.shape[1:]), dtype=np.float64)
    window = {"size": (width, width), "mode": "nearest"}
    for b, image in enumerate(labels.numpy()):
        clear = ndimage.maximum_filter((image == ignore_index).astype(np.uint8), **window) == 0
        for c in range(num_classes):
            one = ((image == c) & (image != ignore_index)).astype(np.uint8)
            edge = ndimage.grey_dilation(one, **window) - ndimage.grey_erosion(one, **window)
            masks[b, c] = edge * clear
    return torch.from_numpy(masks)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[torch.Tensor, int, int, int, tuple[int, int] | None]:
    num_classes = draw(st.one_of(st.integers(1, 8), st.sampled_from([8, 9, 16, 17, 63, 200, 253])))
    height, columns = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Blocks of random size: from noise to an image of one class.
    block = draw(st.integers(1, 24))
    small = generator.integers(0, num_classes, (draw(st.integers(1, 2)), 24 // block + 1, 24 // block + 1))
    labels = np.kron(small, np.ones((1, block, block), dtype=np.int64))[:, :height, :columns]
    ignore_index = draw(st.sampled_from([255, -1, 0, num_classes]))
    void = draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
    labels = np.where(generator.random(labels.shape) < void, ignore_index, labels)
    dtype = draw(st.sampled_from([torch.uint8, torch.int64, torch.int32] if ignore_index >= 0 else [torch.int64]))
    size = draw(st.none() | st.tuples(st.integers(1, 26), st.integers(1, 26)))
    width = 2 * draw(st.one_of(st.integers(0, 7), st.integers(8, 31))) + 1
    return torch.from_numpy(labels).to(dtype), num_classes, width, ignore_index, size


@settings(max_examples=150, deadline=None)
@given(_cases())
def test_masks_equal_dilation_minus_erosion(
    case: tuple[torch.Tensor, int, int, int, tuple[int, int] | None],
) -> None:
    labels, num_classes, width, ignore_index, size = case
    exact = _oracle(labels, num_classes, width, ignore_index)
    masks = edge_masks(labels, num_classes, width, size, ignore_index)
    valid = valid_fraction(labels, size, ignore_index)
    expected_valid = (labels != ignore_index).unsqueeze(1).double()
    assert torch.equal(edge_band(labels, width, ignore_index), exact.amax(1) > 0)
    if size is None:
        assert torch.equal(masks.double(), exact)
        assert torch.equal(valid.double(), expected_valid)
    else:
        torch.testing.assert_close(masks.double(), F.adaptive_avg_pool2d(exact, size), rtol=0, atol=1e-6)
        torch.testing.assert_close(valid.double(), F.adaptive_avg_pool2d(expected_valid, size), rtol=0, atol=1e-6)


def test_stride_8_of_a_large_image_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 19, (2, 16, 16), generator=generator)
    labels = coarse.repeat_interleave(12, 1).repeat_interleave(20, 2).to(torch.uint8)
    labels[:, 40:60, 100:140] = 255
    expected = F.adaptive_avg_pool2d(_oracle(labels, 19, 7, 255), (24, 40))
    assert torch.equal(edge_masks(labels, 19, 7, (24, 40)).double(), expected)


@pytest.mark.parametrize("shape", [(30, 16), (32, 16), (34, 37), (600, 16), (603, 5), (4, 600)])
def test_pooling_of_full_and_of_random_words_at_every_cell_size(shape: tuple[int, int]) -> None:
    """Cells below 16, 16 to 255 and above 255 rows, 8 columns and others; all bits set is the highest count."""
    words = torch.randint(0, 256, (2, *shape), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    words[1] = 255
    bits = torch.stack([words >> bit & 1 for bit in range(8)], 1).double()
    expected = F.adaptive_avg_pool2d(bits, 2)
    torch.testing.assert_close(pool_bits(words.unsqueeze(1), 8, (2, 2)).double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(pool_bits(words.unsqueeze(1), 3, (2, 2)).double(), expected[:, :3], rtol=0, atol=1e-6)


def test_permuting_classes_permutes_masks() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 40, (1, 6, 6), generator=generator).repeat_interleave(5, 1)
    order = torch.randperm(40, generator=generator)
    assert torch.equal(edge_masks(order[labels], 40, 5)[:, order], edge_masks(labels, 40, 5))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("strange", [19, 200, 254])
def test_an_id_that_is_no_class_is_an_error(dtype: torch.dtype, strange: int) -> None:
    labels = torch.full((2, 4, 4), 255, dtype=dtype)
    labels[1, 2, 3] = strange
    with pytest.raises(ValueError, match=rf"\[{strange}\].*0 to 18, or 255"):
        edge_masks(labels, 19, 3)


def test_bad_arguments_are_errors() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="width: got 6"):
        edge_masks(labels, 3, 6)
    with pytest.raises(ValueError, match="num_classes: got 254"):
        edge_masks(labels, 254, 3)
    with pytest.raises(ValueError, match=r"shape \(4, 4\)"):
        edge_band(labels[0], 3)
