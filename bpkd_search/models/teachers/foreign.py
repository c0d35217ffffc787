"""A network of other software as one of ours: same images in, logits of the data's classes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bpkd_search.errors import CheckpointError
from bpkd_search.models.network import Network, Outputs
from bpkd_search.models.teachers.classes import ClassMap
from bpkd_search.models.teachers.opened import Opened, logits_in

Match = Callable[[int], ClassMap]


class ForeignTeacher(Network):
    """A frozen teacher that normalises images as its software does; see `Network`.

    Images are padded to `input.multiple` with the mean colour, at the right and bottom, and logits cut back; logits
    finer than `stride` pixels per cell are averaged to it. `match` returns how the network's classes, by their number,
    are those of the data, which are `num_classes`; without it, all of the network's are returned.
    Raises `CheckpointError` if the output is not logits [B, C, h, w], or the size is not the one the network takes.
    """

    channels = None
    std: Tensor

    def __init__(
        self, opened: Opened, match: Match | None = None, num_classes: int = 0, stride: int | None = None
    ) -> None:
        super().__init__()
        self.opened, self.num_classes, self.stride = opened, num_classes, stride
        self.match = cache(match) if match is not None else None
        # A network that is no module, as of ONNX, has no weights here.
        self.network = opened.network if isinstance(opened.network, nn.Module) else nn.Identity()
        for name, values in zip(("mean", "std"), opened.input.in_bytes(), strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).training = False

    def train(self, mode: bool = True) -> ForeignTeacher:
        """Return the teacher as it is: it stays frozen in evaluation mode, which some formats cannot leave."""
        return self

    def outputs(self, images: Tensor) -> Outputs:
        """Return logits [B, num_classes, h, w], and neither features nor auxiliary logits."""
        height, width = images.shape[-2:]
        logits = self.raw(images)
        # Every size of the padded image is a multiple of the stride, if the network has one.
        rows, columns = (
            -(-side * cells // (side + -side % self.opened.input.multiple))
            for side, cells in zip((height, width), logits.shape[-2:], strict=True)
        )
        logits = logits[..., :rows, :columns]
        if self.stride is not None and (factor := self.stride * rows // height) > 1:
            logits = F.avg_pool2d(logits, factor, ceil_mode=True)
        if self.match is not None:
            logits = self.match(logits.shape[1])(logits)
        return logits, None, None

    def raw(self, images: Tensor) -> Tensor:
        """Return what the network itself gives for the padded images, with its own classes and stride."""
        return self._in_parts(self._normalised(self._padded(images)))

    def heads(self) -> Sequence[nn.Module]:
        """Return nothing: a finished teacher is not trained."""
        return []

    def _padded(self, images: Tensor) -> Tensor:
        multiple = self.opened.input.multiple
        height, width = images.shape[-2:]
        down, right = -height % multiple, -width % multiple
        if not (down or right):
            return images
        padded = self.mean.round().to(images).repeat(len(images), 1, height + down, width + right)
        padded[..., :height, :width] = images
        return padded

    def _normalised(self, images: Tensor) -> Tensor:
        bgr = self.opened.input.channels == "bgr"
        if self.opened.dtype == torch.uint8:
            images = images if images.dtype == torch.uint8 else images.round().clamp(0, 255).to(torch.uint8)
        else:
            images = ((images.float() - self.mean) / self.std).to(self.opened.dtype)
        return images.flip(1) if bgr else images

    def _in_parts(self, images: Tensor) -> Tensor:
        """Run the network, on as many images at once as it takes."""
        size, batch = self.opened.size, self.opened.batch
        if size is not None and tuple(images.shape[-2:]) != size:
            raise CheckpointError(
                f"reads images of {size[0]}x{size[1]} alone, got {images.shape[-2]}x{images.shape[-1]}"
            )
        if batch is None:
            return logits_in(self.opened.network(images))
        parts = []
        for some in torch.split(images, batch):
            full = torch.cat([some, some[-1:].expand(batch - len(some), -1, -1, -1)])
            parts.append(logits_in(self.opened.network(full))[: len(some)])
        return torch.cat(parts)
