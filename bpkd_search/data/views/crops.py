"""Where training batches come from: views made once, or new crops of whole images at every epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bpkd_search.data.geometry import Size, Window
from bpkd_search.data.resampling import batch_of, pin
from bpkd_search.data.transforms import TrainTransform, read_label_window, read_window, source_of
from bpkd_search.data.views import chunks
from bpkd_search.data.views.codecs import open_codec
from bpkd_search.data.views.layout import Array
from bpkd_search.data.views.maps import Maps
from bpkd_search.data.views.recipe import ViewRecipe, crop_seed, whole_records

Rows = list[Tensor]


class Logits:
    """The stored logits of a teacher on every view."""

    def __init__(self, path: Path) -> None:
        table, self.arrays = chunks.read(path)
        self.path, self.name = path, str(table.about["codec"])
        self.codec = open_codec(self.name, int(table.about["classes"]))

    def decode(self, parts: Sequence[Tensor]) -> Tensor:
        """Return logits float16 [B, C, h, w] from gathered rows, in the order of the arrays."""
        return self.codec.decode(dict(zip(self.arrays, parts, strict=True)))


class Crops(Protocol):
    """A source of training crops, and perhaps of a teacher's logits on them."""

    logits: Logits | Maps | None

    @property
    def threads(self) -> int:
        """How many threads make batches best."""
        ...

    def gather(self, epoch: int, indices: Array, logits: bool) -> Rows:
        """Return images uint8 [B, 3, H, W] and labels uint8 [B, H, W], and with `logits` the teacher's arrays."""
        ...

    def prepare(self, epoch: int, indices: Array, logits: bool, device: torch.device) -> Callable[[], Rows]:
        """Do the host's part of `gather`; what is returned does the rest on the device, without waiting for it."""
        ...


