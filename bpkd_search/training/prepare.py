"""What all trials of a search share: the views, the teacher, and the teacher's logits."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bpkd_search.config.loss import terms_by_path
from bpkd_search.config.models import Data, RunConfig
from bpkd_search.config.points import to_tree
from bpkd_search.data.keys import logits_key
from bpkd_search.data.views import (
    Map,
    ViewRecipe,
    ViewStore,
    build_logits,
    cache_dir,
    logits_layout,
    logits_path,
    require_space,
    thread_map,
)
from bpkd_search.data.views.copies import is_whole, local_root
from bpkd_search.errors import ConfigError, DataError
from bpkd_search.models.build import pick_device, teacher_precision
from bpkd_search.training.check import check_networks, try_step
from bpkd_search.training.inputs import Say, every_tenth, prepare_views, view_recipe, views_left
from bpkd_search.training.teacher import FrozenTeacher, file_hash, logits_shape, plain_model, prepare_teacher


@dataclass(frozen=True)
class Prepared:
    """Paths of the views, of the teacher's logits on them and of the teacher's weights, and the teacher's scores.

    `data` is the plain `data` block if views are computed as they are read. If every node keeps a copy,
    `local` is the directory of copies as configured, and `local_teacher` the name of the weights in it.
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
        """The directories of the store that are read."""
        stored = ("val",) if self.data else ("train", "val")
        return (*stored, Path(self.logits).name) if self.logits else stored

    def here(self) -> Prepared:
        """Return the same with the paths of this node's copy; without a complete one, return it unchanged.

        Raises `DataError` if this node has neither, `ResourceError` as `local_root`.
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
                f"{store}: is not a complete copy of the views on {socket.gethostname()}, which may have joined after"
                f" the trials started, and {self.views} is missing there; stop the search and resume it to copy them"
            )
        return self

    def open(self) -> ViewStore:
        """Open the views, with logits if they are stored."""
        recipe = view_recipe(Data.model_validate(self.data)) if self.data else None
        return ViewStore(Path(self.views), Path(self.logits) if self.logits else None, recipe)


def prepare(run: RunConfig, say: Say, view_map: Map = thread_map, logit_map: Map = map) -> Prepared:
    """Find or create the views, teacher and logits of a run.

    `say` is called with lines of progress; the two maps distribute the work (see `data.views`). Raises `DataError`,
    `CheckpointError`, `ResourceError`, `ConfigError`.
    """
    check_networks(run)
    recipe = view_recipe(run.data)
    require_space(cache_dir(run.data.views_dir), needed_bytes(run, recipe))
    store = prepare_views(run.data, say, view_map, recipe)
    terms = terms_by_path(run.loss).items()
    if faults := [f"{path}.{fault}" for path, term in terms for fault in term.class_faults(store.num_classes)]:
        raise ConfigError(faults)
    try_step(run, store)
    teacher, scores = prepare_teacher(run, store, say)
    logits = None
    if run.teacher.mode == "stored":
        # A teacher with the same weights gives the same logits, wherever its file is.
        codec = run.data.logits
        parts = [plain_model(run.teacher), file_hash(teacher), codec]
        key = logits_key(parts, teacher_precision(pick_device(run.train.device), run.train.amp == "auto"))
        path = logits_path(store.path, key)
        if not path.is_dir():
            say(f"logits: the teacher on {store.num_images * store.views} views, kept as {codec}")
        build_logits(
            store,
            FrozenTeacher(run, store.num_classes, teacher),
            key,
            codec=codec,
            progress=every_tenth(say, "logits"),
            map=logit_map,
            waiting=lambda: say("logits: another process is building them; waiting for it"),
            about={"teacher": f"{run.teacher.encoder} + {run.teacher.head}"},
        )
        logits = str(path)
    computed = to_tree(run.data) if run.data.images == "computed" else None
    return Prepared(str(store.path), logits, str(teacher), scores, computed)


def needed_bytes(run: RunConfig, recipe: ViewRecipe) -> dict[str, int]:
    """Return the bytes that a run still has to write to disk, by content; empty if its views are finished."""
    needed = {"the views": views_left(run.data, recipe)}
    if needed["the views"] and run.teacher.mode == "stored":
        needed["the teacher's logits"] = logits_layout(
            run.data.logits,
            logits_shape(run.teacher, len(recipe.train.class_names), run.data.height, run.data.width),
            len(recipe.train) * run.data.views,
        ).bytes
    return needed
