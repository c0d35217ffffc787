"""Images of differing sizes with their labels, each pair a record of bytes in one memory-mapped array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from bpkd_search.data.geometry import Size
from bpkd_search.data.views.layout import Array, Layout


@dataclass(frozen=True)
class Records:
    """Where the pairs are: the sizes (height, width) of each image and of its label.

    A record is the image uint8 [h, w, 3], then the label uint8 [H, W].
    """

    images: tuple[Size, ...]
    labels: tuple[Size, ...]

    @property
    def layout(self) -> Layout:
        """The layout of the records."""
        sizes = zip(self.images, self.labels, strict=True)
        return Layout.of_records([3 * h * w + rows * columns for (h, w), (rows, columns) in sizes])

    def read(self, array: Array, layout: Layout, index: int) -> tuple[Array, Array]:
        """Return image uint8 [h, w, 3] and label uint8 [H, W] of a record, as views of the array of all."""
        start, stop = layout.row(index), layout.row(index + 1)
        (height, width), label = self.images[index], self.labels[index]
        middle = start + 3 * height * width
        return array[start:middle].reshape(height, width, 3), array[middle:stop].reshape(label)


def pack(pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Array]:
    """Return the records [1, bytes] of images uint8 [3, h, w] and labels uint8 [H, W]."""
    parts = [part for image, label in pairs for part in (image.permute(1, 2, 0).numpy(), label.numpy())]
    return {"records": np.concatenate([np.ascontiguousarray(part).ravel() for part in parts])[None]}
