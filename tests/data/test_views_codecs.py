"""How teachers' logits are kept: what each option loses, against loops over single values, and what it needs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bpkd_search.data.views import logits_layout
from bpkd_search.data.views.codecs import open_codec
from bpkd_search.data.views.recipe import image_layout
from bpkd_search.errors import ConfigError


def through(name: str, logits: torch.Tensor) -> torch.Tensor:
    """Encode, lie in the arrays that the layout names, and decode."""
    codec = open_codec(name, logits.shape[1])
    parts = codec.encode(logits)
    rows = codec.rows(tuple(logits.shape[1:]))
    assert {n: (tuple(p.shape[1:]), p.numpy().dtype.str) for n, p in parts.items()} == rows
    return codec.decode(parts)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(3, 7, 4, 5, generator=torch.Generator().manual_seed(0)) * 6


def test_float16_rounds_and_clips(logits: torch.Tensor) -> None:
    logits[0, 0, 0, 0] = 1e9
    out = through("float16", logits)
    assert out[0, 0, 0, 0] == 65504
    assert np.array_equal(out[1:].numpy(), logits[1:].numpy().astype(np.float16))


def test_int8_is_the_nearest_of_256_steps_of_each_class_and_view(logits: torch.Tensor) -> None:
    logits[2, 3] = 1.25  # a class that is the same everywhere
    out = through("int8", logits).double().numpy()
    for view, row in enumerate(logits.double().numpy()):
        for number, values in enumerate(row):
            grid = np.linspace(values.min(), values.max(), 256)
            for value, got in zip(values.ravel(), out[view, number].ravel(), strict=True):
                nearest = grid[np.abs(grid - value).argmin()]
                assert got == pytest.approx(nearest, abs=abs(nearest) * 2**-10 + 1e-4)


def test_topk_keeps_the_largest_and_spreads_the_mass_of_the_rest(logits: torch.Tensor) -> None:
    out = through("topk:3", logits)
    for before, after in zip(
        logits.permute(0, 2, 3, 1).reshape(-1, 7), out.permute(0, 2, 3, 1).reshape(-1, 7), strict=True
    ):
        z, got = before.double().tolist(), after.double().tolist()
        top = sorted(range(7), key=lambda c: -z[c])[:3]
        rest = [c for c in range(7) if c not in top]
        level = math.log(sum(math.exp(z[c]) for c in rest) / 4)
        for c in range(7):
            assert got[c] == pytest.approx(z[c] if c in top else level, rel=2**-10, abs=1e-3)
    exact, kept = logits.softmax(1), out.float().softmax(1)
    index = logits.topk(3, dim=1).indices
    torch.testing.assert_close(kept.gather(1, index), exact.gather(1, index), rtol=2e-2, atol=1e-4)


def test_topk_takes_the_first_of_equal_classes_and_bears_extremes() -> None:
    flat = torch.zeros(1, 5, 1, 2)
    assert torch.equal(through("topk:2", flat), flat.half())
    far = torch.tensor([50000.0, -50000.0, 1e7, 0.0]).reshape(1, 4, 1, 1)
    assert torch.isfinite(through("topk:1", far)).all()


@pytest.mark.parametrize("name", ["topk", "topk:0", "topk:7", "topk:x", "int8:3", "float32"])
def test_an_unknown_option_names_the_valid_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.logits: got .*topk:K"):
        open_codec(name, 7)


def test_layouts_count_the_bytes_that_the_formulas_in_the_text_say() -> None:
    shape, views = (150, 64, 64), 10
    assert logits_layout("float16", shape, views).bytes == views * 64 * 64 * 2 * 150
    assert logits_layout("int8", shape, views).bytes == views * (64 * 64 * 150 + 8 * 150)
    assert logits_layout("topk:16", shape, views).bytes == views * 64 * 64 * (3 * 16 + 2)


def test_ade20k_in_eight_views_fits_in_100_gb() -> None:
    # 20,210 training and 2,000 validation images at 512x512, 150 classes at stride 8.
    views, shape = 20_210 * 8, (150, 64, 64)
    val = image_layout(2_000, 512, 512).bytes
    stored = val + image_layout(20_210, 512, 512, views=8).bytes
    sizes = {name: logits_layout(name, shape, views).bytes for name in ("float16", "int8", "topk:16")}
    assert stored > 171e9  # the crops alone are too large, hence `data.images: computed`
    assert val + sizes["topk:16"] < 36e9
    # The set itself, JPEG and PNG files that are read for every view, is below 1 GB.
    assert val + sizes["topk:16"] + 1e9 < 100e9
    assert sizes["int8"] < 100e9 < sizes["float16"]


def test_chunks_are_of_bounded_size() -> None:
    for name in ("float16", "int8", "topk:16"):
        layout = logits_layout(name, (150, 64, 64), 20_210 * 8)
        assert layout.bytes / layout.chunks <= 64 * 2**20
    assert image_layout(20_210, 512, 512, views=8).chunk == 8
