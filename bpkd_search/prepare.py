"""What every trial of a search shares: the views, the teacher, and the teacher's logits."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bpkd_search.config.loss import Ce, terms_of
from bpkd_search.config.models import Data, Model, RunConfig
from bpkd_search.config.points import plain
from bpkd_search.data import Dataset, EvalTransform, TrainTransform, check, open_split
from bpkd_search.data.base import digest
from bpkd_search.data.views import ViewRecipe, ViewStore, build_logits, build_views, cache_dir
from bpkd_search.distill import Distillation, autocast, build_model, evaluate, pick_device
from bpkd_search.errors import CheckpointError, ConfigError, DataError
from bpkd_search.models import Segmentor, load_segmentor, save_weights

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """Paths of the views, of the teacher's logits on them, and of the teacher's weights; and its scores."""

    views: str
    logits: str | None
    teacher: str | None
    teacher_scores: dict[str, float] | None = None

    def open(self) -> ViewStore:
        """The views, with logits where they are stored."""
        return ViewStore(Path(self.views), Path(self.logits) if self.logits else None)


def prepare(run: RunConfig, say: Say) -> Prepared:
    """Views, teacher and logits of a run: found where they exist, made where they do not.

    `say` gets progress in lines. Errors: `DataError`, `CheckpointError`, `ResourceError`, `ConfigError`.
    """
    store = prepare_views(run.data, say)
    for term in terms_of(run.loss):
        alpha = getattr(term, "alpha", 0.0)
        if isinstance(alpha, tuple) and len(alpha) != store.num_classes:
            raise ConfigError(
                [f"loss.alpha: got {len(alpha)} numbers, must be one, or one for each of {store.num_classes} classes"]
            )
    teacher, scores = prepare_teacher(run, store, say)
    logits = None
    if run.teacher.mode == "stored":
        device = pick_device(run.train.device)
        net = open_teacher(run, store.num_classes, teacher, device)

        def infer(images: torch.Tensor) -> torch.Tensor:
            with autocast(device):
                logits: torch.Tensor = net(images.to(device))
            return logits

        # A teacher of the same weights gives the same logits, wherever its file lies.
        key = digest([plain_model(run.teacher), file_hash(teacher)])
        path = store.path / f"logits-{key}.npy"
        if not path.is_file():
            say(f"logits: the teacher on {len(store.images)} views")
        build_logits(store, infer, key, progress=_every_tenth(say, "logits"))
        logits = str(path)
    return Prepared(str(store.path), logits, str(teacher), scores)


def prepare_views(data: Data, say: Say) -> ViewStore:
    """The view store of a `data` block. Errors: `DataError` naming every damaged sample."""
    train, val = open_data(data, "train"), open_data(data, "val")
    recipe = ViewRecipe(
        train,
        val,
        TrainTransform(data.height, data.width, data.scale, data.flip, data.colour),
        EvalTransform(data.height, data.width),
        data.views,
        data.seed,
    )
    root = cache_dir(data.views_dir)
    if not (root / "views" / recipe.key() / "manifest.json").is_file():
        say(f"views: {len(train)} train images x {data.views}, {len(val)} val images, {data.height}x{data.width}")
        check(train)
        check(val)
    return build_views(recipe, root, _every_tenth(say, "views"))


def open_data(data: Data, split: str) -> Dataset:
    """A split of a `data` block's data set. Errors: `DataError`."""
    if data.kind == "synthetic":
        return open_split("synthetic", split, **data.synthetic.model_dump())
    root = data.root
    if root is None:
        variable = f"BPKD_{data.kind.upper()}"
        if variable not in os.environ:
            raise DataError(
                f"data.root: is not set; give the folder of the {data.kind} data as --set data.root=DIR"
                f" or in the environment variable {variable}"
            )
        root = Path(os.environ[variable])
    options = data.folder.model_dump() if data.kind == "folder" and data.folder else {}
    return open_split(data.kind, split, root=root.expanduser(), **options)


def prepare_teacher(run: RunConfig, store: ViewStore, say: Say) -> tuple[Path, dict[str, float]]:
    """The teacher's weights file and its validation scores; trained here if there is neither file nor cache.

    Trained teachers are kept under a hash of what made them. Errors: `CheckpointError` naming the keys
    of a checkpoint that do not fit.
    """
    spec = run.teacher
    folder = cache_dir(run.data.views_dir) / "teachers"
    if spec.checkpoint is not None:
        path = spec.checkpoint.expanduser()
        key = digest([plain_model(spec), file_hash(path), store.path.name])
        where = f"checkpoint {path}"
    else:
        start = file_hash(spec.weights) if spec.weights else None
        optimisation = spec.train.model_dump(exclude={"device"})
        key = digest([plain_model(spec), optimisation, start, store.path.name])
        path = folder / f"{key}.safetensors"
        where = f"{spec.train.epochs} epochs of training"
        if not path.is_file():
            _train_teacher(run, store, path, say)
    scores_file = folder / f"{key}.json"
    if scores_file.is_file() and path.is_file():
        scores: dict[str, float] = json.loads(scores_file.read_text())
    else:
        device = pick_device(run.train.device)
        scores = evaluate(open_teacher(run, store.num_classes, path, device), store, device).as_dict()
        folder.mkdir(parents=True, exist_ok=True)
        scores_file.write_text(json.dumps(scores))
    say(f"teacher: {spec.encoder} + {spec.head}, from {where}: val mIoU {scores['miou']:.4f}")
    return path, scores


def open_teacher(run: RunConfig, num_classes: int, path: Path, device: torch.device) -> Segmentor:
    """The frozen teacher, in evaluation mode. Errors: `CheckpointError`."""
    model = build_model(run.teacher.model_copy(update={"weights": None}), num_classes, 0)
    load_segmentor(model, path)
    return model.to(device).eval().requires_grad_(False)


def plain_model(model: Model) -> dict[str, Any]:
    """What fixes a network's shape, without the files that fill it."""
    return {k: v for k, v in plain(model).items() if k in ("encoder", "head", "channels", "output_stride")}


def file_hash(path: Path) -> str:
    """Hash of a file's bytes. Errors: `CheckpointError` when there is no such file."""
    try:
        return hashlib.sha256(path.expanduser().read_bytes()).hexdigest()
    except OSError as e:
        raise CheckpointError(f"{path}: weights file cannot be read: {e.strerror}") from e


def _train_teacher(run: RunConfig, store: ViewStore, path: Path, say: Say) -> None:
    """Train the teacher on labels alone, on the same views as the students; continues after a crash."""
    settings = run.teacher.train
    training = Distillation(run.teacher, Ce(), settings, store)
    checkpoint = path.with_suffix(".checkpoint.pt")
    if checkpoint.is_file():
        training.load(checkpoint)
        say(f"teacher: continues after epoch {training.epoch}")
    while training.epoch < settings.epochs:
        report = training.train_epoch()
        training.save(checkpoint)
        say(f"teacher: epoch {training.epoch}/{settings.epochs}, loss {report['loss']:.3f}")
    save_weights(path, training.student, {"teacher": plain(run.teacher)})
    checkpoint.unlink()


def _every_tenth(say: Say, what: str) -> Callable[[int, int], None]:
    """Progress as a line at each tenth of the work."""
    last = 0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if done * 10 // total > last:
            last = done * 10 // total
            if last % 2 == 0:
                say(f"{what}: {done}/{total}")

    return progress
