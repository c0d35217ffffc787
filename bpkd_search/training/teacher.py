"""The teacher: loaded from the cache or a checkpoint, or trained."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from bpkd_search.config.models import RunConfig
from bpkd_search.config.networks import Model
from bpkd_search.config.points import to_tree
from bpkd_search.data.base import digest
from bpkd_search.data.keys import teacher_key
from bpkd_search.data.views import ViewStore, cache_dir
from bpkd_search.data.views.chunks import cache_lock
from bpkd_search.errors import CheckpointError
from bpkd_search.files import write_text
from bpkd_search.losses.methods import Ce
from bpkd_search.models import Network, load_segmentor, save_weights
from bpkd_search.models.build import TEACHER_DTYPE, autocast, build_model, pick_device
from bpkd_search.training.distill import Distillation
from bpkd_search.training.evaluation import evaluate
from bpkd_search.training.inputs import Say


def prepare_teacher(run: RunConfig, store: ViewStore, say: Say) -> tuple[Path, dict[str, float]]:
    """Return the teacher's weights file and its validation scores; trained here if neither file nor cache exists.

    Trained teachers are cached under a hash of everything that determines them. If two processes need the same one, the
    second waits for the first. Raises `CheckpointError` that names the keys if a checkpoint does not fit.
    """
    spec = run.teacher
    path, key = teacher_file(run, store.crops_key)
    where = f"checkpoint {path}" if spec.checkpoint else f"{spec.train.length} of training"
    folder, evaluation = cache_dir(run.data.views_dir) / "teachers", run.data.evaluation
    scores_file = folder / f"{key}-{digest(to_tree(evaluation))}.json"
    scores = _read_scores(scores_file) if path.is_file() else None
    if scores is None:
        doing = "evaluating" if path.is_file() else "training"
        waiting = f"teacher: another process is {doing} it; waiting for it"
        with cache_lock(folder / f"{key}.lock", notice=lambda: say(waiting)):
            if spec.checkpoint is None and not path.is_file():
                _train_teacher(run, store, path, say)
            scores = _read_scores(scores_file)
            if scores is None:
                device = pick_device(run.train.device)
                teacher = open_teacher(run, store.num_classes, path, device)
                amp = run.train.amp == "auto"
                scores = evaluate(teacher, store, device, evaluation, amp=amp).as_dict()
                write_text(scores_file, json.dumps(scores))
    say(f"teacher: {spec.described}, from {where}: val mIoU {scores['miou']:.4f}")
    return path, scores


def teacher_file(run: RunConfig, crops: str) -> tuple[Path, str]:
    """Return the path of the teacher's weights, existing or not, and the key of what determines them.

    `crops` is the key of the run's training crops. Raises `CheckpointError` if a configured file is missing.
    """
    spec = run.teacher
    key = teacher_key([*teacher_parts(run), crops])
    if spec.checkpoint is not None:
        return spec.checkpoint.expanduser(), key
    return cache_dir(run.data.views_dir) / "teachers" / f"{key}.safetensors", key


def teacher_parts(run: RunConfig) -> list[Any]:
    """Return what determines a teacher's weights beside views and libraries. Raises `CheckpointError` as above."""
    spec = run.teacher
    if spec.checkpoint is not None:
        return [plain_model(spec), file_hash(spec.checkpoint)]
    start = file_hash(spec.weights) if spec.weights else None
    return [plain_model(spec), spec.train.identity(), start]


def open_teacher(run: RunConfig, num_classes: int, path: Path, device: torch.device) -> Network:
    """Load the frozen teacher, in evaluation mode.

    Raises `CheckpointError` if the weights do not fit; of a damaged file of the cache, it says how to go on.
    """
    model = build_model(run.teacher.model_copy(update={"weights": None, "auxiliary_weight": 0}), num_classes, 0)
    try:
        load_segmentor(model, path)
    except CheckpointError as e:
        if run.teacher.checkpoint is not None:
            raise
        raise CheckpointError(
            f"{e}; this file was written when the teacher was trained: delete it, and the next start trains the teacher"
            " again, as it was"
        ) from e
    return model.to(device).eval().requires_grad_(False)


class FrozenTeacher:
    """A teacher as a function of images uint8 [B, 3, H, W]; picklable, each process opens its own network."""

    def __init__(self, run: RunConfig, num_classes: int, path: Path) -> None:
        self._arguments, self._device = (run, num_classes, path), pick_device(run.train.device)
        self._amp = run.train.amp == "auto"
        self._net: Network | None = None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [B, C, h, w]."""
        if self._net is None:
            self._net = open_teacher(*self._arguments, self._device)
        images = images.to(self._device, non_blocking=True)
        with torch.inference_mode():
            with autocast(self._device, self._amp, dtype=TEACHER_DTYPE):
                logits: torch.Tensor = self._net(images)
            # A network trained in bfloat16 or float32 may exceed the range of float16.
            return logits if logits.isfinite().all() else self._net(images)

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenTeacher, self._arguments


def plain_model(model: Model) -> dict[str, Any]:
    """Return what determines a network and its loss, without the paths of its weights."""
    tree = {k: v for k, v in to_tree(model).items() if k in _DETERMINING}
    return tree | ({"auxiliary_weight": model.auxiliary_weight} if model.auxiliary_weight else {})


# What determines a network; an auxiliary head is named where there is one.
_DETERMINING = ("encoder", "head", "channels", "output_stride", "factory", "arguments")


def file_hash(path: Path) -> str:
    """Return a hash of a file's bytes. Raises `CheckpointError` if the file is missing."""
    try:
        return hashlib.sha256(path.expanduser().read_bytes()).hexdigest()
    except OSError as e:
        raise CheckpointError(f"{path}: weights file cannot be read: {e.strerror}") from e


def _read_scores(path: Path) -> dict[str, float] | None:
    """Return the scores in a file, or None if it is missing or damaged."""
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return scores if isinstance(scores, dict) and "miou" in scores else None


def _train_teacher(run: RunConfig, store: ViewStore, path: Path, say: Say) -> None:
    """Train the teacher on labels alone, on the students' views; resumes after a crash."""
    settings = run.teacher.train
    training = Distillation(run.teacher, Ce(), settings, store)
    checkpoint = path.with_suffix(".checkpoint.pt")
    if checkpoint.is_file():
        try:
            training.load(checkpoint)
            say(f"teacher: resumes after epoch {training.epoch}")
        except CheckpointError as e:
            say(f"teacher: {e}; it is trained from the start")
            training = Distillation(run.teacher, Ce(), settings, store)
    while not training.finished:
        report = training.train_epoch(checkpoint)
        training.save(checkpoint)
        say(f"teacher: epoch {training.schedule.shown(training.epoch)}, loss {report['loss']:.3f}")
    save_weights(path, training.student, {"teacher": to_tree(run.teacher)})
    checkpoint.unlink(missing_ok=True)
