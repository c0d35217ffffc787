"""A teacher's logits on whole images: at each scale, plain and flipped, so that a crop's logits are a slice of one.

Scales are those of the training transform and offsets of crops multiples of the logits' stride, so nothing is
interpolated. The teacher sees the image with its padding to a multiple of 32, and without the colours of a crop.
Of logits that are given as files, the flipped ones are mirrored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bpkd_search.data.geometry import Size, Window, base_size, padded_size, scaled_size
from bpkd_search.data.transforms import TrainTransform, read_window
from bpkd_search.data.views import chunks
from bpkd_search.data.views.codecs import Codec, open_codec
from bpkd_search.data.views.given import GivenLogits
from bpkd_search.data.views.layout import Array, Layout
from bpkd_search.data.views.records import Records

# Pixels in a batch of the teacher at most, unless one image and its flipped form have more.
BATCH_PIXELS = 2 * 1024 * 1024

Parts = dict[str, tuple[int, tuple[int, ...], str]]


@dataclass(frozen=True)
class MapPlan:
    """What the maps of an image are: scales and flips of the transform, format, classes, stride of the logits."""

    transform: TrainTransform
    codec: str
    classes: int

    @property
    def flips(self) -> tuple[bool, ...]:
        """Which forms of an image may be drawn."""
        return tuple(flip for flip in (False, True) if (self.transform.flip if flip else 1 - self.transform.flip) > 0)

    def scaled(self, size: Size, step: int) -> Size:
        """Return the size of an image at a scale."""
        return scaled_size(base_size(size, self.transform.resize), self.transform.scales[step])

    def grid(self, size: Size, step: int) -> Size:
        """Return the size of the logits of an image at a scale."""
        height, width = self.scaled(size, step)
        return -(-height // self.transform.grid), -(-width // self.transform.grid)

    @property
    def forms(self) -> list[tuple[int, bool]]:
        """The number of the scale and the flip of each map of an image, in the order of its record."""
        return [(step, flip) for step in range(len(self.transform.scales)) for flip in self.flips]

    def open_codec(self) -> Codec:
        """Return the codec."""
        return open_codec(self.codec, self.classes)

    def record(self, size: Size) -> tuple[dict[tuple[int, bool], Parts], int]:
        """Return first byte, shape and dtype of each array of each map in the record of an image, and its length."""
        return _record(self, size)

    def layout(self, sizes: Sequence[Size]) -> Layout:
        """Return the layout of the maps of images of these sizes."""
        return Layout.of_records([self.record(size)[1] for size in sizes])


@lru_cache(4096)
def _record(plan: MapPlan, size: Size) -> tuple[dict[tuple[int, bool], Parts], int]:
    codec, at = plan.open_codec(), 0
    forms: dict[tuple[int, bool], Parts] = {}
    for step, flip in plan.forms:
        parts: Parts = {}
        for name, (shape, dtype) in codec.rows((plan.classes, *plan.grid(size, step))).items():
            parts[name] = at, shape, dtype
            at += prod(shape) * np.dtype(dtype).itemsize
        forms[step, flip] = parts
    return forms, at


class Maps:
    """The stored maps of a teacher, memory-mapped."""

    def __init__(self, path: Path, transform: TrainTransform) -> None:
        """Raise `DataError` if they are missing, unfinished or of a wrong size."""
        table, arrays = chunks.read(path)
        self.path, self.layout, self.array = path, table.layout, arrays["records"].view(np.ndarray)
        self.name = str(table.about["codec"])
        self.plan = MapPlan(transform, self.name, int(table.about["classes"]))
        self.codec = self.plan.open_codec()

    def gather(self, sizes: Sequence[Size], indices: Sequence[int] | Array, cut: Sequence[Window]) -> list[Tensor]:
        """Return the encoded logits of windows of images, in the order of the codec's arrays; zero outside an image."""
        grid = self.plan.transform.grid
        cells = cut[0].height // grid, cut[0].width // grid
        batch = [
            np.zeros((len(indices), *shape), dtype)
            for shape, dtype in self.codec.rows((self.plan.classes, *cells)).values()
        ]
        for place, (index, window) in enumerate(zip(indices, cut, strict=True)):
            parts = self.plan.record(sizes[index])[0][window.step, window.flip]
            start = self.layout.row(index)
            top, left = max(0, window.top) // grid, max(0, window.left) // grid
            # At stride 1 a crop may begin before a smaller image.
            down, right = max(0, -window.top) // grid, max(0, -window.left) // grid
            for target, (at, shape, dtype) in zip(batch, parts.values(), strict=True):
                first = start + at
                bytes_ = prod(shape) * np.dtype(dtype).itemsize
                values = self.array[first : first + bytes_].view(dtype).reshape(shape)
                if len(shape) == 3:
                    values = values[:, top : top + cells[0] - down, left : left + cells[1] - right]
                    target[place, :, down : down + values.shape[1], right : right + values.shape[2]] = values
                else:
                    target[place] = values
        return [torch.from_numpy(array) for array in batch]

    def decode(self, parts: Sequence[Tensor]) -> Tensor:
        """Return logits float16 [B, C, h, w] from gathered arrays."""
        names = self.codec.rows((self.plan.classes, 1, 1))
        return self.codec.decode(dict(zip(names, parts, strict=True)))


