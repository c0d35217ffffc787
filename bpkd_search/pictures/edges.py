"""A picture of what each edge width covers, to choose the widths of a search by eye."""

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
from bpkd_search.training.inputs import open_data

PANEL_WIDTHS = (320, 640)  # pixels a panel is wide: small images are enlarged, large ones reduced
GAP = 12
FONT_SIZE = 20
PAPER, INK = (250, 250, 248), (34, 36, 40)
BAND = (255, 106, 0)
UNLABELLED = (58, 60, 66)


def draw_edges(
    samples: Sequence[tuple[Tensor, Tensor]], widths: Sequence[int], out: Path, *, ignore_index: int = 255
) -> Path:
    """Write a PNG with a row an image: the image, then its edge band at each width; return `out`.

    `samples` holds images uint8 [3, H, W] with their labels uint8 [H, W]; `widths` are odd window sides in
    label pixels. A column's caption gives the share of all pixels in its band. Band pixels are orange, the
    rest is faded, ignored pixels are dark.

    Raises ConfigError for widths that cannot be used and DataError for no samples.
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
    """Raise ConfigError, all faults in it, unless there are widths and all are odd integers from 3 to 63."""
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
    """The image, uint8 [3, H, W], faded; band pixels orange, unlabelled ones dark (bool masks [H, W])."""
    grey = image.float().mean(0, keepdim=True)
    faded = 0.4 * image + 0.15 * grey + 0.45 * 255
    tint, dark = (torch.tensor(colour).view(3, 1, 1) for colour in (BAND, UNLABELLED))
    painted = torch.where(band, 0.2 * grey + 0.8 * tint, faded)
    return torch.where(unlabelled, dark, painted).clamp(0, 255).to(torch.uint8)


def _panel(pixels: Tensor) -> Image.Image:
    """The picture of [3, H, W] at a legible size: up by whole steps, so that pixels stay square, or down."""
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    smallest, largest = PANEL_WIDTHS
    if picture.width > largest:
        height = max(1, round(picture.height * largest / picture.width))
        return picture.resize((largest, height), Image.Resampling.BOX)
    factor = max(1, round(smallest / picture.width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _sheet(captions: Sequence[str], rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Panels on a grid, a caption above each column, the meaning of the colours below."""
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
    """`count` validation samples, evenly spread, of a search space, an experiment folder or a data folder.

    A space's or experiment's samples come at its training size, where `loss.edge_width` is measured; those
    of a data folder, whose layout is recognised, as they are. Raises DataError and ConfigError.
    """
    file = target / CONFIG if target.is_dir() else target
    if file.is_file() or not target.exists():
        data = load_run(file, overrides).data
        dataset, resize = open_data(data, "val"), EvalTransform(data.height, data.width)
        return [resize(*dataset[index]) for index in _spread(len(dataset), count)]
    if overrides:
        raise ConfigError(["needs a search space or an experiment folder to override keys of"], source="--set")
    dataset = recognise(target)
    return [dataset[index] for index in _spread(len(dataset), count)]


def recognise(root: Path) -> Dataset:
    """The validation split of a data folder in one of the known layouts. Raises DataError where none fits."""
    kinds = [name for name, kind in KINDS.items() if kind.needs_root and not kind.required]
    for kind in kinds:
        with contextlib.suppress(DataError):
            return open_split(kind, "val", root=root)
    raise DataError(
        f"{root}: is neither an experiment folder nor a data folder in a known layout ({', '.join(kinds)});"
        " for a folder of your own, give a search space with data.kind: folder"
    )


def _spread(length: int, count: int) -> list[int]:
    return sorted({index * length // count for index in range(count)})
