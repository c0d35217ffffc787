"""The teacher: loaded from the cache, a file of this or other software or a function, or trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from bpkd_search.config.models import RunConfig
from bpkd_search.config.networks import Model, Teacher
from bpkd_search.config.points import to_tree
from bpkd_search.config.software import software_of, teacher_title
from bpkd_search.data import Dataset
from bpkd_search.data.base import digest
from bpkd_search.data.hashes import content_hashes
from bpkd_search.data.keys import teacher_key
from bpkd_search.data.views import GivenLogits, ViewStore, cache_dir
from bpkd_search.data.views.chunks import cache_lock
from bpkd_search.errors import CheckpointError
from bpkd_search.files import write_bytes, write_text
from bpkd_search.losses.methods import Ce
from bpkd_search.metrics import SegmentationMetrics
from bpkd_search.models import Network, load_segmentor, save_weights
from bpkd_search.models.build import TEACHER_DTYPE, autocast, build_model, pick_device
from bpkd_search.models.heads import resize
from bpkd_search.models.network import are_probabilities, require_finite
from bpkd_search.models.teachers.foreign import ForeignTeacher
from bpkd_search.models.teachers.function import content_of, weights_of
from bpkd_search.models.teachers.open import PACKAGES, class_map, key_of, open_network
from bpkd_search.training.distill import Distillation
from bpkd_search.training.evaluation import evaluate
from bpkd_search.training.inputs import Say
from bpkd_search.training.probe import FOREIGN_KEYS, is_foreign, probe, source_of, teacher_files
from bpkd_search.training.source import open_data
from bpkd_search.training.teacher_classes import below_constant, class_rows, own_classes

# What is wrong with a teacher's outputs that a softmax went over: a loss would take a second one.
PROBABILITIES = (
    "gives probabilities, which sum to 1 over the classes, must give logits: those before the softmax, or its logarithm"
)


def prepare_teacher(run: RunConfig, store: ViewStore, say: Say) -> tuple[Path, dict[str, float]]:
    """Return the teacher's file or folder and its validation scores; trained here if neither file nor cache exists.

    Trained teachers are cached under a hash of everything that determines them. If two processes need the same one, the
    second waits for the first. Given logits have scores if there are files of the validation images. Raises
    `CheckpointError` that names the keys if a checkpoint does not fit.
    """
    spec = run.teacher
    path, key = teacher_file(run, store.crops_key, store.class_names)
    where = f"checkpoint {path}" if spec.checkpoint else f"{spec.train.length} of training"
    where = "its function" if spec.factory and not spec.checkpoint else where
    folder, evaluation = teachers_dir(run.data.views_dir), run.data.evaluation
    scores_file = folder / f"{key}-{digest(to_tree(evaluation))}.json"
    scores = _read_scores(scores_file) if path.exists() else None
    if scores is None:
        doing = "evaluating" if path.exists() else "training"
        waiting = f"teacher: another process is {doing} it; waiting for it"
        with cache_lock(folder / f"{key}.lock", notice=lambda: say(waiting)):
            if spec.factory is not None and spec.checkpoint is None:
                write_bytes(path, save(weights_of(probe(spec).net.network)))
            elif spec.checkpoint is None and not path.is_file():
                _train_teacher(run, store, path, say)
            scores = _read_scores(scores_file)
            if scores is None:
                scores = _scores(run, store, path)
                write_text(scores_file, json.dumps(scores))
    matched = probe(spec).class_map(store.class_names, *run.data.crop) if is_foreign(spec) else None
    if software_of(spec) == "own" and spec.checkpoint is not None:
        matched = own_classes(spec, path, store.class_names)
    if matched is not None and matched.line:
        say(f"teacher: {matched.line}")
    known = f"val mIoU {scores['miou']:.4f}" if scores else "no logits of all validation images, so no scores"
    say(f"teacher: {teacher_title(to_tree(spec))}, from {where}: {known}")
    finished = spec.checkpoint is not None or spec.factory is not None
    if finished and (warning := below_constant(scores, store.manifest.val_counts)):
        say(warning)
    return path, scores


def teachers_dir(views_dir: Path | None) -> Path:
    """Return the directory of the teachers that were trained here, and of the scores of all."""
    return cache_dir(views_dir) / "teachers"


def teacher_file(run: RunConfig, crops: str, class_names: Sequence[str]) -> tuple[Path, str]:
    """Return the path of the teacher's file or folder, existing or not, and the key of what determines it.

    `crops` is the key of the run's training crops, `class_names` are the data's. Raises `CheckpointError` if a
    configured file is missing.
    """
    key = teacher_key([*teacher_parts(run, class_names), crops])
    path = source_of(run.teacher)
    return (path or teachers_dir(run.data.views_dir) / f"{key}.safetensors"), key


def teacher_parts(run: RunConfig, class_names: Sequence[str]) -> list[Any]:
    """Return what determines a teacher's weights beside views and libraries. Raises as `teacher_file` does."""
    spec = run.teacher
    if (path := source_of(spec)) is not None:
        return teacher_identity(run, path, class_names)
    if spec.factory is not None:
        return [_described(spec), content_of(weights_of(probe(spec).net.network)), list(class_names)]
    return [
        plain_model(spec),
        spec.train.identity(),
        content_hash(spec.weights, key="teacher.weights") if spec.weights else None,
    ]


def teacher_identity(run: RunConfig, path: Path, class_names: Sequence[str]) -> list[Any]:
    """Return what determines the logits of the teacher in `path` beside libraries. Raises `CheckpointError`."""
    spec = run.teacher
    content = content_hash(path, cache_dir(run.data.views_dir), key="teacher.checkpoint" if spec.checkpoint else "")
    if software_of(spec) == "own":
        rows = class_rows(spec, path, class_names) if spec.checkpoint is not None else None
        return [plain_model(spec), content, *([] if rows is None else [rows])]
    return [_described(spec), content, list(class_names)]


