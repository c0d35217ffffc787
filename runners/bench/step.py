"""What distilling costs beyond a student's bare training step, as ratios from one run.

    python runners/bench/step.py [--device cpu|cuda] [--root CAMVID] [--json FILE] [--threads 1] [--compile]

The bare step is cross-entropy alone, in the shortest loop there is, on batches held in memory; `bare, new crops` is
the same on new crops of stored images. Beside them, with the same student, optimiser and batch size, whole epochs of
`Distillation.train_epoch`: each loss with stored views, bpkd with new crops and maps, and bpkd with the teacher run at
every step. Epochs alternate in one process; a ratio is the median over the rounds of an epoch over the bare one of its
round, and of what takes new crops also over the bare one with new crops. Networks have random weights: their time is
that of trained ones. Without --root, the images are scenes that the package draws.

With --compile, the losses are timed once more through `torch.compile` and, on a GPU, as CUDA graphs (elsewhere these
are the compiled steps), again beside the bare step as it is. The file is written after every round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from timing import alternate, ratio
from torch.autograd import DeviceType
from torch.nn import functional as F

from bpkd_search.config.models import RunConfig
from bpkd_search.config.points import BASELINES, to_tree
from bpkd_search.data.views import ViewStore
from bpkd_search.models import save_weights
from bpkd_search.models.build import autocast, build_model
from bpkd_search.models.heads import resize
from bpkd_search.training import forward
from bpkd_search.training.distill import IGNORE_INDEX, Distillation
from bpkd_search.training.prepare import prepare
from bpkd_search.training.source import open_data
from bpkd_search.training.teacher import open_teacher

LOSSES = {"ce": "ce", "kd": "kd", "cwd": "cwd", "bpkd": "bpkd-paper"}
VIEWS = {"data": {"views": 2}, "teacher": {"mode": "stored"}}
NEW_CROPS = "bare, new crops"
MODES = {"compiled": True, "graphs": "graphs"}
# Calls of CUDA by which the host starts work on a GPU; a graph of many kernels is one.
LAUNCHES = ("LaunchKernel", "GraphLaunch", "MemcpyAsync", "MemsetAsync", "LaunchCooperativeKernel")
MAPS = {"data": {"views": "auto"}, "teacher": {"mode": "maps"}}


def run_of(options: argparse.Namespace, folder: Path, form: dict[str, Any]) -> RunConfig:
    """The run that is timed; its teacher's weights are random and are in `folder`."""
    drawn = {"train_images": options.images, "val_images": 8, "height": options.height, "width": options.width}
    data = {"crop": [options.height, options.width], "resize": {"short": options.height}, "views_dir": folder}
    data |= {"kind": "camvid", "root": options.root} if options.root else {"synthetic": drawn}
    data |= form["data"]
    train = {"epochs": options.rounds + 4, "batch_size": options.batch, "optimizer": "adamw", "lr": 1e-3}
    teacher = {"encoder": options.teacher, "checkpoint": folder / "teacher.safetensors"} | form["teacher"]
    run = {"data": data, "teacher": teacher, "student": {"encoder": options.student}}
    return RunConfig.model_validate({**run, "train": {**train, "device": options.device}})


