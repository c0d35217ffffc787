"""Checks that cost seconds, before the views, the teacher and the trials cost hours.

`check_networks` and `check_evaluation` build student and teacher without memory (PyTorch's meta device),
`check_weights` compares them with their files; `try_step` trains the student for one real step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from bpkd_search.config.models import RunConfig, SearchConfig
from bpkd_search.config.networks import Model, Teacher
from bpkd_search.config.points import Point, combinations, needs_features, run_at
from bpkd_search.config.software import HUB, WORDS, software_of
from bpkd_search.config.space import Choice, Distribution
from bpkd_search.data import Dataset
from bpkd_search.data.views import ViewStore
from bpkd_search.errors import CheckpointError, ConfigError, ResourceError, UserError
from bpkd_search.models import Network
from bpkd_search.models.build import build_model, pick_device
from bpkd_search.models.checkpoint import classes_in, encoder_weights, segmentor_weights
from bpkd_search.models.encoders import native_size
from bpkd_search.models.inference import input_sizes
from bpkd_search.models.teachers.open import open_network
from bpkd_search.training.distill import Distillation
from bpkd_search.training.forms import map_grid
from bpkd_search.training.own import check_functions
from bpkd_search.training.probe import is_foreign, probe, source_of, teacher_shape
from bpkd_search.training.teacher import given_logits
from bpkd_search.training.teacher_classes import class_rows


def check_networks(config: RunConfig) -> None:
    """Build the teacher and every student that a run or search may use, without memory, and pass a batch through them.

    What the user has written is imported first. Raises `ConfigError` with every encoder that timm does not have, with
    parts that do not fit each other or the size of the images, with a crop that `teacher.mode: maps` cannot cut, and
    with the first file of weights that does not fit.
    """
    check_functions(config)
    size, faults = config.data.crop, []
    teacher, trained = config.teacher, config.teacher.checkpoint is None
    try:
        own = software_of(teacher) == "own"
        if own:
            # The teacher's training batch; a finished one only ever runs in evaluation mode.
            found = _network_faults(plain(teacher), teacher.train.batch_size if trained else 0, *size)
            faults += [f"teacher{fault}" for fault in found] + _unused_keys(teacher)
        else:
            faults += _foreign_faults(config)
    except ConfigError as e:
        faults += e.faults
    except UserError as e:
        faults.append(str(e))
    for point, student in _students(config):
        for fault in _network_faults(plain(student), config.train.batch_size, *size):
            key = f"student{fault.partition(':')[0]}"
            faults.append(f"space.student{fault}" if key in point else f"student{fault}")
    if not faults and teacher.mode == "maps" and software_of(teacher) != "logits" and (unfit := map_grid(config)[1]):
        faults.append(unfit)
    if not faults:
        try:
            check_weights(config)
        except CheckpointError as e:
            faults.append(str(e))
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))


def _unused_keys(teacher: Teacher) -> list[str]:
    """What a `teacher` block says that a teacher of this package or mmsegmentation would pass over in silence."""
    kind = "a teacher of this package or mmsegmentation"
    reads = f"{kind} reads images as its encoder was trained, and gives logits at its own stride"
    given = {"input": reads, "stride": reads}
    if teacher.checkpoint is None:
        given["classes"] = "the teacher is trained on the data's classes"
    faults = [f"teacher.{key}: must be left out: {why}" for key, why in given.items() if getattr(teacher, key)]
    if teacher.missing_classes != "refuse":
        faults.append(f"teacher.missing_classes: must be refuse: {kind} needs all of the data's classes")
    return faults


def _foreign_faults(config: RunConfig) -> list[str]:
    """What is wrong with a teacher of other software, or with given logits.

    A file that is not here is left to those who read it. Raises `UserError` if the teacher cannot be opened.
    """
    teacher, data, software = config.teacher, config.data, software_of(config.teacher)
    faults = []
    if needs_features(config):
        faults.append(
            f"loss.method: got one that needs the teacher's features, which a teacher of {WORDS[software]} does not"
            " give: choose losses of logits, or a teacher of this package or mmsegmentation"
        )
    if software == "logits":
        faults += [
            f"{key}: got {got}, must be {valid} with a folder of logits, which are of whole images at scale 1"
            for key, got, valid, fits in (
                ("teacher.mode", teacher.mode, "maps or auto", teacher.mode in ("maps", "auto")),
                ("data.views", data.views, "auto", data.views == "auto"),
                ("data.scale", list(data.scale), "[1, 1]", data.scale == (1, 1)),
            )
            if not fits
        ]
        return faults
    if str(teacher.checkpoint).startswith(HUB) or (path := source_of(teacher)) is None or path.exists():
        probe(teacher).shape(*data.crop)
    return faults


def check_classes(run: RunConfig, train: Dataset, val: Dataset) -> None:
    """Match the classes of a teacher of other software, or of given logits, with the data's.

    Raises `CheckpointError`, `ConfigError`, and `DataError` for files of logits that cannot be read.
    """
    if is_foreign(run.teacher):
        probe(run.teacher).class_map(train.class_names, *run.data.crop)
    elif software_of(run.teacher) == "logits":
        for split, name in ((train, "train"), (val, "val")):
            given_logits(run, split, name)


def check_evaluation(run: RunConfig, size: Sequence[int]) -> None:
    """Pass a validation image of `size` (height, width) through teacher and student as `data.eval` says.

    Raises `ConfigError` with the sizes that a network cannot take.
    """
    sizes, faults = input_sizes(size, run.data.evaluation), []
    remedy = "set data.eval.crop" if run.data.eval.mode == "slide" else "set data.eval.mode to slide and data.eval.crop"
    models: dict[str, Model] = {"teacher": run.teacher, "student": run.student}
    if is_foreign(run.teacher):
        del models["teacher"]
        for seen in sizes:
            try:
                probe(run.teacher).shape(*seen, remedy)
            except ConfigError as e:
                faults += [f"data.eval: {fault}" for fault in e.faults]
    elif software_of(run.teacher) == "logits":
        del models["teacher"]
    faults += [
        f"data.eval: {name}{fault}"
        for name, model in models.items()
        for seen in sizes
        for fault in _network_faults(plain(model), 0, *seen, remedy)
    ]
    if faults:
        raise ConfigError(faults)


def check_weights(run: RunConfig, class_names: Sequence[str] = ()) -> None:
    """Compare the files of weights that a run names with its networks, without memory for these.

    Without `class_names`, those of the data, a checkpoint may have any number of classes. Files that are not here are
    left to those who read them. Raises `CheckpointError` that names the key of the configuration, the file and what
    does not fit.
    """
    own = software_of(run.teacher) == "own"
    parts: tuple[tuple[str, Model, bool, Path | None], ...] = (
        ("teacher.checkpoint", run.teacher, True, run.teacher.checkpoint if own else None),
        ("teacher.weights", run.teacher, False, None if run.teacher.checkpoint else run.teacher.weights),
        ("student.weights", run.student, False, run.student.weights),
    )
    for key, model, whole, given in parts:
        if given is None or not (path := given.expanduser()).is_file():
            continue
        spec = plain(model).model_copy(update={"auxiliary_weight": 0})
        try:
            if whole:
                count = len(class_names) or classes_in(path)[0] or 1
                rows = class_rows(run.teacher, path, class_names) if class_names else None
                segmentor_weights(without_memory(spec, count), path, rows)
            else:
                encoder_weights(without_memory(spec, 1).get_submodule("encoder"), path)
        except CheckpointError as e:
            raise CheckpointError(f"{key}: {e}") from e


def require_files(run: RunConfig) -> None:
    """Raise `CheckpointError` that names the key and the path of a file or folder of weights that is not there."""
    teacher = run.teacher
    first = None if teacher.checkpoint else teacher.weights
    found = {"teacher.checkpoint": source_of(teacher), "teacher.weights": first, "student.weights": run.student.weights}
    for key, path in found.items():
        if path is not None and not path.expanduser().exists():
            raise CheckpointError(f"{key}: {path}: no such file or folder")


def without_memory(spec: Model, num_classes: int) -> Network:
    """Return a network on PyTorch's meta device, or on the CPU if it cannot be built there."""
    try:
        with torch.device("meta"):
            return build_model(spec, num_classes, 0)
    except Exception:
        return build_model(spec, num_classes, 0)


