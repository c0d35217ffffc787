"""A contact sheet of a data set: images with their labels in the colours of the classes, and a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bpkd_search.config.models import RunConfig
from bpkd_search.data import IGNORE_INDEX, Dataset
from bpkd_search.data.base import RGB
from bpkd_search.data.views.recipe import crop_seed
from bpkd_search.files import replacing
from bpkd_search.pictures.edges import GAP, INK, PAPER, spread
from bpkd_search.training.forms import first_form
from bpkd_search.training.source import open_data

SIZE = 260  # pixels of a picture's longer side
COLUMNS = 4
FONT_SIZE = 15
VOID, HATCH = (255, 255, 255), (120, 120, 124)
COVER = 0.6  # how much of a picture's colour is that of the class

Pixels = NDArray[np.uint8]
Samples = Sequence[tuple[str, Tensor, Tensor]]


def samples_of(run: RunConfig, split: str, count: int, *, crops: bool = False) -> tuple[Dataset, Samples]:
    """Return a split and `count` evenly spaced samples of it: name, image uint8 [3, H, W], label uint8 [H, W].

    With `crops`, each is the crop that a run sees of the image in its first epoch. Raises `DataError`.
    """
    dataset, samples = open_data(run.data, split), []
    transform = first_form(run).transform(run.data) if crops else None
    for index in spread(len(dataset), count):
        image, label = dataset[index]
        if transform is not None:
            image, label = transform(image, label, crop_seed(run.data.seed, index, 0))
        samples.append((dataset.names[index], image, label))
    return dataset, samples


def draw_samples(samples: Samples, class_names: Sequence[str], palette: Sequence[RGB], out: Path) -> Path:
    """Write a PNG with each image above its label in the colours of the classes, ignored pixels hatched. Returns `out`.

    The legend has the classes that occur, in the order of their ids.
    """
    present = np.zeros(IGNORE_INDEX + 1, bool)
    pictures = []
    for name, image, label in samples:
        present[np.unique(label.numpy())] = True
        plain = image.permute(1, 2, 0).contiguous().numpy()
        pictures.append((name, _scaled(plain), _scaled(paint(image, label, palette))))
    legend = [(palette[place], class_names[place]) for place in range(len(class_names)) if present[place]]
    with replacing(out) as partial:
        _sheet(pictures, legend, bool(present[IGNORE_INDEX])).save(partial, format="PNG")
    return out


def paint(image: Tensor, label: Tensor, palette: Sequence[RGB]) -> Pixels:
    """Return the image uint8 [H, W, 3] under the colours of its classes; ignored pixels are white with grey stripes."""
    colours = np.zeros((IGNORE_INDEX + 1, 3))
    colours[: len(palette)] = palette
    ids = label.numpy()
    grey = image.float().mean(0).numpy()[..., None]
    painted = COVER * colours[ids] + (1 - COVER) * grey
    void = ids == IGNORE_INDEX
    rows, columns = np.indices(ids.shape)
    stripe = max(2, max(ids.shape) // 80)
    hatched = (rows + columns) // stripe % 3 == 0
    painted[void & ~hatched], painted[void & hatched] = VOID, HATCH
    pixels: Pixels = painted.clip(0, 255).astype(np.uint8)
    return pixels


def _scaled(pixels: Pixels) -> Image.Image:
    picture = Image.fromarray(pixels)
    factor = SIZE / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX)


def _sheet(
    pictures: Sequence[tuple[str, Image.Image, Image.Image]], legend: Sequence[tuple[RGB, str]], void: bool
) -> Image.Image:
    """Return the pictures in rows, each image above its label and below its name, and the legend at the bottom."""
    font = ImageFont.load_default(size=FONT_SIZE)
    columns, line = min(COLUMNS, len(pictures)), FONT_SIZE + GAP
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    tallest = [max(image.height for _, image, _ in row) for row in rows]  # an image is as tall as its label
    width = columns * (SIZE + GAP) + GAP
    entries = [*legend, *([(None, "ignored")] if void else [])]
    room = max(round(font.getlength(name)) for _, name in entries) + FONT_SIZE + 2 * GAP
    across = max(1, (width - GAP) // room)
    sheet = Image.new(
        "RGB",
        (
            width,
            sum(line + 2 * side + GAP // 2 for side in tallest)
            + GAP * (len(rows) + 1)
            + line * math.ceil(len(entries) / across),
        ),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row, side in zip(rows, tallest, strict=True):
        for column, (name, image, label) in enumerate(row):
            left = GAP + column * (SIZE + GAP)
            draw.text((left, top + line // 2), _fitted(name, font), fill=INK, font=font, anchor="lm")
            sheet.paste(image, (left, top + line))
            sheet.paste(label, (left, top + line + side + GAP // 2))
        top += line + 2 * side + GAP // 2 + GAP
    for place, (colour, name) in enumerate(entries):
        left, middle = GAP + place % across * room, top + place // across * line + line // 2
        box = (left, middle - FONT_SIZE // 2, left + FONT_SIZE, middle + FONT_SIZE // 2)
        draw.rectangle(box, fill=colour or VOID, outline=INK)
        if colour is None:
            for step in range(0, FONT_SIZE, 4):
                draw.line((left + step, box[3], left + FONT_SIZE, box[1] + step), fill=HATCH)
        draw.text((left + FONT_SIZE + GAP // 2, middle), name, fill=INK, font=font, anchor="lm")
    return sheet


def _fitted(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return the end of a name that fits above a picture."""
    if font.getlength(name) <= SIZE:
        return name
    while name and font.getlength(f"...{name}") > SIZE:
        name = name[1:]
    return f"...{name}"