def bare_epoch(run: Distillation, *, held: bool) -> Callable[[], None]:
    """An epoch of cross-entropy with a run's student and optimiser, on batches held in memory or made anew."""
    student, optimizer, device = run.student.train(), run.optimizer, run.device
    numbers = itertools.count()

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        number = 0 if held else next(numbers)
        for images, labels, _ in run.store.epoch(number, run.settings.batch_size, 0, device=device, logits=False):
            yield images.contiguous(memory_format=torch.channels_last), labels

    kept = list(batches()) if held else None

    def epoch() -> None:
        for images, labels in kept or batches():
            with autocast(device):
                logits = resize(student(images).float(), labels.shape[-2:])
                loss = F.cross_entropy(logits, labels.long(), ignore_index=IGNORE_INDEX)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def on_gpu(epoch: Callable[[], object], device: torch.device, steps: int) -> dict[str, float]:
    """Launches and operations of a step, and MiB in use in an epoch at most, beyond those before it; none on a CPU."""
    if device.type != "cuda":
        return {}
    epoch()  # warms up
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    epoch()
    peak = (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        epoch()
        torch.cuda.synchronize(device)
    return {name: count / steps for name, count in counted(profile.events()).items()} | {"peak_mib": peak}


def counted(events: Iterable[Any]) -> dict[str, int]:
    """How often the host started work, and how many operations the GPU did, from the events of a profile."""
    found = list(events)
    return {
        "launches_a_step": sum(event.name.startswith("cu") and _launches(event.name) for event in found),
        "operations_a_step": sum(event.device_type == DeviceType.CUDA for event in found),
    }


def _launches(name: str) -> bool:
    """Whether the name is that of a call such as cudaLaunchKernel, cuLaunchKernelEx or cudaGraphLaunch_v10000."""
    return name.removeprefix("cuda").removeprefix("cu").startswith(LAUNCHES)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    run, device = run_of(options, folder, VIEWS), torch.device(options.device)
    classes = len(open_data(run.data, "train").class_names)
    save_weights(folder / "teacher.safetensors", build_model(run.teacher, classes, 0))
    prepared = prepare(run, lambda line: None)
    store, fresh = prepared.open(), prepare(run_of(options, folder, MAPS), lambda line: None).open()
    teacher = open_teacher(run, store.class_names, Path(str(prepared.teacher)), device)

    def distillation(name: str, store: ViewStore, compiled: Any = False, **online: Any) -> Distillation:
        loss = RunConfig.model_validate({**to_tree(run), "loss": BASELINES[LOSSES[name]]}).loss
        train = run.train.model_copy(update={"compile": compiled})
        return Distillation(run.student, loss, train, store, device=device, **online)

    rows = {"bare": bare_epoch(distillation("ce", store), held=True)}
    rows[NEW_CROPS] = bare_epoch(distillation("ce", fresh), held=False)
    rows |= {name: distillation(name, store).train_epoch for name in LOSSES}
    rows["bpkd, maps"] = distillation("bpkd", fresh).train_epoch
    rows["bpkd, online teacher"] = distillation("bpkd", store, teacher=teacher).train_epoch
    steps, chosen = store.steps(options.batch), ("device", "threads", "student", "teacher", "height", "width", "batch")
    figures: dict[str, Any] = {name: getattr(options, name) for name in (*chosen, "rounds")}
    figures |= {"images": store.num_images, "classes": classes, "rows": {}}
    bare = rows["bare"]
    time_rows(rows, steps, options, figures)
    for mode, setting in MODES.items() if options.compile else ():
        more = {f"{name}, {mode}": distillation(name, store, setting).train_epoch for name in LOSSES}
        online = distillation("bpkd", store, setting, teacher=teacher)
        more[f"bpkd, online teacher, {mode}"] = online.train_epoch
        time_rows({"bare": bare, **more}, steps, options, figures)
    return figures


def time_rows(
    rows: dict[str, Callable[[], object]], steps: int, options: argparse.Namespace, figures: dict[str, Any]
) -> None:
    """Time epochs in alternating rounds and add a row for each to the figures, which are written as they come."""
    device, known = torch.device(options.device), set(figures["rows"])
    more = {name: on_gpu(epoch, device, steps) for name, epoch in rows.items()}

    def note(columns: list[list[float]]) -> None:
        times = dict(zip(rows, columns, strict=True))
        for name in rows:
            row = {
                "ms_a_step": 1000 * statistics.median(times[name]) / steps,
                "ratio": ratio(times[name], times["bare"]),
            }
            if name == "bpkd, maps":
                row["ratio_new_crops"] = ratio(times[name], times[NEW_CROPS])
            if name not in known:
                figures["rows"][name] = row | more[name]
        if options.json:
            options.json.write_text(json.dumps(figures, indent=2) + "\n")

    alternate(*rows.values(), rounds=options.rounds, device=device, after=note)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--root", type=Path, help="a CamVid folder (default: scenes that the package draws)")
    parser.add_argument("--student", default="mobilenetv3_small_050")
    parser.add_argument("--teacher", default="tf_efficientnet_lite2")
    parser.add_argument("--height", type=int, default=120)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--images", type=int, default=64, help="scenes to draw")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--compile", action="store_true", help="also steps through `torch.compile` and CUDA graphs")
    parser.add_argument("--backend", default=forward.BACKEND, help="of `torch.compile` (default: inductor)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    forward.BACKEND = options.backend
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options, Path(folder))
    print(
        "{student} from {teacher}, {images} images of {height}x{width}, {classes} classes, batches of {batch}, "
        "{device}".format(**figures)
    )
    print("step                               ms  over the bare step  with new crops  launches  operations  peak MiB")
    for name, row in figures["rows"].items():
        new = f"{row['ratio_new_crops']:16.3f}" if "ratio_new_crops" in row else " " * 16
        counts = [row.get(key) for key in ("launches_a_step", "operations_a_step", "peak_mib")]
        more = "".join(
            f"{count:{width}.0f}" for count, width in zip(counts, (10, 12, 10), strict=True) if count is not None
        )
        print(f"{name:30}{row['ms_a_step']:7.1f}{row['ratio']:20.3f}{new}{more}".rstrip())


if __name__ == "__main__":
    main()
