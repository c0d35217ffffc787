"""What all trials of a search share: the images, the teacher, and the teacher's logits."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bpkd_search.config.data import Data
from bpkd_search.config.loss import terms_by_path
from bpkd_search.config.models import RunConfig
from bpkd_search.config.points import to_tree
from bpkd_search.config.software import software_of, teacher_title
from bpkd_search.data import TrainTransform
from bpkd_search.data.keys import logits_key
from bpkd_search.data.views import (
    ViewStore,
    build_logits,
    build_maps,
    bytes_left,
    cache_dir,
    describe,
    has_space,
    logits_path,
    require_space,
)
from bpkd_search.data.views.codecs import open_codec
from bpkd_search.data.views.copies import is_whole, local_root
from bpkd_search.errors import ConfigError, DataError
from bpkd_search.models.build import pick_device, teacher_precision
from bpkd_search.stores.home import reach
from bpkd_search.training.agreement import TOLERANCE, Agreement, measure
from bpkd_search.training.check import (
    check_classes,
    check_evaluation,
    check_networks,
    check_weights,
    require_files,
    try_step,
)
from bpkd_search.training.forms import Form, forms, repeats, teacher_form, teacher_layout
from bpkd_search.training.inputs import Say, every_tenth, prepare_views, store_left, store_path, view_recipe
from bpkd_search.training.own import check_metric
from bpkd_search.training.probe import forget
from bpkd_search.training.source import open_data
from bpkd_search.training.teacher import FrozenTeacher, given_logits, prepare_teacher, teacher_identity
from bpkd_search.training.workers import HERE, Workers


@dataclass(frozen=True)
class Prepared:
    """Paths of the store, of the teacher's logits in it and of the teacher's weights, and the teacher's scores.

    `views`, `mode` and `grid` are the form (see `training.forms`), `data` is the plain `data` block, `agreement` how
    well maps stand for the teacher. If every node keeps a copy, `local` is the directory of copies as configured, and
    `local_teacher` the name of the weights in it.
    """

    store: str
    views: int
    mode: str
    grid: int
    data: dict[str, Any]
    logits: str | None
    teacher: str | None
    teacher_scores: dict[str, float] | None = None
    agreement: dict[str, float] | None = None
    local: str | None = None
    local_teacher: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The directories of the store that are read."""
        crops: tuple[str, ...] = () if self.computed else ("train",) if self.views else ("whole",)
        stored = (*crops, "validation")
        return (*stored, Path(self.logits).name) if self.logits else stored

    @property
    def computed(self) -> bool:
        """Whether views are computed as they are read."""
        return bool(self.views) and self.data["images"] == "computed"

    def here(self) -> Prepared:
        """Return the same with the paths of this node's copy; without a complete one, return it unchanged.

        Raises `DataError` if this node has neither, `ResourceError` as `local_root`.
        """
        if self.local is None:
            return self
        if (copy := self.copy_here()) is not None:
            return copy
        if not is_whole(Path(self.store), self.parts):
            raise DataError(
                f"{local_root(self.local) / 'views' / Path(self.store).name}: is not a complete copy of the views on"
                f" {socket.gethostname()}, and {self.store} is missing there; stop the search and resume it to copy"
                " them"
            )
        return self

    def copy_here(self) -> Prepared | None:
        """Return the same with the paths of this node's copy, None without a complete one. Raises `ResourceError`."""
        root = local_root(str(self.local))
        store = root / "views" / Path(self.store).name
        teacher = root / "teachers" / self.local_teacher if self.local_teacher else None
        if is_whole(store, self.parts) and (teacher is None or teacher.exists()):
            logits = str(store / Path(self.logits).name) if self.logits else None
            return replace(self, store=str(store), logits=logits, teacher=str(teacher) if teacher else self.teacher)
        return None

    def open(self) -> ViewStore:
        """Open the store, with logits if they are stored."""
        data, form = Data.model_validate(self.data), Form(self.views, self.mode, self.grid)
        recipe = view_recipe(data, form) if self.computed else None
        logits = Path(self.logits) if self.logits else None
        return ViewStore(Path(self.store), logits, recipe, transform=form.transform(data), seed=data.seed)


