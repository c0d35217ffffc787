"""What distilling costs beyond a student's bare training step, as ratios from one run.

    python runners/bench/step.py [--device cpu|cuda] [--root CAMVID] [--json FILE] [--threads 1]

The bare step is cross-entropy alone, in the shortest loop there is, on batches held in memory. Beside it, with the same
student, optimiser and batch size, whole epochs of `Distillation.train_epoch`: each loss with the view store, and bpkd
with the teacher run at every step. Epochs alternate in one process; a ratio is the median over the rounds of an epoch
over the bare one of its round. Networks have random weights: their time is that of trained ones. Without --root, the
images are scenes that the package draws.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import alternate, ratio
from torch.nn import functional as F

from bpkd_search.config.models import RunConfig
from bpkd_search.config.points import BASELINES, to_tree
from bpkd_search.models import save_weights
from bpkd_search.models.build import autocast, build_model
from bpkd_search.models.heads import resize
from bpkd_search.training.distill import IGNORE_INDEX, Distillation
from bpkd_search.training.prepare import prepare
from bpkd_search.training.source import open_data
from bpkd_search.training.teacher import open_teacher

LOSSES = {"ce": "ce", "kd": "kd", "cwd": "cwd", "bpkd": "bpkd-paper"}


def run_of(options: argparse.Namespace, folder: Path) -> RunConfig:
    """The run that is timed; its teacher's weights are random and lie in `folder`."""
    drawn = {"train_images": options.images, "val_images": 8, "height": options.height, "width": options.width}
    data = {"crop": [options.height, options.width], "views": 2, "views_dir": folder}
    data |= {"kind": "camvid", "root": options.root} if options.root else {"synthetic": drawn}
    train = {"epochs": options.rounds + 1, "batch_size": options.batch, "optimizer": "adamw", "lr": 1e-3}
    teacher = {"encoder": options.teacher, "checkpoint": folder / "teacher.safetensors"}
    run = {"data": data, "teacher": teacher, "student": {"encoder": options.student}}
    return RunConfig.model_validate({**run, "train": {**train, "device": options.device}})


def bare_epoch(run: Distillation) -> Callable[[], None]:
    """An epoch of cross-entropy with a run's student and optimiser, on batches held in memory."""
    student, optimizer, device = run.student.train(), run.optimizer, run.device
    held = [
        (images.contiguous(memory_format=torch.channels_last), labels)
        for images, labels, _ in run.store.epoch(0, run.settings.batch_size, 0, device=device, logits=False)
    ]

    def epoch() -> None:
        for images, labels in held:
            with autocast(device):
                logits = resize(student(images).float(), labels.shape[-2:])
                loss = F.cross_entropy(logits, labels.long(), ignore_index=IGNORE_INDEX)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    run, device = run_of(options, folder), torch.device(options.device)
    classes = len(open_data(run.data, "train").class_names)
    save_weights(folder / "teacher.safetensors", build_model(run.teacher, classes, 0))
    prepared = prepare(run, lambda line: None)
    store = prepared.open()
    teacher = open_teacher(run, store.class_names, Path(str(prepared.teacher)), device)

    def distillation(name: str, **online: Any) -> Distillation:
        loss = RunConfig.model_validate({**to_tree(run), "loss": BASELINES[LOSSES[name]]}).loss
        return Distillation(run.student, loss, run.train, store, device=device, **online)

    rows = {name: distillation(name).train_epoch for name in LOSSES}
    rows["bpkd, online teacher"] = distillation("bpkd", teacher=teacher).train_epoch
    bare = bare_epoch(distillation("ce"))
    alone, *others = alternate(bare, *rows.values(), rounds=options.rounds, device=device)
    steps = store.steps(options.batch)

    def row(times: list[float]) -> dict[str, float]:
        return {"ms_a_step": 1000 * statistics.median(times) / steps, "ratio": ratio(times, alone)}

    chosen = ("device", "threads", "student", "teacher", "height", "width", "batch", "rounds")
    return {
        **{name: getattr(options, name) for name in chosen},
        "images": store.num_images,
        "classes": classes,
        "rows": {"bare": row(alone)} | {name: row(times) for name, times in zip(rows, others, strict=True)},
    }


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
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options, Path(folder))
    print(
        "{student} from {teacher}, {images} images of {height}x{width}, {classes} classes, batches of {batch}, "
        "{device}".format(**figures)
    )
    print("step                    ms  over the bare step")
    for name, row in figures["rows"].items():
        print(f"{name:20}{row['ms_a_step']:6.1f}{row['ratio']:20.3f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
