"""How fast this machine trains and validates, from some real steps on random images."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from bpkd_search.config.models import RunConfig
from bpkd_search.config.networks import Model
from bpkd_search.config.optimisation import Optimisation
from bpkd_search.data.geometry import Size
from bpkd_search.data.views import ViewStore
from bpkd_search.losses.methods import Ce
from bpkd_search.models import Network
from bpkd_search.models.build import autocast, build_model, pick_device
from bpkd_search.training.check import plain
from bpkd_search.training.distill import Distillation
from bpkd_search.training.evaluation import BATCH, evaluate
from bpkd_search.training.runtime import clock, synchronize

# Calls that are timed.
STEPS = 5


@dataclass(frozen=True)
class Speed:
    """Seconds an image: of the student's training and validation, and of the teacher's and its pass over a crop."""

    device: str
    training: float
    validation: float
    teacher_training: float
    teacher_validation: float
    teacher_pass: float


class RandomImages:
    """In the place of a view store: random images, and labels of random squares."""

    num_images = 2**30

    def __init__(self, classes: int, size: tuple[Size, Size]) -> None:
        """`size` is that of a validation image, and that of its label, each (height, width)."""
        self.num_classes, self.size = classes, size

    def steps(self, batch_size: int) -> int:
        """Return the number of batches in a pass."""
        return self.num_images // batch_size

    def batch(self, count: int, size: Size, label_size: Size) -> tuple[Tensor, Tensor]:
        """Return images uint8 [count, 3, H, W] and labels uint8 [count, H', W']."""
        images = torch.randint(256, (count, 3, *size), dtype=torch.uint8)
        height, width = label_size
        squares = torch.randint(self.num_classes, (count, 1, -(-height // 32), -(-width // 32)))
        labels = squares.repeat_interleave(32, 2).repeat_interleave(32, 3)[:, 0, :height, :width]
        return images, labels.to(torch.uint8)

    def val_samples(self, rows: Sequence[int] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield validation images and labels, as a view store does."""
        yield from zip(*self.batch(BATCH, *self.size), strict=True)


def measure_speed(run: RunConfig, classes: int, size: tuple[Size, Size], *, online: bool) -> Speed:
    """Time some steps of training, a validation and a pass of the teacher, which `online` also runs at every step.

    `size` is that of a validation image, and that of its label. Seconds are those of `runtime.clock`; waiting for
    data is not in them.
    """
    device, settings = pick_device(run.train.device), run.train.model_copy(update={"compile": False})
    images = RandomImages(classes, size)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        teacher = build_model(plain(run.teacher), classes, 0).to(device).eval().requires_grad_(False)
        crops, labels = images.batch(settings.batch_size, run.data.crop, run.data.crop)
        with torch.inference_mode(), autocast(device, settings.amp == "auto"):
            logits = teacher(crops.to(device)).clone()
            passing = _seconds(lambda: teacher(crops.to(device)), device) / len(crops)
        store = cast(ViewStore, images)
        training = Distillation(
            plain(run.student), run.loss, settings, store, teacher=teacher if online else None, device=device
        )
        stored = None if online or not training.criterion.needs_teacher else logits.half()
        student = _training(training, crops, labels, stored)
        first = _training(_of_teacher(run.teacher, run.teacher.train, store, device), crops, labels, None)
        validation = _validation(training.student, store, run, device)
        teacher_validation = _validation(teacher, store, run, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    return Speed(name, student, validation, first, teacher_validation, passing)


def _of_teacher(spec: Model, settings: Optimisation, store: ViewStore, device: torch.device) -> Distillation:
    return Distillation(plain(spec), Ce(), settings.model_copy(update={"compile": False}), store, device=device)


def _training(run: Distillation, crops: Tensor, labels: Tensor, stored: Tensor | None) -> float:
    crops, labels = crops.to(run.device), labels.to(run.device)
    with run.train_mode():
        return _seconds(lambda: run.step(crops, labels, stored, progress=0.0), run.device) / len(crops)


def _validation(model: Network, store: ViewStore, run: RunConfig, device: torch.device) -> float:
    return _seconds(lambda: evaluate(model, store, device, run.data.evaluation), device, 1) / BATCH


def _seconds(work: Callable[[], object], device: torch.device, times: int = STEPS) -> float:
    """Return the seconds of one call, the median of some after one that does not count."""
    work()
    seconds = []
    for _ in range(times):
        synchronize(device)
        start = clock(device)
        work()
        synchronize(device)
        seconds.append(clock(device) - start)
    return statistics.median(seconds)
