"""The edge picture, read back from its PNG."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from bpkd_search.errors import ConfigError, DataError
from bpkd_search.pictures.edges import BAND, GAP, PANEL_WIDTHS, UNLABELLED, draw_edges, paint


def halves(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A black image whose left half is class 0 and right half class 1, with an ignored top left corner."""
    labels = torch.zeros(height, width, dtype=torch.uint8)
    labels[:, width // 2 :] = 1
    labels[:4, :4] = 255
    return torch.zeros(3, height, width, dtype=torch.uint8), labels


def count(picture: Image.Image, colour: tuple[int, ...]) -> int:
    return dict((value, n) for n, value in picture.getcolors(1 << 24)).get(colour, 0)


def test_each_width_paints_its_band_at_the_scale_of_the_image(tmp_path: Path) -> None:
    sample = halves(20, 80)
    out = draw_edges([sample, sample], [3, 7], tmp_path / "new" / "edges.png")
    with Image.open(out) as file:
        picture = file.convert("RGB")
    # 80 pixels become 320: one label pixel is 4 x 4. The image is black, so the tint stands alone.
    tint = tuple(int(0.8 * part) for part in BAND)
    assert count(picture, tint) == 2 * 20 * (2 + 6) * 16
    # Twice the 4 x 4 corner in each of two columns; the legend adds its swatches, 21 x 21.
    assert count(picture, UNLABELLED) == 2 * 2 * 16 * 16 + 21 * 21
    assert count(picture, BAND) == 21 * 21
    assert picture.width == 3 * 320 + 4 * GAP


def test_captions_give_the_share_over_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.text", lambda self, at, text, **style: texts.append(text))
    # Bands of 2 * 20 and 2 * 10 pixels, of 20 * 40 and 10 * 20.
    draw_edges([halves(20, 40), halves(10, 20)], [3], tmp_path / "edges.png")
    assert texts[:2] == ["image", "width 3: 6% of pixels"]


def test_large_images_are_reduced(tmp_path: Path) -> None:
    out = draw_edges([halves(100, 2000)], [3], tmp_path / "edges.png")
    with Image.open(out) as picture:
        assert picture.width == 2 * PANEL_WIDTHS[1] + 3 * GAP


def test_paint_fades_what_is_neither_band_nor_ignored() -> None:
    image = torch.tensor([200, 100, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 1, 3)
    painted = paint(image, torch.tensor([[True, False, False]]), torch.tensor([[False, True, False]]))
    grey = 100
    assert painted[:, 0, 0].tolist() == [int(0.2 * grey + 0.8 * part) for part in BAND]
    assert painted[:, 0, 1].tolist() == list(UNLABELLED)
    assert painted[:, 0, 2].tolist() == [int(0.4 * part + 0.15 * grey + 0.45 * 255 + 1e-3) for part in (200, 100, 0)]


def test_unusable_widths_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        draw_edges([halves(8, 8)], [6, 7, 1, 65], tmp_path / "edges.png")
    rule = "must be an odd integer from 3 to 63"
    assert caught.value.faults == [f"width: got {width}, {rule}" for width in (6, 1, 65)]
    with pytest.raises(ConfigError, match="got none"):
        draw_edges([halves(8, 8)], [], tmp_path / "edges.png")


def test_no_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        draw_edges([], [3], tmp_path / "edges.png")
