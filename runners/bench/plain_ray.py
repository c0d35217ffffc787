"""The search that a user would write today from Ray Tune's documentation: the other side of `search.py`.

    python runners/bench/plain_ray.py --root CAMVID --checkpoint TEACHER [--trials 8] [--epochs 3] [--json FILE]

A function trainable, `OptunaSearch` and ASHA. Every trial decodes and augments the images in a DataLoader, loads the
teacher and runs it at every step. With `--reuse` it is the script of somebody who has measured: a class trainable whose
actors serve one trial after the other (`reuse_actors=True`) and keep the decoded images and the teacher in memory.
Networks, losses and augmentation are the package's, so that both sides do the same work; a trial without a teacher in
its loss runs none. On a GPU (`--device cuda`) trials share it in equal parts and train in mixed precision; one torch
thread a trial.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from bpkd_search.data import EvalTransform, TrainTransform
from bpkd_search.losses import bpkd_loss, cwd_loss, kd_loss
from bpkd_search.metrics import confusion_matrix, mean_iou
from bpkd_search.models import Segmentor, load_segmentor
from bpkd_search.models.build import autocast

CLASSES, VOID, IGNORE = 11, 11, 255
Batches = Iterable[tuple[Tensor, Tensor]]

SPACE = {
    "method": tune.choice(["ce", "kd", "cwd", "bpkd"]),
    "edge_width": tune.choice([3, 5, 7, 9, 11]),
    "edge_weight": tune.loguniform(0.05, 50),
    "body_weight": tune.loguniform(0.02, 20),
    "edge_temperature": tune.loguniform(0.5, 8),
    "body_temperature": tune.loguniform(0.5, 8),
}


class CamVid(Dataset):
    """Image uint8 [3, H, W] and label uint8 [H, W] from the files of a split; new augmentation at every call.

    With `keep`, decoded files stay in memory.
    """

    def __init__(self, root: Path, split: str, height: int, width: int, *, keep: bool = False) -> None:
        self.files = [(path, root / f"{split}annot" / path.name) for path in sorted((root / split).glob("*.png"))]
        self.train = (
            TrainTransform(height, width, (0.75, 1.5), colour_jitter=0.2, resize=(height, width))
            if split == "train"
            else None
        )
        self.eval = EvalTransform((height, width), "resized")
        self.kept: dict[int, tuple[Tensor, Tensor]] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pair = self.decoded(index)
        if self.train is None:
            return self.eval(*pair)
        return self.train(*pair, seed=int(torch.randint(2**31, ())))

    def decoded(self, index: int) -> tuple[Tensor, Tensor]:
        if self.kept is not None and index in self.kept:
            return self.kept[index]
        image, label = (np.array(Image.open(path)) for path in self.files[index])
        label[label == VOID] = IGNORE
        pair = torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label)
        if self.kept is not None:
            self.kept[index] = pair
        return pair


def loaders(options: dict[str, Any]) -> tuple[DataLoader, DataLoader]:
    root, size = Path(options["root"]), (options["height"], options["width"])
    workers = {"num_workers": options["workers"], "persistent_workers": options["workers"] > 0}
    images = {split: CamVid(root, split, *size, keep=options.get("reuse", False)) for split in ("train", "val")}
    train = DataLoader(images["train"], options["batch"], shuffle=True, drop_last=True, **workers)
    return train, DataLoader(images["val"], 16, **workers)


def make_student(options: dict[str, Any]) -> Segmentor:
    return Segmentor(options["student"], CLASSES).to(options.get("device", "cpu"), memory_format=torch.channels_last)


def make_teacher(options: dict[str, Any]) -> Segmentor:
    teacher = Segmentor(
        options["teacher"], CLASSES, head=options["teacher_head"], output_stride=options["teacher_stride"]
    )
    load_segmentor(teacher, Path(options["checkpoint"]))
    return teacher.to(options.get("device", "cpu")).eval().requires_grad_(False)


def make_optimizer(student: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.01, fused=True)


def infer(teacher: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad(), autocast(images.device, dtype=torch.float16):
        return teacher(images.contiguous(memory_format=torch.channels_last))


def step(
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    teacher_logits: Tensor | None,
    config: dict[str, Any],
) -> None:
    with autocast(images.device):
        logits = student(images.contiguous(memory_format=torch.channels_last)).float()
    loss = F.cross_entropy(
        F.interpolate(logits, labels.shape[-2:], mode="bilinear"), labels.long(), ignore_index=IGNORE
    )
    if config["method"] == "bpkd":
        settings = {name: value for name, value in config.items() if name != "method"}
        loss = loss + bpkd_loss(logits, teacher_logits, labels, **settings).total
    elif config["method"] != "ce":
        loss = loss + {"kd": kd_loss, "cwd": cwd_loss}[config["method"]](logits, teacher_logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.inference_mode()
def evaluate(student: nn.Module, batches: Batches) -> float:
    student.eval()
    device = next(student.parameters()).device
    confusion = torch.zeros(CLASSES, CLASSES, dtype=torch.int64, device=device)
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        with autocast(device):
            logits = F.interpolate(student(images).float(), labels.shape[-2:], mode="bilinear")
        confusion += confusion_matrix(logits.argmax(1), labels, CLASSES)
    return mean_iou(confusion)


class Run:
    """One run of a setting, epoch by epoch."""

    def __init__(
        self,
        config: dict[str, Any],
        options: dict[str, Any],
        batches: tuple[Batches, Batches],
        teacher: Segmentor | None,
    ) -> None:
        torch.manual_seed(0)
        self.device = options.get("device", "cpu")
        self.config, self.teacher = config, teacher if config["method"] != "ce" else None
        self.train, self.val = batches
        self.student = make_student(options)
        self.optimizer = make_optimizer(self.student)
        steps = options["epochs"] * len(self.train)
        self.schedule = torch.optim.lr_scheduler.PolynomialLR(self.optimizer, steps, power=0.9)
        self.began, self.epoch = time.time(), 0

    def next_epoch(self) -> dict[str, Any]:
        """Train for an epoch and evaluate."""
        self.student.train()
        for images, labels in self.train:
            images, labels = images.to(self.device), labels.to(self.device)
            teacher_logits = infer(self.teacher, images) if self.teacher is not None else None
            step(self.student, self.optimizer, images, labels, teacher_logits, self.config)
            self.schedule.step()
        self.epoch += 1
        miou = evaluate(self.student, self.val)
        return {"miou": miou, "epoch": self.epoch, "began": self.began, "ended": time.time()}


def trial(config: dict[str, Any], options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    teacher = make_teacher(options) if config["method"] != "ce" else None
    run = Run(config, options, loaders(options), teacher)
    for _ in range(options["epochs"]):
        tune.report(run.next_epoch())


class ReusedTrial(tune.Trainable):
    """The same as `trial`, in an actor that keeps images and teacher for the next trial."""

    def setup(self, config: dict[str, Any], options: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        self.options, self.batches, self.teacher = options, loaders(options), make_teacher(options)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.run = Run(new_config, self.options, self.batches, self.teacher)
        return True

    def step(self) -> dict[str, Any]:
        report = self.run.next_epoch()
        return {**report, "done": self.run.epoch == self.options["epochs"]}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing is kept, as in `trial`."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing is kept."""


