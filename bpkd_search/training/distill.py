"""One distillation run: student, loss, optimiser, epochs, checkpoint. Without Ray and Optuna.

    run = Distillation(config.student, config.loss, config.train, store)
    while not run.finished:
        report = run.train_epoch()
        scores = evaluate(run.student, run.store, run.device, config.data.evaluation)

A teacher is trained the same way, with the loss `ce`. All randomness is a function of (seed, epoch), so a
run resumed from a checkpoint after any epoch gives the weights of an uninterrupted one; on CPU with a
fixed thread count they are equal bit for bit. With `train.compile` that requires that PyTorch compiles the same code
again: the same machine and version.
"""

from __future__ import annotations

import io
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bpkd_search.config.loss import Loss, terms_of
from bpkd_search.config.models import Model, Optimisation
from bpkd_search.data.base import IGNORE_INDEX
from bpkd_search.data.views import ViewStore
from bpkd_search.data.views.store import Batch
from bpkd_search.errors import CheckpointError
from bpkd_search.files import write_bytes
from bpkd_search.losses import Criterion
from bpkd_search.models import Segmentor, count_parameters
from bpkd_search.models.build import autocast, build_model, pick_device
from bpkd_search.training.forward import compiled_forward, forward

Report = dict[str, Any]


class TeacherNet(Protocol):
    """An online teacher: logits and features of a batch."""

    channels: int

    def __call__(self, images: Tensor, return_features: bool = False) -> Any:
        """Return logits [B, C, h, w], with `return_features` also features."""


class Diverged(Exception):
    """A loss term is not finite; the message names the term, the epoch and the step."""


