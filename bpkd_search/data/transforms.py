"""Augmentation for training and resizing for evaluation, applied to an image and its label together.

Random numbers come from a separate generator, seeded by each call, and the deterministic functions
of `torchvision.transforms.v2.functional` are applied: the transform classes of v2 use torch's global
generator, which each call would have to fork, and which other threads share.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from bpkd_search.data.base import IGNORE_INDEX, digest
from bpkd_search.errors import DataError

# The mean colour of ImageNet: after normalisation, padding is close to zero.
PADDING_COLOUR = [124, 116, 104]


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


def place(image: Tensor, label: Tensor, height: int, width: int, *, down: float, right: float) -> tuple[Tensor, Tensor]:
    """Crop or pad each axis separately to height x width.

    `down` and `right` in [0, 1) select among the possible positions. Padding is the mean colour in the
    image and 255 (ignored) in the label.
    """
    rows, columns = label.shape
    top, left = _offset(rows - height, down), _offset(columns - width, right)
    crop_rows, crop_columns = min(rows, height), min(columns, width)
    image = F.crop(image, max(top, 0), max(left, 0), crop_rows, crop_columns)
    label = F.crop(label[None], max(top, 0), max(left, 0), crop_rows, crop_columns)
    before_x, before_y = max(-left, 0), max(-top, 0)
    padding = [before_x, before_y, width - crop_columns - before_x, height - crop_rows - before_y]
    if any(padding):
        image = F.pad(image, padding, fill=PADDING_COLOUR)
        label = F.pad(label, padding, fill=IGNORE_INDEX)
    return image, label[0]


def _offset(slack: int, position: float) -> int:
    """Return the start of a crop (slack >= 0), or minus the padding before it (slack < 0)."""
    return int(position * (slack + 1)) if slack >= 0 else -int(position * (1 - slack))


def jitter(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Scale brightness, contrast and saturation of an image uint8 [3, H, W] by the given factors."""
    image = F.adjust_brightness(image, brightness)
    image = F.adjust_contrast(image, contrast)
    saturated: Tensor = F.adjust_saturation(image, saturation)
    return saturated


def _require(name: str, ok: bool, got: object, rule: str) -> None:
    if not ok:
        raise DataError(f"transform {name}: got {got}, must be {rule}")


@dataclass(frozen=True)
class TrainTransform:
    """Resize by a random scale, crop or pad to height x width, flip, and jitter colours.

    Scale 1.0 is the whole image resized to height x width, as in `EvalTransform`; `scale` is the
    range from which it is drawn. `flip` is the probability of a horizontal flip. `colour_jitter` s draws
    the factors of brightness, contrast and saturation from [1-s, 1+s]. Raises `DataError` if a value is out of range.
    """

    height: int
    width: int
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    colour_jitter: float = 0.25

    def __post_init__(self) -> None:
        """Check every parameter."""
        _require("size", self.height > 0 and self.width > 0, f"{self.height}x{self.width}", "positive")
        low, high = self.scale
        _require("scale", 0 < low <= high, f"{low} to {high}", "a range above 0, low first")
        _require("flip", 0 <= self.flip <= 1, self.flip, "in [0, 1]")
        _require("colour_jitter", 0 <= self.colour_jitter <= 1, self.colour_jitter, "in [0, 1]")

    def __call__(self, image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return image uint8 [3, height, width] and label uint8 [height, width], determined by `seed` (>= 0)."""
        # Always the same seven numbers in the same order: changing one parameter does not change the other draws.
        scale, down, right, flip, *colours = np.random.default_rng(seed).random(7).tolist()
        low, high = self.scale
        factor = low + (high - low) * scale
        rows, columns = max(1, round(self.height * factor)), max(1, round(self.width * factor))
        image, label = resize(image, label, rows, columns)
        image, label = place(image, label, self.height, self.width, down=down, right=right)
        if flip < self.flip:
            image, label = F.horizontal_flip(image), F.horizontal_flip(label[None])[0]
        if self.colour_jitter > 0:
            brightness, contrast, saturation = (1 + self.colour_jitter * (2 * c - 1) for c in colours)
            image = jitter(image, brightness, contrast, saturation)
        return image.contiguous(), label.contiguous()

    def identity(self) -> str:
        """Return a short hash of the parameters."""
        return digest(["train", asdict(self)])


@dataclass(frozen=True)
class EvalTransform:
    """Resize the whole image and its label to height x width."""

    height: int
    width: int

    def __post_init__(self) -> None:
        """Check the size."""
        _require("size", self.height > 0 and self.width > 0, f"{self.height}x{self.width}", "positive")

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return image uint8 [3, height, width] and label uint8 [height, width]."""
        return resize(image, label, self.height, self.width)

    def identity(self) -> str:
        """Return a short hash of the parameters."""
        return digest(["eval", asdict(self)])