def search(options: dict[str, Any]) -> dict[str, Any]:
    """Run it; seconds from before Ray starts to the last result, and each trial's epochs, score, begin and end."""
    start = time.time()
    points = options["points"] or []
    reuse = options.get("reuse", False)
    each = {"cpu": 1.0, "gpu": 0.0 if options["device"] == "cpu" else 1 / options["concurrent"]}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(ReusedTrial if reuse else trial, options=options), each),
        param_space=SPACE,
        tune_config=tune.TuneConfig(
            metric="miou",
            mode="max",
            search_alg=OptunaSearch(points_to_evaluate=points or None, seed=0),
            scheduler=ASHAScheduler(
                max_t=options["epochs"], grace_period=options["grace"], reduction_factor=options["reduction"]
            ),
            num_samples=len(points) or options["trials"],
            max_concurrent_trials=options["concurrent"],
            reuse_actors=reuse,
        ),
        run_config=tune.RunConfig(
            name="plain",
            storage_path=options["storage"],
            verbose=0,
            # With `reuse_actors`, Ray Tune may drop a process that has not started yet, and with it the trial.
            failure_config=tune.FailureConfig(max_failures=2),
        ),
    )
    results = tuner.fit()
    if results.errors:
        raise results.errors[0]
    rows = [
        {"config": result.config, **{name: result.metrics[name] for name in ("epoch", "miou", "began", "ended")}}
        for result in results
    ]
    return {"start": start, "seconds": time.time() - start, "trials": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder with train/, trainannot/, val/, valannot/")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the teacher's weights, as the package saves")
    parser.add_argument("--teacher", default="tf_efficientnet_lite2")
    parser.add_argument("--teacher-head", default="fpn")
    parser.add_argument("--teacher-stride", type=int, default=32)
    parser.add_argument("--student", default="mobilenetv3_small_050")
    parser.add_argument("--height", type=int, default=120)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--grace", type=int, default=1)
    parser.add_argument("--reduction", type=int, default=3)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--points", type=json.loads, help="settings to try instead of sampled ones, as a JSON list")
    parser.add_argument("--concurrent", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers a trial (default: 0)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--reuse", action="store_true", help="keep actors, decoded images and the teacher")
    parser.add_argument("--storage", type=Path, help="where Ray keeps its results (default: Ray's own place)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    # Ray changes the working directory of trials.
    paths = {name: str(path.resolve()) for name, path in vars(options).items() if isinstance(path, Path)}
    figures = search(vars(options) | paths)
    best = max(row["miou"] for row in figures["trials"])
    print(f"{len(figures['trials'])} trials in {figures['seconds']:.0f} s, best mIoU {best:.4f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