def try_step(run: RunConfig, store: ViewStore, *, online: bool, grid: int | None = None) -> None:
    """Train the student for one step on its first batch, with a random teacher, `online` or stored, and forget it.

    `grid` is the stride of the teacher's logits, if they are not those of a network.
    Nothing that trains later is changed by it, random numbers included.

    Raises `ResourceError` if the memory is too small, `CheckpointError` if `student.weights` does not fit, and
    `ConfigError` if the step fails otherwise.
    """
    device, (height, width) = pick_device(run.train.device), run.data.crop
    what = f"one step of {run.student.described} on {run.train.batch_size} images of {height}x{width}"
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            _step(run, store, device, online, grid)
    except UserError:
        raise
    except Exception as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        if isinstance(e, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in reason:
            advice = " or set teacher.mode to stored," if online else ""
            raise ResourceError(
                f"train.batch_size: got {run.train.batch_size}, {what} does not fit into the memory of {device}"
                f" ({reason}); lower train.batch_size,{advice} or lower data.crop, or student.channels"
            ) from e
        raise ConfigError([f"student: {what} failed: {type(e).__name__}: {reason}"]) from e
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _step(run: RunConfig, store: ViewStore, device: torch.device, online: bool, grid: int | None) -> None:
    teacher: Network | None = None
    if online and is_foreign(run.teacher):
        teacher = open_network(run.teacher, source_of(run.teacher) or Path(), device, store.class_names)
    elif online:
        spec = run.teacher.model_copy(update={"weights": None})
        teacher = build_model(spec, store.num_classes, 0).to(device).eval().requires_grad_(False)
    # Compiling takes longer than all that is checked here.
    settings = run.train.model_copy(update={"compile": False})
    training = Distillation(run.student, run.loss, settings, store, teacher=teacher, device=device)
    images, labels, _ = next(store.epoch(0, settings.batch_size, settings.seed, device=device, logits=False))
    stored = None
    if teacher is None:
        if grid is not None:
            shape: tuple[int, ...] = store.num_classes, run.data.crop[0] // grid, run.data.crop[1] // grid
        else:
            shape = teacher_shape(run.teacher, store.num_classes, *run.data.crop)
        stored = torch.randn(len(images), *shape, device=device).half()
    with training.train_mode():
        terms = training.step(images, labels, stored, progress=0.0)
    if odd := {name: float(value) for name, value in terms.items() if not value.isfinite()}:
        if is_foreign(run.teacher):
            training.require_teacher(images)
        shown = ", ".join(f"{name} is {value}" for name, value in odd.items())
        raise ConfigError([f"loss: {shown} on the first batch, before any training; must be a finite number"])
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def plain(model: Model) -> Model:
    """Return a network as a `Model` without the file of its first weights."""
    return Model.model_construct(**{k: v for k, v in model if k in Model.model_fields and k != "weights"})


def _students(config: RunConfig) -> Iterator[tuple[Point, Model]]:
    """The base run's student, and those that a search may try: every option of a choice, and the ends of a range."""
    yield {}, config.student
    if not isinstance(config, SearchConfig):
        return
    run = config.run()
    for point in combinations(config, "student.", _ends):
        yield point, run_at(run, point).student


def _ends(path: str, distribution: Distribution) -> Sequence[Any]:
    return distribution.options if isinstance(distribution, Choice) else distribution.bounds


@lru_cache(1024)
def _network_faults(spec: Model, batch: int, height: int, width: int, remedy: str = "set data.crop") -> tuple[str, ...]:
    """What is wrong with a network, each as `.key: ...` or `: ...`. `batch` is that of its training, 0 for none.

    `remedy` is what brings images to the size that a network was made for.
    The last device has the last word: not every network can be built on the first, which costs no memory.
    """
    faults: tuple[str, ...] = ()
    with torch.random.fork_rng(devices=[]):
        for device, images in (("meta", max(batch, 1)), ("cpu", min(max(batch, 1), 2))):
            try:
                with torch.device(device):
                    model = build_model(spec, 2, 0).train(batch > 0)
                    model.outputs(torch.zeros(images, 3, height, width, dtype=torch.uint8))
                return ()
            except ConfigError as e:
                faults = tuple(f".{fault}" for fault in e.faults)
            except Exception as e:
                reason = (str(e).strip() or type(e).__name__).splitlines()[0]
                if size := native_size(spec.encoder):
                    reason += f" (it reads {size[0]}x{size[1]}: {remedy} to {list(size)})"
                faults = (
                    f": {spec.described} cannot {'train on' if batch else 'read'} {max(batch, 1)} image(s)"
                    f" of {height}x{width}: {reason}",
                )
    return faults
