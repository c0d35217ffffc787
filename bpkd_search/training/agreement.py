"""How well a teacher's stored maps stand for the teacher run on the crops, measured before trials rely on it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bpkd_search.data.base import IGNORE_INDEX
from bpkd_search.data.views import ViewStore
from bpkd_search.files import write_text
from bpkd_search.models.heads import resize

# Crops that are compared, and the loss of accuracy beyond which maps are not relied on.
CROPS, BATCH = 128, 8
TOLERANCE = 0.005


class Teacher(Protocol):
    """A teacher as a function of a batch."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits [B, C, h, w] of images uint8 [B, 3, H, W]."""
        ...


@dataclass(frozen=True)
class Agreement:
    """Shares of labelled pixels, and nats: the teacher's accuracy from maps and on crops, and how far they differ."""

    crops: int
    accuracy_maps: float
    accuracy_crops: float
    same_class: float
    kl: float

    @property
    def passed(self) -> bool:
        """Whether the maps lose at most half a point of accuracy."""
        return self.accuracy_crops - self.accuracy_maps <= TOLERANCE

    def line(self) -> str:
        """Return the figures in words."""
        return (
            f"maps: on {self.crops} new crops the stored teacher is right on {100 * self.accuracy_maps:.1f} % of the"
            f" pixels, run on the crop {100 * self.accuracy_crops:.1f} %; same class on {100 * self.same_class:.1f} %,"
            f" KL {self.kl:.3f}"
        )


def measure(store: ViewStore, teacher: Teacher) -> Agreement:
    """Compare the maps of a store with the teacher on some hundred crops; kept beside the maps once measured.

    Predictions are compared on labelled pixels, the logits resized to their grid; KL is from the teacher on the crop
    to its map, the mean over those pixels.
    """
    assert store.logits is not None
    kept = store.logits.path / f"agreement-{store.crops_key}.json"
    if (found := _read(kept)) is not None:
        return found
    per_epoch = min(CROPS, store.num_images)
    picked = [number * store.num_images // per_epoch for number in range(per_epoch)]
    sums, crops = torch.zeros(5, dtype=torch.float64), 0
    # Of a small data set more than one crop an image; epochs far beyond a run's are crops no trial sees.
    for epoch in range(1_000_000, 1_000_000 + -(-CROPS // per_epoch)):
        for at in range(0, per_epoch, BATCH):
            images, labels, *encoded = store.crops.gather(epoch, np.array(picked[at : at + BATCH]), True)
            sums += _compare(store.logits.decode(encoded).float(), teacher(images).float().cpu(), labels)
            crops += len(images)
    pixels, from_maps, on_crops, same, kl = sums.tolist()
    result = Agreement(crops, *(value / max(pixels, 1.0) for value in (from_maps, on_crops, same, kl)))
    write_text(kept, json.dumps(asdict(result)))
    return result


def _compare(stored: Tensor, online: Tensor, labels: Tensor) -> Tensor:
    """Return sums over labelled pixels: pixels, right from maps, right on crops, same class, KL."""
    a, b = (resize(logits, labels.shape[-2:]) for logits in (stored, online))
    valid = labels != IGNORE_INDEX
    guess_a, guess_b = a.argmax(1), b.argmax(1)
    log_a, log_b = a.log_softmax(1), b.log_softmax(1)
    kl = (log_b.exp() * (log_b - log_a)).sum(1)
    truth = labels.long()
    rows = (valid, (guess_a == truth) & valid, (guess_b == truth) & valid, (guess_a == guess_b) & valid)
    return torch.stack([*(row.double().sum() for row in rows), (kl * valid).double().sum()])


def _read(path: Path) -> Agreement | None:
    try:
        return Agreement(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