def _packed(
    plan: MapPlan, sizes: Sequence[Size], made: dict[int, dict[tuple[int, bool], dict[str, Array]]]
) -> dict[str, Array]:
    """Return the records [1, bytes] of the encoded maps of consecutive images."""
    flat = [
        np.ascontiguousarray(forms[form][name]).astype(dtype, copy=False).view(np.uint8).ravel()
        for index, forms in made.items()
        for form, parts in plan.record(sizes[index])[0].items()
        for name, (_, _, dtype) in parts.items()
    ]
    return {"records": np.concatenate(flat)[None]}


@dataclass(frozen=True)
class GivenWork:
    """Encodes the given logits of a range of images, mirrored for flipped ones; there is one scale, 1."""

    sizes: tuple[Size, ...]
    plan: MapPlan
    given: GivenLogits

    def __call__(self, start: int, stop: int) -> dict[str, Array]:
        """Return the records [1, bytes] of images `start` to `stop`."""
        codec = self.plan.open_codec()
        made: dict[int, dict[tuple[int, bool], dict[str, Array]]] = {}
        for index in range(start, stop):
            size = self.plan.scaled(self.sizes[index], 0)
            logits = self.given.read(index, size, self.plan.transform.grid)
            made[index] = {}
            for step, flip in self.plan.forms:
                encoded = codec.encode(logits.flip(-1) if flip else logits)
                made[index][step, flip] = {name: part[0].numpy() for name, part in encoded.items()}
        return _packed(self.plan, self.sizes, made)


@dataclass(frozen=True)
class MapWork:
    """Computes the maps of a range of images; opens the records in the process that calls it."""

    whole: Path
    records: Records
    sizes: tuple[Size, ...]
    plan: MapPlan
    teacher: Callable[[Tensor], Tensor]

    def __call__(self, start: int, stop: int) -> dict[str, Array]:
        """Return the records [1, bytes] of images `start` to `stop`."""
        table, arrays = chunks.read(self.whole)
        array, layout = arrays["records"], table.layout
        codec = self.plan.open_codec()
        made: dict[int, dict[tuple[int, bool], dict[str, Array]]] = {index: {} for index in range(start, stop)}
        for batch in self._batches(start, stop):
            windows = [self._window(index, step, flip) for index, step, flip in batch]
            images = [
                read_window(self.records.read(array, layout, index)[0], window)
                for (index, _, _), window in zip(batch, windows, strict=True)
            ]
            stack = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
            with torch.inference_mode():
                logits = self.teacher(stack).float()
                for row, (index, step, flip) in enumerate(batch):
                    rows, columns = self.plan.grid(self.sizes[index], step)
                    encoded = codec.encode(logits[row : row + 1, :, :rows, :columns])
                    made[index][step, flip] = {name: part[0].cpu().numpy() for name, part in encoded.items()}
        return _packed(self.plan, self.sizes, made)

    def _window(self, index: int, step: int, flip: bool) -> Window:
        scaled = self.plan.scaled(self.sizes[index], step)
        return Window(scaled, flip, 0, 0, *padded_size(scaled), step)

    def _batches(self, start: int, stop: int) -> Iterator[list[tuple[int, int, bool]]]:
        """Yield (image, step, flip) of one padded size each, a batch of the teacher."""
        groups: dict[Size, list[tuple[int, int, bool]]] = {}
        for index in range(start, stop):
            for step, flip in self.plan.forms:
                size = padded_size(self.plan.scaled(self.sizes[index], step))
                groups.setdefault(size, []).append((index, step, flip))
        for (height, width), forms in groups.items():
            most = max(2, BATCH_PIXELS // (height * width))
            yield from (forms[at : at + most] for at in range(0, len(forms), most))
