"""One distillation run: student, loss, optimiser, schedule, checkpoint. Without Ray and Optuna.

    run = Distillation(config.student, config.loss, config.train, store)
    while not run.finished:
        report = run.train_epoch()
        scores = evaluate(run.student, run.store, run.device, config.data.evaluation)

A teacher is trained the same way, with the loss `ce`. All randomness is a function of the seed and the position in
the run, so a run resumed from a checkpoint gives the weights of an uninterrupted one; on CPU with a
fixed thread count they are equal bit for bit. With `train.compile` that requires that PyTorch compiles the same code
again: the same machine and version.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from bpkd_search.config.loss import Loss, terms_of
from bpkd_search.config.networks import Model
from bpkd_search.config.optimisation import Optimisation
from bpkd_search.data.base import IGNORE_INDEX
from bpkd_search.data.views import ViewStore
from bpkd_search.data.views.store import Batch
from bpkd_search.losses import Criterion
from bpkd_search.models import Network, count_parameters
from bpkd_search.models.build import TEACHER_DTYPE, autocast, build_model, half_precision, pick_device
from bpkd_search.models.network import require_finite
from bpkd_search.training import graphs
from bpkd_search.training.forward import Forward, compiled_forward, forward, train_mode
from bpkd_search.training.optimizer import make_optimizer, set_rate, state_tensors
from bpkd_search.training.round import Diverged, Round
from bpkd_search.training.runtime import clock, synchronize, torch_settings
from bpkd_search.training.schedule import Schedule
from bpkd_search.training.states import read_state, write_state
from bpkd_search.training.update import Maps, channels_last, loss_terms, update

Report = dict[str, Any]


class TeacherNet(Protocol):
    """An online teacher: logits and features of a batch; one of other software has no features to give."""

    channels: int | None

    def __call__(self, images: Tensor, return_features: bool = False) -> Any:
        """Return logits [B, C, h, w], with `return_features` also features or None."""


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
        student: Network | None = None,
    ) -> None:
        """`student` is a network of `build_model` for `model`, to be trained in place; by default one is built."""
        self.settings, self.store, self.teacher = train, store, teacher
        self.device = device or pick_device(train.device)
        self.schedule = Schedule(train, store.steps(self._images))
        self.epoch = 0
        # How much of a GPU the run holds, and what a second on this kind of device is worth on the reference.
        self.share = self.speed = 1.0
        # Seconds of a whole GPU, of this kind and of the reference.
        self.spent = self.calibrated = 0.0
        layout = torch.channels_last
        self.student = student or build_model(model, store.num_classes, train.seed)
        self.student_is_own = model.factory is not None
        self.forward: Forward = compiled_forward if train.compile else forward
        self.student.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(train.seed)
            self.criterion = Criterion(
                [term.model_dump() for term in terms_of(loss)],
                ignore_index=IGNORE_INDEX,
                student_channels=self.student.channels,
                teacher_channels=teacher.channels if teacher is not None else None,
            ).to(self.device)
        self._recorder = graphs.recorder_for(self.device) if train.compile == "graphs" else None
        self._recorded: graphs.RecordedStep | None = None
        self.optimizer, self._rates = make_optimizer(
            train, self.student, self.criterion, recorded=self._recorder is not None
        )
        self.amp = train.amp == "auto"
        half = half_precision(self.device) if self.amp else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half == torch.float16)
        self._warm = not train.compile and self.device.type == "cpu"
        # The round that is being trained; its saved state until that is continued; the report of the one before.
        self._round: Round | None = None
        self._rest: dict[str, Any] | None = None
        self._report: Report | None = None

    @property
    def _images(self) -> int:
        """Images of one iteration."""
        return self.settings.batch_size * self.settings.accumulate

    @property
    def parameters(self) -> int:
        """Number of trainable parameters of the student."""
        return count_parameters(self.student)

    @property
    def finished(self) -> bool:
        """Whether the run has had its epochs or iterations, or another round would miss `gpu_seconds` by more."""
        return self.schedule.finished(self.epoch, self.calibrated)

    def train_epoch(self, checkpoint: Path | None = None) -> Report:
        """Train one round: one epoch, or `validate_every` iterations; after `load`, the rest of one.

        Returns its mean loss terms, iterations and seconds inside training so far, as `runtime.clock` counts them,
        without validation (`gpu_seconds`: times the share of a GPU; `calibrated_seconds`: on the reference), images per
        second, and peak memory in MiB on a GPU. To `checkpoint`, if given, the state is written every
        `checkpoint_seconds`. Raises `Diverged` if a loss is not finite, `CheckpointError` if that is because the logits
        of an online teacher are not.
        """
        iterations = self.schedule.round(self.epoch)
        if self._rest is not None:
            done = self._round = Round.restore(self._rest, self.device)
        else:
            torch.manual_seed(self.settings.seed * 100_003 + self.epoch)
            done = self._round = Round()
        self._rest = None
        with self.train_mode():
            left = iterations[done.done :]
            self.warm_up(left.start)
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
                synchronize(self.device)
            # What the round has taken before, a checkpoint has in its sums already.
            charged, price = done.seconds, self.share * self.speed
            start, saved = clock(self.device) - charged, time.monotonic()
            for iteration, batch in zip(left, self.batches(left.start, len(left)), strict=True):
                progress = self.schedule.progress(
                    iteration, self.calibrated + price * (clock(self.device) - start - charged)
                )
                rate = self.schedule.learning_rate(iteration, progress)
                set_rate(self.optimizer, self._rates, rate)
                done.add(self.step(*batch, progress=progress))
                due = time.monotonic() - saved >= self.settings.checkpoint_seconds
                if checkpoint is not None and due and done.done < len(iterations):
                    synchronize(self.device)
                    done.seconds = clock(self.device) - start
                    self._charge(done.seconds - charged)
                    charged = done.seconds
                    self.save(checkpoint, self._report)
                    start, saved = clock(self.device) - done.seconds, time.monotonic()
            try:
                means = done.means(self.epoch + 1)  # waits for the device
            except Diverged as e:
                self.require_teacher(next(self.batches(iterations[e.step], 1))[0])
                raise
            seconds = clock(self.device) - start
        self._round = None
        self.epoch += 1
        self._charge(seconds - charged)
        report: Report = {
            "epoch": self.epoch,
            "iteration": iterations.stop,
            "loss": sum(means.values()),
            **{f"loss_{name}": mean for name, mean in means.items()},
            "gpu_seconds": self.spent,
            "calibrated_seconds": self.calibrated,
            "images_per_second": len(iterations) * min(self._images, self.store.num_images) / seconds,
        }
        if self.device.type == "cuda":
            report["peak_memory_mb"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        return report

    def _charge(self, seconds: float) -> None:
        self.spent += seconds * self.share
        self.calibrated += seconds * self.share * self.speed

    @contextmanager
    def train_mode(self) -> Iterator[None]:
        """Set the student to training, BatchNorm as configured, and PyTorch to what the run asks for, until the end."""
        train_mode(self.student, self.settings)
        with torch_settings(self.device, deterministic=self.settings.deterministic):
            yield

    def batches(self, first: int, count: int) -> Generator[Batch, None, None]:
        """Yield the images of `count` iterations from `first` on, as `ViewStore.epoch` does.

        Logits are the stored ones of the teacher, if the loss uses them. Iteration k belongs to pass k // steps.
        """
        stored = self.criterion.needs_teacher and self.teacher is None
        steps, end = self.schedule.steps, first + count
        while first < end:
            epoch, begin = divmod(first, steps)
            after = min(steps, begin + end - first)
            rest = self.store.epoch(
                epoch, self._images, self.settings.seed, device=self.device, logits=stored, start=begin
            )
            yield from islice(rest, after - begin)
            first += after - begin

    def step(self, images: Tensor, labels: Tensor, stored: Tensor | None, *, progress: float) -> dict[str, Tensor]:
        """Update the weights once on the images of an iteration; returns its loss terms, scalars on the device.

        More than `batch_size` images are taken in parts, each with its share of the labelled pixels as its weight.
        """
        inputs = self._inputs(images, labels, stored)
        if self._recorded is not None:
            whole = (*inputs[:2], list(inputs[2]))
            return self._recorded(whole) if self._recorded.takes(whole) else update(self, *whole, progress=progress)
        return update(self, *inputs, progress=progress)

    def warm_up(self, first: int) -> None:
        """Do what no run's time is to be spent on: compile, choose kernels, record the step; `first` is an iteration.

        Called in `train_mode`. Weights, statistics and random numbers stay as they are. A step that cannot be recorded
        is said in one warning, and trained without.
        """
        record = self._recorder is not None and self._recorded is None
        if self._warm and not record:
            return
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            batches = self.batches(first, 1)
            batch = next(batches)
            batches.close()  # nothing is read and pinned beside a recording
            if not self._warm:
                self._warm = True
                self._train_a_copy(*batch)
            if record:
                try:
                    self._record(*batch)
                except graphs.NotRecordable as e:
                    self._recorder = None
                    warnings.warn(
                        f"train.compile: got graphs, this run trains without CUDA graphs: {e}",
                        RuntimeWarning,
                        stacklevel=2,
                    )

    def _train_a_copy(self, images: Tensor, labels: Tensor, stored: Tensor | None) -> None:
        images, labels, teacher = self._inputs(images, labels, stored)
        size, trial = self.settings.batch_size, copy.copy(self)
        trial.student = copy.deepcopy(self.student)
        # The kernels of a loss may be compiled at their first use too. One of the user's own may count its calls.
        trial.criterion = Criterion([]) if self.criterion.is_own else copy.deepcopy(self.criterion)
        losses = loss_terms(trial, channels_last(images[:size]), labels[:size], next(iter(teacher)), 0.0)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]

    def _record(self, images: Tensor, labels: Tensor, stored: Tensor | None) -> None:
        assert self._recorder is not None
        if self.student_is_own or self.criterion.is_own:
            raise graphs.NotRecordable("a student or loss of your own may do something else at every step")
        if self.criterion.changes:
            raise graphs.NotRecordable("a parameter of its loss changes during the run")
        scaler = self.scaler.state_dict()
        images, labels, teacher = self._inputs(images, labels, stored)
        try:
            self._recorded = graphs.RecordedStep(
                self._recorder,
                lambda *inputs: update(self, *inputs, progress=0.0),
                (images, labels, list(teacher)),
                lambda: state_tensors(self.student, self.criterion, self.optimizer),
            )
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.load_state_dict(scaler)

    def _inputs(self, images: Tensor, labels: Tensor, stored: Tensor | None) -> tuple[Tensor, Tensor, Iterable[Maps]]:
        """Return images, labels, and the teacher's logits and features of each part, on the device."""
        images = images.to(self.device, non_blocking=True)
        labels, size = labels.to(self.device, non_blocking=True), self.settings.batch_size
        if not self.criterion.needs_teacher or (self.teacher is None and stored is None):
            return images, labels, [(None, None)] * -(-len(images) // size)
        if self.teacher is None:
            assert stored is not None
            logits = torch.split(stored.to(self.device, non_blocking=True), size)
            return images, labels, list(zip(logits, repeat(None), strict=False))
        # One part after the other: features of a whole iteration may be too much.
        teacher = self.teacher
        return images, labels, (self._ask(teacher, channels_last(part)) for part in torch.split(images, size))

    def _ask(self, teacher: TeacherNet, images: Tensor) -> tuple[Tensor, Tensor | None]:
        with torch.inference_mode(), autocast(self.device, self.amp, dtype=TEACHER_DTYPE):
            logits, features = teacher(images, return_features=True)
        # Inference tensors may not be saved for backward; a clone may.
        return logits.clone(), None if features is None else features.clone()

    def require_teacher(self, images: Tensor) -> None:
        """Raise `CheckpointError` if an online teacher's logits for the images of an iteration are not finite."""
        if self.teacher is not None and self.criterion.needs_teacher:
            advice = ", or set train.amp to off" if self.amp and self.device.type == "cuda" else ""
            for part in torch.split(images.to(self.device), self.settings.batch_size):
                require_finite(self._ask(self.teacher, part)[0], advice)

    def save(self, path: Path, report: Report | None = None) -> None:
        """Write a checkpoint atomically, with the report of the last round if given."""
        self._report = report
        state = {
            "epoch": self.epoch,
            "spent": self.spent,
            "calibrated": self.calibrated,
            "student": self.student.state_dict(),
            "criterion": self.criterion.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "round": self._rest if self._round is None else self._round.state(self.device),
            "report": report,
        }
        write_state(path, state)

    def load(self, path: Path) -> Report | None:
        """Resume from a checkpoint of the same configuration; returns the report of the last round saved with it.

        Raises `CheckpointError` if the checkpoint does not fit.
        """
        self._recorded = None  # it knows the optimizer's old state
        with read_state(path, self.device) as state:
            self.student.load_state_dict(state["student"])
            self.criterion.load_state_dict(state["criterion"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.epoch, self.spent = int(state["epoch"]), float(state["spent"])
            # Checkpoints of version 0.1.0 are those of whole rounds.
            self._round, self._rest = None, state.get("round")
            self.calibrated = float(state.get("calibrated", self.spent))
            if self._rest is not None and "calibrated" not in state:
                self._charge(float(self._rest["seconds"]))  # older checkpoints have them apart
            self._report = state["report"]
        return self._report


def saved_epoch(path: Path) -> int:
    """Return the number of whole rounds in a checkpoint; -1 if there is none that can be read."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True)["epoch"])
    except Exception:
        return -1
