"""A picture of the edge band at each edge width, to choose the widths of a search by eye."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bpkd_search.config import load_run
from bpkd_search.data import KINDS, Dataset, EvalTransform, open_split
from bpkd_search.errors import ConfigError, DataError
from bpkd_search.experiment.paths import CONFIG
from bpkd_search.files import replacing
from bpkd_search.losses.edges import edge_band
from bpkd_search.training.source import open_data

PANEL_WIDTHS = (320, 640)  # width of a panel in pixels: small images are enlarged, large ones reduced
GAP = 12
FONT_SIZE = 20
PAPER, INK = (250, 250, 248), (34, 36, 40)
BAND = (255, 106, 0)
UNLABELLED = (58, 60, 66)


def draw_edges(
    samples: Sequence[tuple[Tensor, Tensor]], widths: Sequence[int], out: Path, *, ignore_index: int = 255
) -> Path:
    """Write a PNG with one row per image: the image, then its edge band at each width. Returns `out`.

    `samples` holds images uint8 [3, H, W] with their labels uint8 [H, W]; `widths` are odd window sides in
    label pixels. A column's caption gives the share of all pixels in its band. Band pixels are orange, the
    rest is faded, ignored pixels are dark.

    Raises `ConfigError` if a width is invalid and `DataError` if there are no samples.
    """
    check_widths(widths)
    if not samples:
        raise DataError("edge picture: got no images, needs at least one")
    bands = [[edge_band(labels[None], width, ignore_index)[0] for width in widths] for _, labels in samples]
    rows = [
        [_panel(image), *(_panel(paint(image, band, labels == ignore_index)) for band in row)]
        for (image, labels), row in zip(samples, bands, strict=True)
    ]
    pixels = sum(labels.numel() for _, labels in samples)
    shares = [sum(int(band.sum()) for band in column) / pixels for column in zip(*bands, strict=True)]
    captions = [f"width {width}: {share:.0%} of pixels" for width, share in zip(widths, shares, strict=True)]
    with replacing(out) as partial:
        _sheet(["image", *captions], rows).save(partial, format="PNG")
    return out


def check_widths(widths: Sequence[int]) -> None:
    """Check widths. Raises `ConfigError` with all faults unless there are widths, all odd integers from 3 to 63."""
    faults = [
        f"width: got {width}, must be an odd integer from 3 to 63"
        for width in widths
        if width % 2 == 0 or not 3 <= width <= 63
    ]
    if not widths:
        faults = ["widths: got none, must be one or more odd integers from 3 to 63"]
    if faults:
        raise ConfigError(faults, source="edge picture")


def paint(image: Tensor, band: Tensor, unlabelled: Tensor) -> Tensor:
    """Return the image uint8 [3, H, W] faded; band pixels orange, unlabelled ones dark (bool masks [H, W])."""
    grey = image.float().mean(0, keepdim=True)
    faded = 0.4 * image + 0.15 * grey + 0.45 * 255
    tint, dark = (torch.tensor(colour).view(3, 1, 1) for colour in (BAND, UNLABELLED))
    painted = torch.where(band, 0.2 * grey + 0.8 * tint, faded)
    return torch.where(unlabelled, dark, painted).clamp(0, 255).to(torch.uint8)


def _panel(pixels: Tensor) -> Image.Image:
    """Return the picture of [3, H, W] at a legible size: enlarged by whole factors, or reduced."""
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    smallest, largest = PANEL_WIDTHS
    if picture.width > largest:
        height = max(1, round(picture.height * largest / picture.width))
        return picture.resize((largest, height), Image.Resampling.BOX)
    factor = max(1, round(smallest / picture.width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _sheet(captions: Sequence[str], rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Return panels on a grid, a caption above each column, a legend of the colours below."""
    font = ImageFont.load_default(size=FONT_SIZE)
    columns = list(zip(*rows, strict=True))
    widths = [
        max(*(panel.width for panel in column), round(font.getlength(caption)))
        for caption, column in zip(captions, columns, strict=True)
    ]
    heights = [max(panel.height for panel in row) for row in rows]
    line = FONT_SIZE + 2 * GAP
    bottom = line + sum(heights) + GAP * (len(rows) - 1)
    sheet = Image.new("RGB", (sum(widths) + GAP * (len(widths) + 1), bottom + line), PAPER)
    draw = ImageDraw.Draw(sheet)
    left = GAP
    for caption, column, width in zip(captions, columns, widths, strict=True):
        draw.text((left, line // 2), caption, fill=INK, font=font, anchor="lm")
        top = line
        for panel, height in zip(column, heights, strict=True):
            sheet.paste(panel, (left, top))
            top += height + GAP
        left += width + GAP
    left, middle = GAP, bottom + line // 2
    for colour, meaning in ((BAND, "edge band"), (UNLABELLED, "ignored")):
        draw.rectangle((left, middle - FONT_SIZE // 2, left + FONT_SIZE, middle + FONT_SIZE // 2), fill=colour)
        draw.text((left + FONT_SIZE + GAP, middle), meaning, fill=INK, font=font, anchor="lm")
        left += FONT_SIZE + 3 * GAP + round(font.getlength(meaning))
    return sheet


def samples_of(target: Path, count: int, overrides: Sequence[str] = ()) -> list[tuple[Tensor, Tensor]]:
    """Return `count` evenly spaced validation samples of a search space, an experiment or a data directory.

    Samples of a space or an experiment have its training size, where `loss.edge_width` is measured; those
    of a data directory, whose layout is detected, their original size. Raises `DataError` and `ConfigError`.
    """
    file = target / CONFIG if target.is_dir() else target
    if file.is_file() or not target.exists():
        data = load_run(file, overrides).data
        dataset, resize = open_data(data, "val"), EvalTransform(data.resize, "resized")
        return [resize(*dataset[index]) for index in spread(len(dataset), count)]
    if overrides:
        raise ConfigError(["needs a search space or an experiment directory to override keys of"], source="--set")
    dataset = recognise(target)
    return [dataset[index] for index in spread(len(dataset), count)]


def recognise(root: Path) -> Dataset:
    """Return the validation split of a data directory in a known layout. Raises `DataError` if none fits."""
    kinds = [name for name, kind in KINDS.items() if kind.needs_root and not kind.required]
    for kind in kinds:
        with contextlib.suppress(DataError):
            return open_split(kind, "val", root=root)
    raise DataError(
        f"{root}: is neither an experiment nor a data directory in a known layout ({', '.join(kinds)});"
        " for other data, give a search space with data.kind: folder"
    )


def spread(length: int, count: int) -> list[int]:
    """Return `count` evenly spaced indices below `length`, or all of them if there are fewer."""
    return sorted({index * length // count for index in range(count)})