def open_teacher(run: RunConfig, class_names: Sequence[str], path: Path, device: torch.device) -> Network:
    """Load the frozen teacher, in evaluation mode.

    Raises `CheckpointError` if it does not fit the data's classes; of a damaged file of the cache, it says how to go
    on.
    """
    if software_of(run.teacher, path) != "own":
        return open_network(run.teacher, path, device, class_names)
    spec = run.teacher.model_copy(update={"weights": None, "auxiliary_weight": 0})
    model = build_model(spec, len(class_names), 0)
    try:
        rows = class_rows(run.teacher, path, class_names) if run.teacher.checkpoint is not None else None
        load_segmentor(model, path, rows)
    except CheckpointError as e:
        if run.teacher.checkpoint is not None:
            raise
        raise CheckpointError(
            f"{e}; this file was written when the teacher was trained: delete it, and the next start trains the teacher"
            " again, as it was"
        ) from e
    return model.to(device).eval().requires_grad_(False)


def given_logits(run: RunConfig, split: Dataset, name: str) -> GivenLogits:
    """Return the files of logits of a split.

    Raises `CheckpointError` if their classes are not the data's, or the first holds probabilities.
    """
    path = source_of(run.teacher) or Path()
    given = GivenLogits(path, name, tuple(split.names))
    if (first := next((index for index in range(len(split)) if given.find(index)), None)) is None:
        return given
    values = given.array(first)
    if are_probabilities(torch.from_numpy(np.array(values, np.float32))[None]):
        raise CheckpointError(f"teacher.checkpoint: {given.find(first)}: {PROBABILITIES}")
    count = len(values)
    classes = class_map(run.teacher, run.teacher.classes, count, ours=split.class_names)
    return replace(given, count=count, classes=classes)


class FrozenTeacher:
    """A teacher as a function of images uint8 [B, 3, H, W]; picklable, each process opens its own network."""

    def __init__(self, run: RunConfig, class_names: Sequence[str], path: Path) -> None:
        self._arguments, self._device = (run, class_names, path), pick_device(run.train.device)
        self._amp = run.train.amp == "auto"
        self._net: Network | None = None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [B, C, h, w]. Raises `CheckpointError` if they are not finite."""
        if self._net is None:
            self._net = open_teacher(*self._arguments, self._device)
        images = images.to(self._device, non_blocking=True)
        with torch.inference_mode():
            with autocast(self._device, self._amp, dtype=TEACHER_DTYPE):
                logits: torch.Tensor = self._net(images)
            # A network trained in bfloat16 or float32 may exceed the range of float16.
            if not logits.isfinite().all():
                require_finite(logits := self._net(images))
            return logits

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenTeacher, self._arguments


def plain_model(model: Model) -> dict[str, Any]:
    """Return what determines a network and its loss, without the paths of its weights."""
    tree = {k: v for k, v in to_tree(model).items() if k in _DETERMINING}
    return tree | ({"auxiliary_weight": model.auxiliary_weight} if model.auxiliary_weight else {})


# What determines a network; an auxiliary head is named where there is one.
_DETERMINING = ("encoder", "head", "channels", "output_stride", "factory", "arguments")


def content_hash(path: Path, cache: Path | None = None, *, key: str = "") -> str:
    """Return a hash of a file's bytes, or of the names and bytes of those files of a folder that a teacher is made of.

    Hashes of the files of a folder are kept in `cache`. Raises `CheckpointError` with the `key` if the path is missing.
    """
    path = path.expanduser()
    try:
        if path.is_dir():
            names = teacher_files(path)
            return digest([names, content_hashes([path / name for name in names], cache)])
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as e:
        raise CheckpointError(f"{key}{': ' * bool(key)}{path}: weights file cannot be read: {e.strerror}") from e


def _described(spec: Teacher) -> dict[str, Any]:
    """Return what determines the outputs of a teacher of other software, without the paths of its files."""
    software = software_of(spec)
    tree = {key: value for key, value in to_tree(spec).items() if key in FOREIGN_KEYS}
    package = PACKAGES.get(software)
    version = package and metadata.version(package.replace("_", "-"))
    return {"software": software, "version": version, "function": spec.factory, **tree}


def _scores(run: RunConfig, store: ViewStore, path: Path) -> dict[str, float]:
    """Return the teacher's scores on the validation split; none for given logits that are not of all its images."""
    device = pick_device(run.train.device)
    if software_of(run.teacher) != "logits":
        teacher = open_teacher(run, store.class_names, path, device)
        images, _, _ = next(store.epoch(0, 1, 0, device=device, logits=False))
        with torch.inference_mode():
            require_finite(teacher(images))
            if isinstance(teacher, ForeignTeacher) and are_probabilities(teacher.raw(images)):
                raise CheckpointError(
                    f"{key_of(run.teacher)}: {run.teacher.factory or run.teacher.checkpoint}: {PROBABILITIES}"
                )
        return evaluate(teacher, store, device, run.data.evaluation, amp=run.train.amp == "auto").as_dict()
    given, metrics = given_logits(run, open_data(run.data, "val"), "val"), SegmentationMetrics(store.num_classes)
    if any(given.find(index) is None for index in range(store.num_val_images)):
        return {}
    for index, (image, label) in enumerate(store.val_samples()):
        height, width = image.shape[-2:]
        logits = given.read(index, (height, width), given.stride(index, (height, width)))
        metrics.update(resize(logits, label.shape[-2:]).argmax(1), label[None])
    return metrics.compute().as_dict()


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