class Distillation:
    """A run in progress: `train_epoch` advances it, `save` and `load` interrupt and resume it."""

    def __init__(
        self,
        model: Model,
        loss: Loss,
        train: Optimisation,
        store: ViewStore,
        *,
        teacher: TeacherNet | None = None,
        device: torch.device | None = None,
        student: Segmentor | None = None,
    ) -> None:
        """`student` is a network of `build_model` for `model`, to be trained in place; by default one is built."""
        self.settings, self.store, self.teacher = train, store, teacher
        self.device = device or pick_device(train.device)
        self.epoch = 0
        self.spent = 0.0
        layout = torch.channels_last
        self.student = student or build_model(model, store.num_classes, train.seed)
        self.forward = compiled_forward if train.compile else forward
        self.student.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(train.seed)
            self.criterion = Criterion(
                [term.model_dump() for term in terms_of(loss)],
                ignore_index=IGNORE_INDEX,
                student_channels=self.student.channels,
                teacher_channels=teacher.channels if teacher is not None else None,
            ).to(self.device)
        weights = [*self.student.parameters(), *self.criterion.parameters()]
        self.optimizer: torch.optim.Optimizer
        if train.optimizer == "adamw":
            self.optimizer = torch.optim.AdamW(weights, lr=train.lr, weight_decay=train.weight_decay, fused=True)
        else:
            self.optimizer = torch.optim.SGD(
                weights, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay, fused=True
            )
        self.amp = train.amp == "auto"
        half = self.device.type == "cuda" and self.amp and not torch.cuda.is_bf16_supported()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)

    @property
    def parameters(self) -> int:
        """Number of trainable parameters of the student."""
        return count_parameters(self.student)

    @property
    def finished(self) -> bool:
        """Whether the run has had its epochs, or another one would not bring it nearer to its `gpu_seconds`."""
        if self.settings.gpu_seconds is None:
            return self.epoch >= self.settings.epochs
        return self.epoch > 0 and self.spent * (1 + 0.5 / self.epoch) >= self.settings.gpu_seconds

    def progress(self, position: int, seconds: float) -> float:
        """Return the completed fraction of the run after `position` steps and `seconds` inside training."""
        if self.settings.gpu_seconds is not None:
            return min(1.0, seconds / self.settings.gpu_seconds)
        return position / (self.settings.epochs * self.store.steps(self.settings.batch_size))

    def learning_rate(self, step: int, progress: float) -> float:
        """Return the learning rate: linear warm-up over the first steps, then `(1 - t)^power` to zero."""
        warmup = self.settings.warmup * self.store.steps(self.settings.batch_size)
        if step < warmup:
            return self.settings.lr * (step + 1) / (warmup + 1)
        begin = self.settings.warmup / self.settings.epochs if self.settings.gpu_seconds is None else 0.0
        left = (1 - progress) / max(1 - begin, 1e-9)
        return self.settings.lr * float(min(1.0, left) ** self.settings.power)

    def train_epoch(self) -> Report:
        """Train one epoch.

        Returns its mean loss terms, seconds inside training so far (`gpu_seconds`, with data reading, without
        validation), images per second, and peak memory in MiB on a GPU. Raises `Diverged` if a loss is not finite.
        """
        settings, steps = self.settings, self.store.steps(self.settings.batch_size)
        torch.manual_seed(settings.seed * 100_003 + self.epoch)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            torch.cuda.synchronize(self.device)
        start = time.perf_counter()
        self.student.train()
        names: list[str] = []
        sums = first_bad = torch.zeros(0)
        for step, batch in enumerate(self.batches(self.epoch)):
            position = self.epoch * steps + step
            progress = self.progress(position, self.spent + time.perf_counter() - start)
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(position, progress)
            losses = self.step(*batch, progress=progress)
            # Sums stay on the device: reading one here would synchronise at every step.
            values = torch.stack([v.detach() for v in losses.values()])
            if not names:
                names, sums = list(losses), torch.zeros_like(values)
                first_bad = torch.full_like(values, float("inf"))
            sums += values
            bad = torch.where(torch.isfinite(values), float("inf"), float(step))
            first_bad = torch.minimum(first_bad, bad)
        means, bad_steps = (sums / steps).tolist(), first_bad.tolist()
        seconds = time.perf_counter() - start
        if math.isfinite(min(bad_steps)):
            worst = min(range(len(names)), key=lambda i: bad_steps[i])
            raise Diverged(
                f"loss term {names[worst]} is not finite at step {int(bad_steps[worst]) + 1} of epoch {self.epoch + 1}"
            )
        self.epoch += 1
        self.spent += seconds
        images = steps * min(settings.batch_size, self.store.num_images)
        report: Report = {
            "epoch": self.epoch,
            "loss": sum(means),
            **{f"loss_{name}": mean for name, mean in zip(names, means, strict=True)},
            "gpu_seconds": self.spent,
            "images_per_second": images / seconds,
        }
        if self.device.type == "cuda":
            report["peak_memory_mb"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        return report

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch on the device, with the stored teacher logits if the loss uses them."""
        stored = self.criterion.needs_teacher and self.teacher is None
        settings = self.settings
        return self.store.epoch(epoch, settings.batch_size, settings.seed, device=self.device, logits=stored)

    def step(self, images: Tensor, labels: Tensor, stored: Tensor | None, *, progress: float) -> dict[str, Tensor]:
        """Update the weights once on a batch; returns its loss terms by name, scalars on the device."""
        losses = self._losses(images, labels, stored, progress=progress)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        if self.settings.grad_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.student.parameters(), self.settings.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return losses

    def _losses(self, images: Tensor, labels: Tensor, stored: Tensor | None, *, progress: float) -> dict[str, Tensor]:
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        labels = labels.to(self.device, non_blocking=True)
        teacher_logits = teacher_features = None
        if self.criterion.needs_teacher:
            if self.teacher is not None:
                with torch.inference_mode(), autocast(self.device, self.amp):
                    teacher_logits, teacher_features = self.teacher(images, return_features=True)
                # Inference tensors may not be saved for backward; a clone may.
                teacher_logits, teacher_features = teacher_logits.clone(), teacher_features.clone()
            elif stored is not None:
                teacher_logits = stored.to(self.device, non_blocking=True)
        with autocast(self.device, self.amp):
            logits, student_features, ce = self.forward(self.student, images, labels, IGNORE_INDEX)
            # A batch with only ignored pixels has no mean; its loss is zero.
            losses = {"ce": ce / (labels != IGNORE_INDEX).sum().clamp(min=1)}
            if self.criterion.needs_teacher:
                losses |= self.criterion(
                    logits,
                    teacher_logits,
                    labels,
                    progress=progress,
                    student_features=student_features,
                    teacher_features=teacher_features,
                )
        return losses

    def latency_ms(self, repeats: int = 5) -> float:
        """Return milliseconds for one validation image through the student, the median of `repeats` passes."""
        image, _ = next(self.store.val_samples())
        images = image[None].to(self.device)
        self.student.eval()
        times = []
        with torch.inference_mode(), autocast(self.device, self.amp):
            for _ in range(repeats + 1):
                start = time.perf_counter()
                self.student(images)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times[1:])

    def save(self, path: Path, report: Report | None = None) -> None:
        """Write a checkpoint atomically, with the epoch's report if given."""
        state = {
            "epoch": self.epoch,
            "spent": self.spent,
            "student": self.student.state_dict(),
            "criterion": self.criterion.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "report": report,
        }
        # Through memory: PyTorch's own writer does not tell a full disk from other errors.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(path, buffer.getvalue())

    def load(self, path: Path) -> Report | None:
        """Resume from a checkpoint of the same configuration; returns the report saved with it.

        Raises `CheckpointError` if the checkpoint does not fit.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.student.load_state_dict(state["student"])
            self.criterion.load_state_dict(state["criterion"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.epoch, self.spent = int(state["epoch"]), float(state["spent"])
            report: Report | None = state["report"]
        except torch.OutOfMemoryError:
            raise  # no fault of the file
        except Exception as e:
            raise CheckpointError(f"{path}: is not a checkpoint of this configuration: {e}") from e
        return report
