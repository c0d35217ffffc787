"""How fast this machine trains and validates, from some real steps on random images."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from bpkd_search.config.models import RunConfig
from bpkd_search.config.networks import Model
from bpkd_search.config.optimisation import Optimisation
from bpkd_search.config.software import software_of
from bpkd_search.data.geometry import Size
from bpkd_search.data.views import ViewStore
from bpkd_search.losses.methods import Ce
from bpkd_search.models import Network
from bpkd_search.models.build import autocast, build_model, pick_device
from bpkd_search.models.teachers.open import open_network
from bpkd_search.training.check import plain
from bpkd_search.training.distill import Distillation
from bpkd_search.training.evaluation import BATCH, evaluate
from bpkd_search.training.forms import Form, crop_shape
from bpkd_search.training.probe import source_of
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


def measure_speed(run: RunConfig, form: Form, class_names: Sequence[str], size: tuple[Size, Size]) -> Speed:
    """Time some steps of training, a validation and a pass of the teacher, which a form may also run at every step.

    `size` is that of a validation image, and that of its label. Seconds are those of `runtime.clock`; waiting for
    data is not in them. The training of a finished teacher and the passes of given logits take 0 seconds.
    """
    device, settings = pick_device(run.train.device), run.train.model_copy(update={"compile": False})
    software, classes = software_of(run.teacher), len(class_names)
    images = RandomImages(classes, size)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        teacher: Network | None = None
        if software == "own":
            teacher = build_model(plain(run.teacher), classes, 0).to(device).eval().requires_grad_(False)
        elif software != "logits":
            teacher = open_network(run.teacher, source_of(run.teacher) or Path(), device, class_names)
        crops, labels = images.batch(settings.batch_size, run.data.crop, run.data.crop)
        passing = 0.0 if teacher is None else _passing(teacher, crops.to(device), settings)
        store = cast(ViewStore, images)
        online = teacher if form.mode == "online" else None
        training = Distillation(plain(run.student), run.loss, settings, store, teacher=online, device=device)
        stored = None
        if online is None and training.criterion.needs_teacher:
            stored = torch.randn(len(crops), *crop_shape(run, form, classes), device=device).half()
        student = _training(training, crops, labels, stored)
        first = 0.0
        if software == "own" and run.teacher.checkpoint is None:
            first = _training(_with_ce(run.teacher, run.teacher.train, store, device), crops, labels, None)
        validation = _validation(training.student, store, run, device)
        teacher_validation = 0.0 if teacher is None else _validation(teacher, store, run, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    return Speed(name, student, validation, first, teacher_validation, passing)


def step_seconds(run: RunConfig, classes: int) -> float:
    """Time a step of the student with cross-entropy alone on random images: the same work on every device.

    Returns seconds of `runtime.clock` an image.
    """
    device, crop = pick_device(run.train.device), run.data.crop
    images = RandomImages(classes, (crop, crop))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        student = _with_ce(run.student, run.train, cast(ViewStore, images), device)
        return _training(student, *images.batch(run.train.batch_size, crop, crop), None)


def _with_ce(spec: Model, settings: Optimisation, store: ViewStore, device: torch.device) -> Distillation:
    return Distillation(plain(spec), Ce(), settings.model_copy(update={"compile": False}), store, device=device)


def _passing(teacher: Network, crops: Tensor, settings: Optimisation) -> float:
    with torch.inference_mode(), autocast(crops.device, settings.amp == "auto"):
        return _seconds(lambda: teacher(crops), crops.device) / len(crops)


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
