"""What every trial of a search shares: the views, the teacher, and the teacher's logits."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bpkd_search.config.loss import Ce, terms_of
from bpkd_search.config.models import Data, Model, RunConfig
from bpkd_search.config.points import plain
from bpkd_search.data import Dataset, EvalTransform, TrainTransform, check, open_split
from bpkd_search.data.base import digest
from bpkd_search.data.views import (
    Map,
    ViewRecipe,
    ViewStore,
    build_logits,
    build_views,
    bytes_left,
    cache_dir,
    logits_layout,
    logits_path,
    require_space,
    thread_map,
)
from bpkd_search.data.views.copies import is_whole, local_root
from bpkd_search.distill import Distillation, autocast, build_model, evaluate, pick_device
from bpkd_search.errors import CheckpointError, ConfigError, DataError
from bpkd_search.models import Segmentor, load_segmentor, save_weights

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """Paths of the views, of the teacher's logits on them, and of the teacher's weights; and its scores.

    `data` is the plain `data` block where views are computed as they are read. Where every node keeps a copy,
    `local` is the folder of copies as the user wrote it, and `local_teacher` the name of the weights in it.
    """

    views: str
    logits: str | None
    teacher: str | None
    teacher_scores: dict[str, float] | None = None
    data: dict[str, Any] | None = None
    local: str | None = None
    local_teacher: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders of the store that are read."""
        stored = ("val",) if self.data else ("train", "val")
        return (*stored, Path(self.logits).name) if self.logits else stored

    def here(self) -> Prepared:
        """The same with the paths of this node's own copy; without a whole one, as it is, for a shared folder.

        Errors: `DataError` where this node has neither, `ResourceError` as `local_root`.
        """
        if self.local is None:
            return self
        root = local_root(self.local)
        store = root / "views" / Path(self.views).name
        teacher = root / "teachers" / self.local_teacher if self.local_teacher else None
        if is_whole(store, self.parts) and (teacher is None or teacher.is_file()):
            logits = str(store / Path(self.logits).name) if self.logits else None
            return replace(self, views=str(store), logits=logits, teacher=str(teacher) if teacher else self.teacher)
        if not is_whole(Path(self.views), self.parts):
            raise DataError(
                f"{store}: is no whole copy of the views on {socket.gethostname()}, which may have joined after the"
                f" trials began, and {self.views} is not seen there; stop the search and resume it to copy them"
            )
        return self

    def open(self) -> ViewStore:
        """The views, with logits where they are stored."""
        recipe = view_recipe(Data.model_validate(self.data)) if self.data else None
        return ViewStore(Path(self.views), Path(self.logits) if self.logits else None, recipe)


def prepare(run: RunConfig, say: Say, view_map: Map = thread_map, logit_map: Map = map) -> Prepared:
    """Views, teacher and logits of a run: found where they exist, made where they do not.

    `say` gets progress in lines; the two maps spread the work (see `data.views`). Errors: `DataError`,
    `CheckpointError`, `ResourceError`, `ConfigError`.
    """
    recipe = view_recipe(run.data)
    require_space(cache_dir(run.data.views_dir), needed_bytes(run, recipe))
    store = prepare_views(run.data, say, view_map, recipe)
    for term in terms_of(run.loss):
        alpha = getattr(term, "alpha", 0.0)
        if isinstance(alpha, tuple) and len(alpha) != store.num_classes:
            raise ConfigError(
                [f"loss.alpha: got {len(alpha)} numbers, must be one, or one for each of {store.num_classes} classes"]
            )
    teacher, scores = prepare_teacher(run, store, say)
    logits = None
    if run.teacher.mode == "stored":
        # A teacher of the same weights gives the same logits, wherever its file lies.
        codec = run.data.logits
        key = digest([plain_model(run.teacher), file_hash(teacher), codec])
        path = logits_path(store.path, key)
        if not path.is_dir():
            say(f"logits: the teacher on {store.num_images * store.views} views, kept as {codec}")
        build_logits(
            store,
            FrozenTeacher(run, store.num_classes, teacher),
            key,
            codec=codec,
            progress=_every_tenth(say, "logits"),
            map=logit_map,
            waiting=lambda: say("logits: another process is building them; waiting for it"),
            about={"teacher": f"{run.teacher.encoder} + {run.teacher.head}"},
        )
        logits = str(path)
    computed = plain(run.data) if run.data.images == "computed" else None
    return Prepared(str(store.path), logits, str(teacher), scores, computed)


