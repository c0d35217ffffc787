"""Checks that cost seconds, before the views, the teacher and the trials cost hours.

`check_networks` builds student and teacher without memory (PyTorch's meta device); `try_step` trains the student for
one real step.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch

from bpkd_search.config.models import Choice, Model, RunConfig, SearchConfig
from bpkd_search.config.points import Point, in_order, is_active, run_at, to_tree
from bpkd_search.data.views import ViewStore
from bpkd_search.errors import ConfigError, ResourceError, UserError
from bpkd_search.models.build import build_model, pick_device
from bpkd_search.models.encoders import native_size
from bpkd_search.training.distill import Distillation
from bpkd_search.training.teacher import logits_shape

# Students of a space that are built at most; each costs about 0.2 s.
_STUDENTS = 256


def check_networks(config: RunConfig) -> None:
    """Build the teacher and every student that a run or search may use, without memory, and pass a batch through them.

    Raises `ConfigError` with every encoder that timm does not have, and with parts that do not fit each other or the
    size of the images.
    """
    size, faults = (config.data.height, config.data.width), []
    teacher, trained = config.teacher, config.teacher.checkpoint is None
    # The teacher's training batch; a finished one only ever runs in evaluation mode.
    for fault in _network_faults(_plain(teacher), teacher.train.batch_size if trained else 0, *size):
        faults.append(f"teacher{fault}")
    for point, student in _students(config):
        for fault in _network_faults(_plain(student), config.train.batch_size, *size):
            key = f"student{fault.partition(':')[0]}"
            faults.append(f"space.student{fault}" if key in point else f"student{fault}")
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))


def try_step(run: RunConfig, store: ViewStore) -> None:
    """Train the student for one step on its first batch, with a random teacher, and forget it.

    Nothing that trains later is changed by it, random numbers included.

    Raises `ResourceError` if the memory is too small, `CheckpointError` if `student.weights` does not fit, and
    `ConfigError` if the step fails otherwise.
    """
    device, data = pick_device(run.train.device), run.data
    what = f"one step of {run.student.encoder} on {run.train.batch_size} images of {data.height}x{data.width}"
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            _step(run, store, device)
    except UserError:
        raise
    except Exception as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        if isinstance(e, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in reason:
            online = " or set teacher.mode to stored," if run.teacher.mode == "online" else ""
            raise ResourceError(
                f"train.batch_size: got {run.train.batch_size}, {what} does not fit into the memory of {device}"
                f" ({reason}); lower train.batch_size,{online} or lower data.height and data.width, or student.channels"
            ) from e
        raise ConfigError([f"student: {what} failed: {type(e).__name__}: {reason}"]) from e
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _step(run: RunConfig, store: ViewStore, device: torch.device) -> None:
    teacher = None
    if run.teacher.mode == "online":
        spec = run.teacher.model_copy(update={"weights": None})
        teacher = build_model(spec, store.num_classes, 0).to(device).eval().requires_grad_(False)
    # Compiling takes longer than all that is checked here.
    settings = run.train.model_copy(update={"compile": False})
    training = Distillation(run.student, run.loss, settings, store, teacher=teacher, device=device)
    images, labels, _ = next(store.epoch(0, settings.batch_size, settings.seed, device=device, logits=False))
    stored = None
    if teacher is None:
        shape = logits_shape(run.teacher, store.num_classes, run.data.height, run.data.width)
        stored = torch.randn(len(images), *shape, device=device).half()
    with training.train_mode():
        training.step(images, labels, stored, progress=0.0)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _plain(model: Model) -> Model:
    return Model.model_validate({k: v for k, v in model if k in Model.model_fields and k != "weights"})


def _students(config: RunConfig) -> Iterator[tuple[Point, Model]]:
    """The base run's student, and those that a search may try: every option of a choice, and the ends of a range."""
    yield {}, config.student
    if not isinstance(config, SearchConfig):
        return
    wanted = {path for path in config.space if path.startswith("student.")}
    while more := {other for path in wanted for other in config.space[path].when if other in config.space} - wanted:
        wanted |= more
    base_run = config.run()
    base, points = to_tree(base_run), [Point()]
    for path, distribution in in_order({path: config.space[path] for path in config.space if path in wanted}):
        values: tuple[Any, ...] = distribution.options if isinstance(distribution, Choice) else distribution.bounds
        points = [
            longer
            for point in points
            for longer in (
                [{**point, path: value} for value in values] if is_active(distribution, base, point) else [point]
            )
        ][:_STUDENTS]
    for point in points:
        if point:
            yield point, run_at(base_run, point).student


@lru_cache(1024)
def _network_faults(spec: Model, batch: int, height: int, width: int) -> tuple[str, ...]:
    """What is wrong with a network, each as `.key: ...` or `: ...`. `batch` is that of its training, 0 for none.

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
                    reason += f" (it reads {size[0]}x{size[1]}: set data.height and data.width to that)"
                faults = (
                    f": {spec.encoder} + {spec.head} cannot {'train on' if batch else 'read'} {max(batch, 1)} image(s)"
                    f" of {height}x{width}: {reason}",
                )
    return faults