def prepare(run: RunConfig, say: Say, workers: Workers = HERE) -> Prepared:
    """Find or create the images, teacher and logits of a run or search, in the first form of `forms` that will do.

    `say` is called with lines of progress; `workers` do the work. Raises `DataError`, `CheckpointError`,
    `ResourceError`, `ConfigError`, `StoreError`.
    """
    check_networks(run)
    require_files(run)
    if run.data.views_store is not None:
        reach(run.data.views_store)
    train = open_data(run.data, "train")
    val = open_data(run.data, "val")
    check_metric(run, val)
    order = forms(run, train)
    check_weights(run, train.class_names)
    check_classes(run, train, val)
    terms = terms_by_path(run.loss).items()
    if faults := [f"{path}.{fault}" for path, term in terms for fault in term.class_faults(len(train.class_names))]:
        raise ConfigError(faults)
    open_codec(run.data.logits, len(train.class_names))
    # What the last of the forms needs least: a disk too small for another is no reason to stop.
    require_space(cache_dir(run.data.views_dir), needed_bytes(run, order[-1]))
    store = prepare_views(run.data, teacher_form(run.data), say, workers.views)
    for line in store.manifest.warnings():
        say(line)
    for size in sorted(set(store.manifest.evaluation_sizes)):
        check_evaluation(run, size)
    given = software_of(run.teacher) == "logits"
    online, grid = order[0].mode == "online", order[0].grid if given else None
    workers.apart(_try_step, run, store, online, grid, say=say)
    teacher, scores = workers.apart(prepare_teacher, run, store, say=say)
    agreed: dict[str, float] | None = None
    for form in order:
        if form != order[-1] and not has_space(
            cache_dir(run.data.views_dir), needed_bytes(run, form, teacher, workers.device)
        ):
            say(f"{form.mode}: needs more than the disk has free; another form is used")
            continue
        store = prepare_views(run.data, form, say, workers.views)
        if form.mode == "online":
            break
        store = _with_logits(run, form, store, teacher, say, workers)
        if form.mode == "stored" or given:
            break
        agreement = workers.apart(_agreement, run, store, teacher, say=say)
        agreed = asdict(agreement)
        say(agreement.line())
        if agreement.passed:
            break
        more = "; another form is used" if form != order[-1] else ""
        say(f"warning: the maps lose more than {100 * TOLERANCE:g} points of the teacher's accuracy{more}")
    forget()
    if warning := repeats(run, form, store.num_images):
        say(warning)
    return Prepared(
        str(store.path),
        form.views,
        form.mode,
        form.grid,
        to_tree(run.data),
        str(store.logits.path) if store.logits else None,
        str(teacher),
        scores,
        agreed if form.mode == "maps" else None,
    )


def _try_step(run: RunConfig, store: ViewStore, online: bool, grid: int | None, *, say: Say) -> None:
    try_step(run, store, online=online, grid=grid)


def _agreement(run: RunConfig, store: ViewStore, teacher: Path, *, say: Say) -> Agreement:
    return measure(store, FrozenTeacher(run, store.class_names, teacher))


def _with_logits(run: RunConfig, form: Form, store: ViewStore, teacher: Path, say: Say, workers: Workers) -> ViewStore:
    """Return the store with the logits of the teacher, on views or whole images; missing ones are computed."""
    codec, key = run.data.logits, _logits_key(run, form, store.transform, teacher, store.class_names, workers.device)
    given = software_of(run.teacher) == "logits"
    what = f"{store.num_images * store.views} views" if form.views else f"{store.num_images} whole images"
    if not logits_path(store.path, key).is_dir():
        whose = "the teacher's, of" if given else "the teacher on"
        say(f"logits: {whose} {what}, kept as {codec}")
    build: Any = build_logits if form.views else build_maps
    source = (
        given_logits(run, open_data(run.data, "train"), "train")
        if given
        else FrozenTeacher(run, store.class_names, teacher)
    )
    built: ViewStore = build(
        store,
        source,
        key,
        codec=codec,
        progress=every_tenth(say, "logits"),
        map=workers.logits,
        waiting=lambda: say("logits: another process is building them; waiting for it"),
        about={"teacher": teacher_title(to_tree(run.teacher))},
        kept=run.data.views_store,
    )
    return built


def needed_bytes(run: RunConfig, form: Form, teacher: Path | None = None, device: str | None = None) -> dict[str, int]:
    """Return the bytes that a run still has to write to disk, by content; `device` is that of `Workers`.

    Without the `teacher`'s file, its logits count in full where images are still to be written, and else not.
    """
    recipe = view_recipe(run.data, form)
    needed = {"the images": store_left(run.data, recipe)}
    if form.mode == "online" or not (needed["the images"] or teacher):
        return needed
    sizes = () if form.views else describe(recipe, store_path(run.data, recipe)).train_sizes
    layout = teacher_layout(run, form, recipe.train, sizes)
    left = layout.bytes
    if teacher:
        key = _logits_key(run, form, recipe.train_transform, teacher, recipe.train.class_names, device)
        left = bytes_left(logits_path(store_path(run.data, recipe), key), layout)
    return {**needed, "the teacher's logits": left}


def _logits_key(
    run: RunConfig,
    form: Form,
    transform: TrainTransform,
    teacher: Path,
    class_names: Sequence[str],
    device: str | None,
) -> str:
    # A teacher with the same weights gives the same logits, wherever its file is.
    parts = [*teacher_identity(run, teacher, class_names), run.data.logits]
    parts += [] if form.views else [transform.map_identity()]
    return logits_key(
        parts,
        teacher_precision(torch.device(device) if device else pick_device(run.train.device), run.train.amp == "auto"),
    )