def prepare_views(data: Data, say: Say, map: Map = thread_map, recipe: ViewRecipe | None = None) -> ViewStore:
    """The view store of a `data` block. Errors: `DataError` naming every damaged sample."""
    recipe, root = recipe or view_recipe(data), cache_dir(data.views_dir)
    if _views_left(data, recipe):
        train, val = recipe.train, recipe.val
        say(f"views: {len(train)} train images x {data.views}, {len(val)} val images, {data.height}x{data.width}")
        check(train)
        check(val)
    return build_views(
        recipe,
        root,
        _every_tenth(say, "views"),
        map=map,
        stored=data.images == "stored",
        waiting=lambda: say("views: another process is building them; waiting for it"),
    )


def view_recipe(data: Data) -> ViewRecipe:
    """What fixes the views of a `data` block. Errors: `DataError`."""
    return ViewRecipe(
        open_data(data, "train"),
        open_data(data, "val"),
        TrainTransform(data.height, data.width, data.scale, data.flip, data.colour),
        EvalTransform(data.height, data.width),
        data.views,
        data.seed,
        about={"kind": data.kind},
    )


def needed_bytes(run: RunConfig, recipe: ViewRecipe) -> dict[str, int]:
    """What a run would write to the disk and has not yet, in bytes; nothing where its views are finished."""
    needed = {"the views": _views_left(run.data, recipe)}
    if needed["the views"] and run.teacher.mode == "stored":
        needed["the teacher's logits"] = logits_layout(
            run.data.logits,
            logits_shape(run.teacher, len(recipe.train.class_names), run.data.height, run.data.width),
            len(recipe.train) * run.data.views,
        ).bytes
    return needed


def logits_shape(teacher: Model, num_classes: int, height: int, width: int) -> tuple[int, ...]:
    """(C, h, w) of a network's logits on images of a size, without computing any."""
    with torch.device("meta"):
        model = build_model(teacher.model_copy(update={"weights": None}), num_classes, 0).eval()
        return tuple(model(torch.zeros(1, 3, height, width, dtype=torch.uint8)).shape[1:])


def views_path(data: Data) -> Path:
    """Where the views of a `data` block are kept. Errors: `DataError`."""
    return cache_dir(data.views_dir) / "views" / view_recipe(data).key()


def _views_left(data: Data, recipe: ViewRecipe) -> int:
    """Bytes of a `data` block's views that are still to be written."""
    path = cache_dir(data.views_dir) / "views" / recipe.key()
    parts = ("train", "val") if data.images == "stored" else ("val",)
    return sum(bytes_left(path / part, recipe.layouts[part]) for part in parts)


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
    path, key = teacher_file(run, store.path.name)
    where = f"checkpoint {path}" if spec.checkpoint else f"{spec.train.epochs} epochs of training"
    if spec.checkpoint is None and not path.is_file():
        _train_teacher(run, store, path, say)
    folder = cache_dir(run.data.views_dir) / "teachers"
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


def teacher_file(run: RunConfig, views: str) -> tuple[Path, str]:
    """Where the weights of a run's teacher lie, made or not yet, and the key of what makes them and their scores.

    `views` is the key of the run's views. Errors: `CheckpointError` for a file that is named and not there.
    """
    spec = run.teacher
    if spec.checkpoint is not None:
        path = spec.checkpoint.expanduser()
        return path, digest([plain_model(spec), file_hash(path), views])
    start = file_hash(spec.weights) if spec.weights else None
    key = digest([plain_model(spec), spec.train.model_dump(exclude={"device"}), start, views])
    return cache_dir(run.data.views_dir) / "teachers" / f"{key}.safetensors", key


def open_teacher(run: RunConfig, num_classes: int, path: Path, device: torch.device) -> Segmentor:
    """The frozen teacher, in evaluation mode. Errors: `CheckpointError`."""
    model = build_model(run.teacher.model_copy(update={"weights": None}), num_classes, 0)
    load_segmentor(model, path)
    return model.to(device).eval().requires_grad_(False)


class FrozenTeacher:
    """A teacher as a function of images uint8 [B, 3, H, W]; every process that gets it opens its own network."""

    def __init__(self, run: RunConfig, num_classes: int, path: Path) -> None:
        self._arguments, self._device = (run, num_classes, path), pick_device(run.train.device)
        self._net: Segmentor | None = None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [B, C, h, w]."""
        if self._net is None:
            self._net = open_teacher(*self._arguments, self._device)
        with torch.inference_mode(), autocast(self._device):
            logits: torch.Tensor = self._net(images.to(self._device, non_blocking=True))
        return logits

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenTeacher, self._arguments


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
    while not training.finished:
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
