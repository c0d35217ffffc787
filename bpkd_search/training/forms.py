"""How the teacher reaches the trials: on views, on whole images, or run at every step; and what `auto` chooses.

What a form costs before the trials is the teacher's work: pixels per image through it, and bytes on the disk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from bpkd_search.config.data import Data
from bpkd_search.config.models import RunConfig, SearchConfig
from bpkd_search.config.points import needs_features
from bpkd_search.config.software import software_of
from bpkd_search.config.space import Choice
from bpkd_search.data import Dataset, TrainTransform
from bpkd_search.data.geometry import Size, base_size, padded_size
from bpkd_search.data.views import GivenLogits, MapPlan, logits_layout
from bpkd_search.data.views.layout import Layout
from bpkd_search.errors import ConfigError
from bpkd_search.training.probe import is_foreign, source_of, teacher_shape
from bpkd_search.training.source import open_data

# Images whose sizes stand for all when costs are compared.
SAMPLES = 16
GIB = 2**30
MOST_VIEWS = 1000
# A view that repeats more often than this costs mIoU; see docs/measured.md.
REPEATS = 4


@dataclass(frozen=True)
class Form:
    """`views` per image, or with 0 a new crop at every epoch; `mode` is where the teacher's logits come from.

    `grid` is the stride of the maps' logits, of which offsets of crops are multiples; 1 without maps.
    """

    views: int
    mode: str
    grid: int = 1

    def transform(self, data: Data) -> TrainTransform:
        """Return how the crops of a `data` block are drawn."""
        steps = data.scale_steps if self.mode == "maps" else None
        return TrainTransform(
            *data.crop,
            data.scale,
            data.flip,
            data.colour,
            resize=data.resize,
            hue=data.hue,
            cat_max_ratio=data.cat_max_ratio,
            steps=steps,
            grid=self.grid,
        )


def forms(run: RunConfig, train: Dataset) -> list[Form]:
    """Return the form of a run, or with `mode: auto` those to be tried in order.

    Raises `ConfigError` if `data.crop` and `teacher.mode`, or the length of the run, exclude each other.
    """
    views, mode, epochs = run.data.views, run.teacher.mode, epochs_of(run, len(train))
    if software_of(run.teacher) == "logits":
        return [_given_form(run, train)]
    if mode == "online" or (mode == "auto" and needs_features(run)):
        return [Form(0 if views == "auto" else views, "online")]
    if views != "auto":
        return [Form(views, "stored")]
    if mode == "stored":
        if epochs is None:
            raise ConfigError(
                ["data.views: got auto, must be a number with teacher.mode: stored and train.gpu_seconds"]
            )
        if epochs > MOST_VIEWS:
            raise ConfigError(
                [f"data.views: got auto with {epochs} epochs, can be {MOST_VIEWS} at most: set teacher.mode to maps"]
            )
        return [Form(epochs, "stored")]
    maps = _map_form(run, train)
    if mode == "maps":
        if isinstance(maps, str):
            raise ConfigError([maps])
        return [maps]
    online, one_view_an_epoch = Form(0, "online"), None
    if epochs is not None and fits(run, epochs, train):
        one_view_an_epoch = Form(epochs, "stored")
    rest = [one_view_an_epoch] if one_view_an_epoch else []
    if isinstance(maps, str):
        # Without maps, views cost less of the teacher than running it at every step of every trial.
        return [*rest, online]
    plan = MapPlan(maps.transform(run.data), run.data.logits, len(train.class_names))
    if one_view_an_epoch and epochs * prod(run.data.crop) <= map_pixels(plan, train):  # type: ignore[operator]
        return [one_view_an_epoch]
    return [maps, *rest, online]


def _map_form(run: RunConfig, train: Dataset) -> Form | str:
    """Return the form of a teacher's maps, or why there can be none."""
    grid, fault = map_grid(run)
    if fault:
        return fault
    maps = Form(0, "maps", grid)
    if is_foreign(run.teacher):
        # Some networks read one size alone, or give logits of one size.
        label, classes = train[0][1], len(train.class_names)
        plan = MapPlan(maps.transform(run.data), run.data.logits, classes)
        for step in sorted({0, len(plan.transform.scales) - 1}):
            height, width = padded_size(plan.scaled((label.shape[0], label.shape[1]), step))
            try:
                _, rows, columns = teacher_shape(run.teacher, classes, height, width)
            except ConfigError as e:
                return _no_maps(e)
            if (rows, columns) != (-(-height // grid), -(-width // grid)):
                return (
                    f"teacher.mode: got maps, needs logits of one stride, {grid} for crops: for {height}x{width} they"
                    f" are {rows}x{columns}"
                )
    return maps


def _no_maps(error: ConfigError) -> str:
    return f"teacher.mode: got maps, which are of whole images: {'; '.join(error.faults)}"


def _given_form(run: RunConfig, train: Dataset) -> Form:
    """Return the form of given logits, whose stride that of the first image is. Raises `ConfigError`, `DataError`."""
    given = GivenLogits(source_of(run.teacher) or Path(), "train", tuple(train.names))
    given.require_all()
    label = train[0][1]
    grid = given.stride(0, base_size((label.shape[0], label.shape[1]), run.data.resize))
    if any(side % grid for side in run.data.crop):
        raise ConfigError(
            [f"data.crop: got {list(run.data.crop)}, must be multiples of {grid}, the stride of the teacher's logits"]
        )
    return Form(0, "maps", grid)


def map_grid(run: RunConfig) -> tuple[int, str | None]:
    """Return the stride of the teacher's logits in pixels, and why there can be no maps, None if there can."""
    even = padded_size(run.data.crop)
    try:
        _, height, width = teacher_shape(run.teacher, 1, *even)
    except ConfigError as e:
        return 1, _no_maps(e)
    grid = even[0] // height
    if (grid * height, grid * width) != even:
        return grid, (
            f"teacher.mode: got maps, needs logits of one stride: for {even[0]}x{even[1]} they are {height}x{width}"
        )
    if any(side % grid for side in run.data.crop):
        return grid, (
            f"data.crop: got {list(run.data.crop)}, must be multiples of {grid}, the stride of the teacher's logits,"
            " with teacher.mode: maps"
        )
    return grid, None


def first_form(run: RunConfig) -> Form:
    """Return the form that is tried first. Raises what `forms` raises, and `DataError`."""
    return forms(run, open_data(run.data, "train"))[0]


def teacher_form(data: Data) -> Form:
    """Return the form of the crops on which the teacher is trained.

    Those are new ones at every epoch, unless a number of views is given, whatever the trials get: a teacher is the same
    for every length and form of its students.
    """
    return Form(0, "online") if data.views == "auto" else Form(data.views, "stored")


def epochs_of(run: RunConfig, images: int) -> int | None:
    """Return how often a run, or a trial of a search, sees each image at most, or None if its time decides."""
    train = run.train
    if train.gpu_seconds is not None:
        return None
    if train.iterations is None:
        return train.epochs
    # A search may try larger batches than its own.
    batch = prod(_most(run, f"train.{key}", getattr(train, key)) for key in ("batch_size", "accumulate"))
    return math.ceil(train.iterations / max(1, images // batch))


def fits(run: RunConfig, views: int, train: Dataset) -> bool:
    """Return whether so many views of every image, with logits, fit `data.disk`."""
    logits = teacher_layout(run, Form(views, "stored"), train, ()).bytes
    pixels = 0 if run.data.images == "computed" else len(train) * views * 4 * prod(run.data.crop)
    return views <= MOST_VIEWS and logits + pixels <= run.data.disk * GIB


def teacher_layout(run: RunConfig, form: Form, train: Dataset, sizes: Sequence[Size]) -> Layout:
    """Return the layout of the teacher's logits on the views, or on whole images of these sizes."""
    classes = len(train.class_names)
    if not form.views:
        return MapPlan(form.transform(run.data), run.data.logits, classes).layout(sizes)
    shape = teacher_shape(run.teacher, classes, *run.data.crop)
    return logits_layout(run.data.logits, shape, len(train) * form.views)


def crop_shape(run: RunConfig, form: Form, classes: int) -> tuple[int, ...]:
    """Return (C, h, w) of the teacher's logits on a crop."""
    if software_of(run.teacher) == "logits":
        height, width = run.data.crop
        return classes, height // form.grid, width // form.grid
    return teacher_shape(run.teacher, classes, *run.data.crop)


def some_sizes(data: Dataset, count: int = SAMPLES) -> list[Size]:
    """Return the sizes (height, width) of at most `count` images of a split, evenly spread over it."""
    picked = sorted({number * len(data) // count for number in range(count)})
    return [(label.shape[0], label.shape[1]) for _, label in (data[index] for index in picked)]


def map_pixels(plan: MapPlan, train: Dataset) -> float:
    """Return the pixels per image that the teacher reads for its maps, the mean of some images."""
    sizes = some_sizes(train)
    areas = [prod(padded_size(plan.scaled(size, step))) for size in sizes for step, _ in plan.forms]
    return sum(areas) / len(sizes)


def _most(run: RunConfig, path: str, base: int) -> int:
    """Return the largest whole number that a run or a trial may have at a path where the run has `base`."""
    varied = run.space.get(path) if isinstance(run, SearchConfig) else None
    if varied is None:
        return base
    options = varied.options if isinstance(varied, Choice) else varied.bounds
    return max(base, *(int(value) for value in options))


def repeats(run: RunConfig, form: Form, images: int) -> str | None:
    """Return a warning if the views of a form come again too often in a run."""
    epochs = epochs_of(run, images)
    if not form.views or epochs is None or epochs <= REPEATS * form.views:
        return None
    return (
        f"warning: each of the {form.views} views of an image is trained on {epochs / form.views:.0f} times; beyond"
        f" {REPEATS} that can cost several points of mIoU. data.views: auto takes new crops at every epoch"
    )