class Views:
    """Some crops an image, in turn: view `epoch` mod V, read from the disk, or computed if not stored."""

    def __init__(self, path: Path, recipe: ViewRecipe | None, images: int, views: int, logits: Path | None) -> None:
        self.recipe, self.num_images, self.views = recipe, images, views
        self.images: Array | None = None
        self.labels: Array | None = None
        table = chunks.Table.read(path / "train")
        if recipe is None or (table is not None and not table.missing):
            train = chunks.read(path / "train")[1]
            self.images, self.labels = train["images"], train["labels"]
        self.logits: Logits | Maps | None = Logits(logits) if logits else None

    @property
    def threads(self) -> int:
        """Reading needs one thread, computing as many as there are."""
        return 1 if self.images is not None else torch.get_num_threads()

    def gather(self, epoch: int, indices: Array, logits: bool) -> Rows:
        """Return the rows of an epoch's views."""
        rows = (epoch % self.views) * self.num_images + indices
        arrays = list(self.logits.arrays.values()) if logits and isinstance(self.logits, Logits) else []
        return [*self.read(rows), *(_gather(array, rows) for array in arrays)]

    def prepare(self, epoch: int, indices: Array, logits: bool, device: torch.device) -> Callable[[], Rows]:
        """Read the rows; they are only sent."""
        return _sending(self.gather(epoch, indices, logits), device)

    def read(self, rows: Array) -> tuple[Tensor, Tensor]:
        """Return images uint8 [B, 3, H, W] and labels uint8 [B, H, W] of rows; view v of image i is row v * N + i."""
        if self.images is not None and self.labels is not None:
            return _gather(self.images, rows), _gather(self.labels, rows)
        assert self.recipe is not None
        cuts = [self.recipe.view(int(row) % self.num_images, int(row) // self.num_images) for row in rows]
        return torch.stack([image for image, _ in cuts]), torch.stack([label for _, label in cuts])


class FreshCrops:
    """A new crop of every image at every epoch, from whole images; with maps, its teacher is a slice of them."""

    def __init__(
        self, path: Path, transform: TrainTransform, seed: int, sizes: Sequence[Size], maps: Path | None
    ) -> None:
        self.transform, self.seed, self.sizes = transform, seed, sizes
        table, arrays = chunks.read(path / "whole")
        # Slices of a plain array cost less than those of a memory map.
        self._array, self._layout = arrays["records"].view(np.ndarray), table.layout
        self._records = whole_records(transform, sizes)
        self.logits: Logits | Maps | None = Maps(maps, transform) if maps else None

    @property
    def threads(self) -> int:
        """As many as there are."""
        return torch.get_num_threads()

    def gather(self, epoch: int, indices: Array, logits: bool) -> Rows:
        """Return the crops of an epoch, and the slices of the maps."""
        images, labels, cut = self.cut(epoch, indices)
        return [images, labels, *self._slices(indices, cut, logits)]

    def prepare(self, epoch: int, indices: Array, logits: bool, device: torch.device) -> Callable[[], Rows]:
        """Cut the crops here for a CPU; for a GPU cut labels and slices here, and scale and colour images there.

        Windows and colours are the same; pixels of the images may differ by one of 255 levels.
        """
        if device.type == "cpu":
            return _sending(self.gather(epoch, indices, logits), device)
        return self.on_device(epoch, indices, logits, device)

    def on_device(self, epoch: int, indices: Array, logits: bool, device: torch.device) -> Callable[[], Rows]:
        """Send the parts of the images that the crops are made of to a device, and cut them there."""
        height, width = self.transform.height, self.transform.width
        drawn = [self._draw(epoch, int(index)) for index in indices]
        cut = [window for _, _, window, _ in drawn]
        sources = batch_of(
            [source_of(image, window) for image, _, window, _ in drawn], [w.flip for w in cut], height, width
        )
        labels = torch.from_numpy(np.stack([read_label_window(label, window) for _, label, window, _ in drawn]))
        sources, rest = sources.pinned(device), _sending([labels, *self._slices(indices, cut, logits)], device)

        def finish() -> Rows:
            images = sources.on(device).resampled()
            for image, (*_, colours) in zip(images, drawn, strict=True):
                coloured = self.transform.coloured(image, colours)
                if coloured is not image:
                    image.copy_(coloured)
            return [images, *rest()]

        return finish

    def cut(self, epoch: int, indices: Sequence[int] | Array) -> tuple[Tensor, Tensor, list[Window]]:
        """Return images uint8 [B, 3, H, W], labels uint8 [B, H, W] and windows of the crops of an epoch."""
        height, width = self.transform.height, self.transform.width
        images = torch.empty(len(indices), 3, height, width, dtype=torch.uint8)
        labels = torch.empty(len(indices), height, width, dtype=torch.uint8)
        windows = []
        for place, index in enumerate(indices):
            image, label, window, colours = self._draw(epoch, int(index))
            pixels = torch.from_numpy(read_window(image, window)).permute(2, 0, 1)
            images[place] = self.transform.coloured(pixels, colours)
            labels[place] = torch.from_numpy(read_label_window(label, window))
            windows.append(window)
        return images, labels, windows

    def _draw(self, epoch: int, index: int) -> tuple[Array, Array, Window, Sequence[float]]:
        """Return an image, its label, and the window and colours of its crop of an epoch."""
        image, label = self._records.read(self._array, self._layout, index)
        return image, label, *self.transform.draw(label, crop_seed(self.seed, index, epoch))

    def _slices(self, indices: Array, cut: Sequence[Window], logits: bool) -> Rows:
        maps = self.logits
        return maps.gather(self.sizes, indices, cut) if logits and isinstance(maps, Maps) else []


def _sending(parts: Rows, device: torch.device) -> Callable[[], Rows]:
    """Return what sends the parts to a device; pinned here, so that sending waits for nothing."""
    pinned = [pin(part, device) for part in parts]
    return lambda: [part.to(device, non_blocking=True) for part in pinned]


def _gather(array: Array, rows: Array) -> Tensor:
    # torch's gather releases the GIL, numpy's does not.
    return torch.from_numpy(array).index_select(0, torch.from_numpy(rows))
