"""What a search or run needs, as figures of disk, memory and time, each computed or measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

from bpkd_search.config.models import RunConfig
from bpkd_search.config.networks import Model
from bpkd_search.config.optimisation import Optimisation
from bpkd_search.config.software import software_of
from bpkd_search.data import Dataset
from bpkd_search.data.geometry import Size, base_size
from bpkd_search.data.views import MapPlan, store_layouts
from bpkd_search.models import Network
from bpkd_search.training.check import check_classes, check_evaluation, plain, without_memory
from bpkd_search.training.cost import FLOAT, Step, parameters, pass_flops, pass_memory, states, train_step
from bpkd_search.training.evaluation import images_at_once
from bpkd_search.training.forms import Form, crop_shape, forms, map_pixels, some_sizes, teacher_form, teacher_layout
from bpkd_search.training.inputs import view_recipe
from bpkd_search.training.probe import is_foreign, probe
from bpkd_search.training.speed import Speed, measure_speed

# Floating-point operations a second that are assumed: a quarter of what the makers state for half precision (dense),
# as convolutions of small students reach no more.
DEVICES = {"RTX 3090": 71e12 / 4, "RTX 4090": 165e12 / 4, "A100": 312e12 / 4, "H100": 989e12 / 4}
# Bytes of one report in the event log and the tables, as in the searches of tests/fixtures.
REPORT = 2000
# Images of each split whose sizes stand for all.
SIZES = 64
# Students of searched settings that a search keeps beside those of its baselines.
STUDENTS = 5


@dataclass(frozen=True)
class Figure:
    """One figure: of which part it is, what it counts, in bytes or hours, and where it comes from."""

    part: str
    what: str
    value: float
    unit: str
    how: str


@dataclass(frozen=True)
class Trials:
    """Runs of a search: `full` ones, and `sampled` ones with `share` of their rounds, of which `ended` have them all.

    `share` and `ended` are means, from 0 to 1.
    """

    full: int
    sampled: int = 0
    share: float = 0.0
    ended: float = 0.0

    @property
    def runs(self) -> float:
        """Full runs that train as long."""
        return self.full + self.sampled * self.share


@dataclass(frozen=True)
class Splits:
    """The splits of a data set, and the sizes of some of their images."""

    train: Dataset
    val: Dataset

    @cached_property
    def train_sizes(self) -> list[Size]:
        """Sizes (height, width) of some training images."""
        return some_sizes(self.train, SIZES)

    @cached_property
    def val_sizes(self) -> list[Size]:
        """Sizes (height, width) of some validation images."""
        return some_sizes(self.val, SIZES)

    def middle(self, run: RunConfig) -> tuple[Size, Size]:
        """Return a middling size of a validation image as a network sees it, and of its label."""
        size = sorted(self.val_sizes, key=prod)[len(self.val_sizes) // 2]
        return base_size(size, run.data.resize), size


@dataclass(frozen=True)
class Work:
    """Images that networks read: in training by student and teacher, in validation by each, and for logits.

    Those of logits are given as crops of as many pixels.
    """

    trained: float
    validated: float
    teacher_trained: float
    teacher_validated: float
    logits: float


def rounds_of(run: RunConfig, train: Dataset) -> int:
    """Return the number of validations of a run."""
    return run.train.rounds(_per_pass(run.train, len(train)))


def estimate(run: RunConfig, trials: Trials, train: Dataset, val: Dataset, *, measured: bool = False) -> list[Figure]:
    """Return the figures of a search of some trials, or of a run, on the splits that it reads.

    With `measured`, hours are those of this machine, from some real steps; otherwise of devices at an assumed speed.
    A GPU's memory is that of half precision if `train.amp` is auto. Raises `ConfigError` if forms exclude each other.
    """
    form, classes, splits = forms(run, train)[0], len(train.class_names), Splits(train, val)
    check_classes(run, train, val)
    check_evaluation(run, splits.middle(run)[0])
    teacher: Network | tuple[int, ...]
    if software_of(run.teacher) == "own":
        teacher = without_memory(_without_auxiliary(run), classes).to("meta").eval()
    else:
        teacher = crop_shape(run, form, classes)
    step = train_step(run.student, run, classes, run.train.batch_size, teacher=teacher)
    work = work_of(run, form, train, val, trials)
    figures = [Figure("disk", what, size, "bytes", "computed") for what, size in disk(run, form, splits, trials)]
    figures += [Figure("memory", what, size, "bytes", "computed") for what, size in memory(run, form, step, splits)]
    if measured:
        speed = measure_speed(run, form, train.class_names, splits.middle(run))
        return figures + list(_measured_hours(run, work, speed))
    return figures + list(_assumed_hours(run, form, work, step, classes, splits.middle(run)))


def work_of(run: RunConfig, form: Form, train: Dataset, val: Dataset, trials: Trials) -> Work:
    """Return the images that networks read in a search. A run of `gpu_seconds` counts as one of its epochs."""
    rounds, spec, logits = rounds_of(run, train), run.teacher.train, 0.0
    given = software_of(run.teacher) == "logits"
    sample = min(run.data.val_images or len(val), len(val))
    if form.mode == "stored":
        logits = len(train) * form.views
    elif form.mode == "maps" and not given:
        plan = MapPlan(form.transform(run.data), run.data.logits, len(train.class_names))
        logits = len(train) * map_pixels(plan, train) / prod(run.data.crop)
    # Trials that are stopped have no last validation, which is of all images.
    ends = trials.full + trials.sampled * trials.ended
    return Work(
        trials.runs * _images(run.train, len(train)),
        trials.runs * rounds * sample + ends * (len(val) - sample),
        0.0 if is_finished(run) else float(_images(spec, len(train))),
        0.0 if given else float(len(val)),
        logits,
    )


def disk(run: RunConfig, form: Form, splits: Splits, trials: Trials) -> Iterator[tuple[str, int]]:
    """Yield what a search writes, with its bytes; images have the sizes of some, spread over each split."""
    train, seen, checked = splits.train, splits.train_sizes, splits.val_sizes
    shares = {"whole": len(train) / len(seen), "validation": len(splits.val) / len(checked), "train": 1.0}
    images = 0.0
    # The crops of the teacher's training and those of trials are in one store if both are new at every epoch.
    for views in {form.views, teacher_form(run.data).views}:
        recipe = view_recipe(run.data, Form(views, form.mode, form.grid))
        layouts = store_layouts(recipe, seen, checked, stored=run.data.images == "stored")
        images += sum(layout.bytes * shares[part] for part, layout in layouts.items())
    yield "images", round(images)
    if form.mode != "online":
        layout = teacher_layout(run, form, train, seen)
        yield "teacher's logits", round(layout.bytes * (1.0 if form.views else shares["whole"]))
    classes = len(train.class_names)
    if run.teacher.checkpoint is None:
        yield "teacher's weights", teacher_bytes(run, classes)
    kept = trials.full + min(math.ceil(trials.sampled * trials.ended), STUDENTS)
    student = FLOAT * parameters(run.student, classes)
    yield f"{kept} students", kept * student
    yield "checkpoint of a running trial", (1 + states(run.train)) * student
    yield "log and tables", round(REPORT * trials.runs * rounds_of(run, train))


def memory(run: RunConfig, form: Form, step: Step, splits: Splits) -> Iterator[tuple[str, int]]:
    """Yield what one trial holds on its device, with its bytes, and the most of training and validation."""
    half, classes = run.train.amp == "auto", len(splits.train.class_names)
    factor = 0.5 if half else 1.0
    parts = step.memory(run.train, half=half)
    if form.mode == "online":
        frozen = run.teacher if is_foreign(run.teacher) else _without_auxiliary(run)
        passing = round(factor * pass_memory(frozen, classes, run.train.batch_size, run.data.crop))
        parts |= {"teacher's weights": teacher_bytes(run, classes, frozen), "teacher's pass": passing}
    size = max(splits.val_sizes, key=prod)
    seen, evaluation = base_size(size, run.data.resize), run.data.evaluation
    if evaluation.mode == "slide":
        assert evaluation.crop is not None
        seen = evaluation.crop
    images = images_at_once(prod(seen), prod(size), evaluation)
    validation = round(factor * pass_memory(plain(run.student), classes, images, seen))
    yield from parts.items()
    yield "validation", validation
    # The teacher's pass ends before the student's begins, and both before a validation.
    passes = parts.pop("teacher's pass", 0)
    held = parts.pop("activations and gradients")
    yield "most at once", sum(parts.values()) + max(held, passes, validation)


def _assumed_hours(
    run: RunConfig, form: Form, work: Work, step: Step, classes: int, size: tuple[Size, Size]
) -> Iterator[Figure]:
    """Yield hours of the teacher and of all trials on each of `DEVICES`."""
    teacher, student, evaluation = run.teacher, run.student, run.data.evaluation
    crop, seen, left_out = run.data.crop, size[0], ""
    reading = checking = trained = 0.0
    if software_of(teacher) == "onnx":
        left_out = " without the teacher's passes, which ONNX Runtime does not count: --measure times them"
    elif software_of(teacher) != "logits":
        reading = pass_flops(teacher, classes, crop, type(run.data.eval)())
        checking = pass_flops(teacher, classes, seen, evaluation)
    if not is_finished(run):
        batch = teacher.train.batch_size
        trained = train_step(plain(teacher), run, classes, batch).flops / batch
    training = step.flops / run.train.batch_size + (reading if form.mode == "online" else 0)
    trials = work.trained * training + work.validated * pass_flops(student, classes, seen, evaluation)
    before = work.teacher_trained * trained + work.teacher_validated * checking + work.logits * reading
    for device, rate in DEVICES.items():
        how = f"computed, at {rate / 1e12:.0f} TFLOP/s"
        yield Figure("time", f"teacher, {device}", before / rate / 3600, "hours", how + left_out)
        online = left_out if form.mode == "online" else ""
        yield Figure("time", f"trials, {device}", trials / rate / 3600, "hours", how + online)


def _measured_hours(run: RunConfig, work: Work, speed: Speed) -> Iterator[Figure]:
    """Yield hours on this machine, one trial after the other."""
    how = f"measured on {speed.device}"
    before = work.teacher_trained * speed.teacher_training + work.teacher_validated * speed.teacher_validation
    before += work.logits * speed.teacher_pass
    yield Figure("time", "teacher", before / 3600, "hours", how)
    yield Figure("time", "training of trials", work.trained * speed.training / 3600, "hours", how)
    yield Figure("time", "validation of trials", work.validated * speed.validation / 3600, "hours", how)


def is_finished(run: RunConfig) -> bool:
    """Return whether the teacher of a run need not be trained."""
    return run.teacher.checkpoint is not None or run.teacher.factory is not None


def teacher_bytes(run: RunConfig, classes: int, spec: Model | None = None) -> int:
    """Return the bytes of the teacher's weights."""
    return probe(run.teacher).bytes if is_foreign(run.teacher) else FLOAT * parameters(spec or run.teacher, classes)


def _without_auxiliary(run: RunConfig) -> Model:
    return plain(run.teacher.model_copy(update={"auxiliary_weight": 0}))


def _per_pass(settings: Optimisation, images: int) -> int:
    return max(1, images // (settings.batch_size * settings.accumulate))


def _images(settings: Optimisation, images: int) -> int:
    """Return the images that a run of these settings trains on."""
    steps = settings.iterations or (settings.epochs or 0) * _per_pass(settings, images)
    return steps * min(images, settings.batch_size * settings.accumulate)
