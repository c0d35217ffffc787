"""What the view store costs: building logits against the bare teacher, reading batches against a student's need.

    python runners/bench/views.py [--device cuda] [--json FILE]

Scenes that the package draws, networks with random weights (their time is that of trained ones). The teacher's
bare rate is its forward on batches held in memory; building adds reading, encoding, checksums and the disk.
The student's rate is its bare training step (cross-entropy, batches held in memory); reading should be many
times faster, as it goes on beside the training. All in one process; the sides alternate, the fastest of each
is taken.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from timing import fastest
from torch import Tensor

from bpkd_search.config.networks import Student, Teacher
from bpkd_search.data import EvalTransform, TrainTransform, open_split
from bpkd_search.data.views import ViewRecipe, ViewStore, build_logits, build_views
from bpkd_search.models.build import autocast, build_model
from bpkd_search.models.heads import resize

HEIGHT, WIDTH, IMAGES, VIEWS, BATCH, ROUNDS = 120, 160, 64, 2, 8, 3
CODECS = ("float16", "int8", "topk:4")


def teacher_of(classes: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    net = build_model(Teacher(encoder="tf_efficientnet_lite2"), classes, 0).to(device).eval()

    def infer(images: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(device):
            return net(images.to(device, non_blocking=True))

    return infer


def student_epoch(classes: int, batches: list[tuple[Tensor, Tensor]], device: torch.device) -> Callable[[], None]:
    net = build_model(Student(encoder="mobilenetv3_small_050"), classes, 0).to(device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def epoch() -> None:
        for images, labels in batches:
            with autocast(device):
                loss = F.cross_entropy(resize(net(images).float(), labels.shape[-2:]), labels.long(), ignore_index=255)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def measure(root: Path, device: torch.device) -> dict[str, object]:
    options = {"height": HEIGHT, "width": WIDTH}
    recipe = ViewRecipe(
        open_split("synthetic", "train", train_images=IMAGES, val_images=8, **options),
        open_split("synthetic", "val", train_images=IMAGES, val_images=8, **options),
        TrainTransform(HEIGHT, WIDTH),
        EvalTransform(HEIGHT, WIDTH),
        VIEWS,
    )
    start = time.perf_counter()
    store = build_views(recipe, root)
    views, view_seconds = IMAGES * VIEWS, time.perf_counter() - start
    teacher, built = teacher_of(store.num_classes, device), iter(range(1000))
    batches = [store.crops.read(np.arange(at, at + 16))[0] for at in range(0, views, 16)]

    def bare() -> None:
        for images in batches:
            teacher(images).float().cpu()

    def build(codec: str) -> Callable[[], ViewStore]:
        return lambda: build_logits(store, teacher, f"{next(built)}", codec=codec)

    alone, *whole = fastest(bare, *(build(codec) for codec in CODECS), rounds=ROUNDS, device=device)

    held = [(i.to(device), t.to(device)) for i, t, _ in store.epoch(0, BATCH, 0)]
    stores = [build(codec)() for codec in CODECS]

    def read(given: ViewStore) -> Callable[[], None]:
        def epoch() -> None:
            for _ in given.epoch(0, BATCH, 0, device=device):
                pass

        return epoch

    student = student_epoch(store.num_classes, held, device)
    need, *reads = fastest(student, *(read(s) for s in stores), rounds=ROUNDS, device=device)
    return {
        "device": str(device),
        "views_per_second": views / view_seconds,
        "teacher_per_second": views / alone,
        "student_per_second": IMAGES / need,
        "codecs": [
            {
                "codec": codec,
                "build_per_second": views / seconds,
                "build_over_teacher": alone / seconds,
                "read_per_second": IMAGES / reading,
                "read_over_need": need / reading,
            }
            for codec, seconds, reading in zip(CODECS, whole, reads, strict=True)
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), torch.device(arguments.device))
    print(f"{IMAGES} images x {VIEWS} views of {HEIGHT}x{WIDTH}, {figures['device']}; images a second:")
    print(f"  views made {figures['views_per_second']:.0f}, bare teacher {figures['teacher_per_second']:.0f},", end="")
    print(f" bare student {figures['student_per_second']:.0f}")
    print("logits    built  / teacher     read  / student's need")
    for row in figures["codecs"]:
        print(
            f"{row['codec']:8}{row['build_per_second']:7.0f}{row['build_over_teacher']:11.2f}"
            f"{row['read_per_second']:9.0f}{row['read_over_need']:18.1f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
