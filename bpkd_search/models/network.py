"""What training, evaluation and prediction ask of a network, whoever wrote it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from bpkd_search.errors import CheckpointError

Outputs = tuple[Tensor, Tensor | None, Tensor | None]


class Network(nn.Module, ABC):
    """A segmentation network: maps unnormalised images to class logits.

    Takes images [B, 3, H, W], red first, as uint8 or as float in 0..255, so that teacher and student read the same
    batch. `channels` is the number of channels of its features, None if it gives none; `mean` [1, 3, 1, 1] is the
    colour, in 0..255, that images are padded with; `auxiliary_weight` is the weight of the auxiliary logits' loss.
    """

    num_classes: int
    channels: int | None
    mean: Tensor
    auxiliary: nn.Module | None  # no default: a class attribute would hide the module of an instance
    auxiliary_weight: float = 0.0

    @abstractmethod
    def outputs(self, images: Tensor) -> Outputs:
        """Return logits [B, num_classes, h, w], features [B, channels, h, w] or None, auxiliary logits or None."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor | tuple[Tensor, Tensor | None]:
        """Return logits [B, num_classes, h, w], with `return_features` also the features, None if it gives none."""
        logits, features, _ = self.outputs(images)
        return (logits, features) if return_features else logits

    @abstractmethod
    def heads(self) -> Sequence[nn.Module]:
        """Return the parts that `train.head_lr` is about."""


def are_probabilities(logits: Tensor) -> bool:
    """Return whether values [B, C, h, w] are what a softmax gives: none below 0, and of sum 1 in every pixel."""
    values = logits.float()
    # Half precision rounds each of many classes.
    return bool(values.min() >= 0 and (values.sum(1) - 1).abs().max() < 0.01)


def require_finite(logits: Tensor, advice: str = "") -> None:
    """Raise `CheckpointError` unless all logits of a frozen teacher are finite; waits for the device."""
    if not logits.isfinite().all():
        raise CheckpointError(
            "teacher: gives logits that are not finite (nan or inf) for images of the data; check its weights and"
            f" teacher.input{advice}"
        )
