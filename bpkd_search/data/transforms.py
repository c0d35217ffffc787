"""Augmentation for training and resizing for evaluation, applied to an image and its label together.

Random numbers come from a separate generator, seeded by each call, and the deterministic functions
of `torchvision.transforms.v2.functional` are applied: the transform classes of v2 use torch's global
generator, which each call would have to fork, and which other threads share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from bpkd_search.data.base import IGNORE_INDEX, digest
from bpkd_search.data.geometry import Resize, Sides, Size, Window, base_size, offset, scale_steps, scaled_size
from bpkd_search.errors import DataError

# The mean colour of ImageNet: after normalisation, padding is close to zero.
PADDING_COLOUR = [124, 116, 104]
# Positions that are tried at most for a crop that no class dominates, as in mmsegmentation's RandomCrop.
TRIES = 10

Pixels = NDArray[np.uint8]


def resize(image: Tensor, label: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Resize an image [3, H, W] (bilinear, antialiased) and its label [H, W] (nearest) to height x width.

    The label takes the pixel nearest to the centre of each target pixel ("nearest-exact"). The plain nearest
    mode, which v2 applies to masks, takes one up to half a source pixel further to the upper left and
    would shift every class boundary against the image.
    """
    size = [height, width]
    small = F.resize(image, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    return small, resize_label(label, height, width)


def resize_label(label: Tensor, height: int, width: int) -> Tensor:
    """Resize a label [H, W] to height x width as `resize` does."""
    # A plain tensor, not a tv_tensors.Mask: some versions of v2 ignore the requested mode for a Mask.
    resized: Tensor = F.resize(label[None], [height, width], interpolation=InterpolationMode.NEAREST_EXACT)[0]
    return resized


def crop(image: Tensor, label: Tensor, top: int, left: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Crop an image [3, H, W] and its label [H, W]; what is outside is the mean colour, and 255 in the label."""
    rows, columns = label.shape
    above, before = max(-top, 0), max(-left, 0)
    inside = max(top, 0), max(left, 0), min(rows, top + height) - max(top, 0), min(columns, left + width) - max(left, 0)
    image, label = F.crop(image, *inside), F.crop(label[None], *inside)
    padding = [before, above, width - before - inside[3], height - above - inside[2]]
    if any(padding):
        image = F.pad(image, padding, fill=PADDING_COLOUR)
        label = F.pad(label, padding, fill=IGNORE_INDEX)
    return image, label[0]


def read_window(image: Pixels, window: Window) -> Pixels:
    """Return a window of an image [H, W, 3], uint8 [height, width, 3]: the crop of the scaled, flipped image.

    Only the pixels of the window are computed (bilinear, antialiased).
    """
    part = np.empty((window.height, window.width, 3), np.uint8)
    found = source_of(image, window)
    (first_row, end_row), (first_column, end_column) = found.rows, found.columns
    if (end_row - first_row, end_column - first_column) != part.shape[:2]:
        part[:] = PADDING_COLOUR
    if window.scaled == image.shape[:2]:
        left, top, right, bottom = (int(side) for side in found.box)
        pixels = found.pixels[top:bottom, left:right]
    else:
        size = end_column - first_column, end_row - first_row
        scaled = Image.fromarray(found.pixels).resize(size, Image.Resampling.BILINEAR, box=found.box)
        pixels = np.asarray(scaled)
    part[first_row:end_row, first_column:end_column] = pixels[:, ::-1] if window.flip else pixels
    return part


class Source(NamedTuple):
    """What a window is made of: pixels [h, w, 3] of the image as it is kept, and where they end up.

    `box` (left, top, right, bottom) in those pixels becomes the window's `rows` and `columns`, each first and last + 1,
    mirrored if the window is flipped; what is outside of these is padding.
    """

    pixels: Pixels
    box: tuple[float, float, float, float]
    rows: tuple[int, int]
    columns: tuple[int, int]


def source_of(image: Pixels, window: Window) -> Source:
    """Return the part of an image [H, W, 3] that a window is made of, as a view of it."""
    (top, bottom), (left, right) = _inside(window)
    (rows, columns), (height, width) = image.shape[:2], window.scaled
    row, column = max(0, -window.top), max(0, -window.left)
    target = (row, row + bottom - top), (column, column + right - left)
    if window.flip:
        left, right = width - right, width - left
    # Pillow also reads what is next to the box, so that this is the crop of the whole scaled image up to rounding.
    reach_y, reach_x = (2 + int(2 * max(1.0, big / small)) for big, small in ((rows, height), (columns, width)))
    first_row, first_column = max(0, top * rows // height - reach_y), max(0, left * columns // width - reach_x)
    pixels = image[
        first_row : -(-bottom * rows // height) + reach_y, first_column : -(-right * columns // width) + reach_x
    ]
    box = (
        left * columns / width - first_column,
        top * rows / height - first_row,
        right * columns / width - first_column,
        bottom * rows / height - first_row,
    )
    return Source(pixels, box, *target)


def read_label_window(label: Pixels, window: Window) -> Pixels:
    """Return a window of a label [H, W], uint8 [height, width], by the nearest pixel; what is outside is 255."""
    part = np.full((window.height, window.width), IGNORE_INDEX, np.uint8)
    (top, bottom), (left, right) = _inside(window)
    (rows, columns), (height, width) = label.shape, window.scaled
    across = np.arange(left, right)
    if window.flip:
        across = width - 1 - across
    # The source pixel under the centre of a target pixel, in whole numbers: (2 t + 1) / 2 * source / target.
    source_rows = (2 * np.arange(top, bottom) + 1) * rows // (2 * height)
    source_columns = (2 * across + 1) * columns // (2 * width)
    row, column = max(0, -window.top), max(0, -window.left)
    part[row : row + bottom - top, column : column + right - left] = label[source_rows[:, None], source_columns]
    return part


def _inside(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return first and last + 1 row and column of the part of a window that is inside its image."""
    height, width = window.scaled
    top, left = max(0, window.top), max(0, window.left)
    return (
        (top, max(top, min(height, window.top + window.height))),
        (left, max(left, min(width, window.left + window.width))),
    )


def jitter(image: Tensor, brightness: float, contrast: float, saturation: float, hue: float = 0.0) -> Tensor:
    """Scale brightness, contrast and saturation of images uint8 [..., 3, H, W], and turn the hue by `hue` circles."""
    image = F.adjust_brightness(image, brightness)
    image = F.adjust_contrast(image, contrast)
    image = F.adjust_saturation(image, saturation)
    turned: Tensor = F.adjust_hue(image, hue) if hue else image
    return turned


def _require(name: str, ok: bool, got: object, rule: str) -> None:
    if not ok:
        raise DataError(f"transform {name}: got {got}, must be {rule}")


@dataclass(frozen=True)
class TrainTransform:
    """Resize by a random scale, crop or pad to height x width, flip, and jitter colours.

    Scale 1 is the image resized as `resize` says, and `scale` the range from which it is drawn: any number, or with
    `steps` one of that many evenly spaced ones. Offsets are multiples of `grid` pixels. A crop of whose labelled pixels
    one class has more than `cat_max_ratio` is drawn again, up to ten times. `flip` is the probability of a horizontal
    flip. `colour_jitter` s draws the factors of brightness, contrast and saturation from [1-s, 1+s], `hue` s turns the
    hue by up to s circles. Raises `DataError` if a value is out of range.
    """

    height: int
    width: int
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    colour_jitter: float = 0.25
    resize: Resize = None
    hue: float = 0.0
    cat_max_ratio: float = 1.0
    steps: int | None = None
    grid: int = 1

    def __post_init__(self) -> None:
        """Check every parameter."""
        _require("size", self.height > 0 and self.width > 0, f"{self.height}x{self.width}", "positive")
        low, high = self.scale
        _require("scale", 0 < low <= high, f"{low} to {high}", "a range above 0, low first")
        _require("flip", 0 <= self.flip <= 1, self.flip, "in [0, 1]")
        _require("colour_jitter", 0 <= self.colour_jitter <= 1, self.colour_jitter, "in [0, 1]")
        _require("hue", 0 <= self.hue <= 0.5, self.hue, "in [0, 0.5]")
        _require("cat_max_ratio", 0 < self.cat_max_ratio <= 1, self.cat_max_ratio, "above 0 and at most 1")
        _require("steps", self.steps is None or self.steps > 0, self.steps, "positive")
        _require("grid", self.grid > 0, self.grid, "positive")

    @property
    def scales(self) -> tuple[float, ...]:
        """The scales to choose from; empty if any in the range may be drawn."""
        return scale_steps(*self.scale, self.steps) if self.steps else ()

    def whole_size(self, size: Size) -> Size:
        """Return the size at which a whole image is kept: its own, or that of its largest scale if it is smaller."""
        largest = scaled_size(base_size(size, self.resize), self.scale[1])
        return largest if largest[0] < size[0] and largest[1] < size[1] else size

    def draw(self, label: Pixels, seed: int) -> tuple[Window, Sequence[float]]:
        """Return the window of a crop of an image with this label, and four colour factors, determined by `seed`."""
        # Always the same numbers in the same order: changing one parameter does not change the other draws.
        rng = np.random.default_rng(seed)
        scale, down, right, flip, *colours = rng.random(7).tolist()
        hue = rng.random()
        step = int(scale * len(self.scales))
        low, high = self.scale
        factor = self.scales[step] if self.scales else low + (high - low) * scale
        size: Size = (label.shape[0], label.shape[1])
        scaled = scaled_size(base_size(size, self.resize), factor)
        flipped = flip < self.flip

        def placed(down: float, right: float) -> Window:
            top = offset(scaled[0], self.height, down, self.grid)
            left = offset(scaled[1], self.width, right, self.grid)
            if flipped and self.grid == 1:
                left = scaled[1] - left - self.width
            return Window(scaled, flipped, top, left, self.height, self.width, step)

        window = placed(down, right)
        for _ in range(TRIES - 1):
            if self.cat_max_ratio == 1 or not _dominated(read_label_window(label, window), self.cat_max_ratio):
                break
            window = placed(*rng.random(2).tolist())
        strength = self.colour_jitter
        return window, [*(1 + strength * (2 * c - 1) for c in colours), self.hue * (2 * hue - 1)]

    def __call__(self, image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return image uint8 [3, height, width] and label uint8 [height, width], determined by `seed` (>= 0)."""
        window, colours = self.draw(label.numpy(), seed)
        image, label = resize(image, label, *window.scaled)
        left = window.scaled[1] - window.left - self.width if window.flip else window.left
        image, label = crop(image, label, window.top, left, self.height, self.width)
        if window.flip:
            image, label = F.horizontal_flip(image), F.horizontal_flip(label[None])[0]
        return self.coloured(image, colours).contiguous(), label.contiguous()

    def coloured(self, image: Tensor, colours: Sequence[float]) -> Tensor:
        """Return an image uint8 [3, H, W] with the colours of `draw`."""
        return jitter(image, *colours) if self.colour_jitter > 0 or self.hue > 0 else image

    def identity(self) -> str:
        """Return a short hash of the parameters."""
        return digest(["train", _parameters(self)])

    def whole_identity(self) -> str:
        """Return a short hash of the parameters that decide at which size whole images are kept."""
        parameters = _parameters(self)
        return digest(["whole", self.resize and parameters.get("resize", self.resize), self.scale[1]])

    def map_identity(self) -> str:
        """Return a short hash of the parameters that decide which maps of whole images there are."""
        flips = [self.flip > 0, self.flip < 1]
        return digest(["maps", self.whole_identity(), self.scale, self.steps, self.grid, flips])


@dataclass(frozen=True)
class EvalTransform:
    """Resize the whole image as `resize` says; the label stays as it is, or with `labels: resized` goes along."""

    resize: Resize = None
    labels: Literal["original", "resized"] = "original"

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return image uint8 [3, h, w] and label uint8, [H, W] as it was or [h, w]."""
        height, width = base_size((label.shape[0], label.shape[1]), self.resize)
        small, small_label = resize(image, label, height, width)
        return small, small_label if self.labels == "resized" else label

    def sizes(self, size: Size) -> tuple[Size, Size]:
        """Return the sizes of image and label for an image of a size."""
        base = base_size(size, self.resize)
        return base, base if self.labels == "resized" else size

    def identity(self) -> str:
        """Return a short hash of the parameters."""
        # The form of this hash before images kept their own resolution, so that those stores are found.
        if isinstance(self.resize, tuple):
            return digest(["eval", {"height": self.resize[0], "width": self.resize[1]}])
        return digest(["eval", _parameters(self)])


def _parameters(transform: TrainTransform | EvalTransform) -> dict[str, Any]:
    """Return the parameters as JSON values, without those that are as they always were before they existed."""
    tree = {field.name: getattr(transform, field.name) for field in fields(transform)}
    if isinstance(tree["resize"], Sides):
        tree["resize"] = tree["resize"].model_dump()
    if isinstance(transform, TrainTransform):
        before = {"resize": (transform.height, transform.width), "hue": 0.0, "cat_max_ratio": 1.0}
        before |= {"steps": None, "grid": 1}
        tree = {name: value for name, value in tree.items() if name not in before or value != before[name]}
    return tree


def _dominated(label: Pixels, share: float) -> bool:
    """Return whether one class has more than this share of the labelled pixels."""
    counts = np.bincount(label.ravel(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
    return bool(counts.max() > share * counts.sum())
