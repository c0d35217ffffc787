"""What an epoch of the plain search consists of, and how much faster epochs come once the shared parts are gone."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import plain_ray
import torch
from timing import fastest

ROUNDS = 3
PAPER = {"method": "bpkd", "edge_width": 7, "edge_weight": 50.0, "body_weight": 20.0, "edge_temperature": 1.0,
         "body_temperature": 1.0}  # fmt: skip


def measure(options: dict[str, Any]) -> dict[str, float]:
    """Seconds of each part of a trial, timed in as many processes at once as trials run, and averaged."""
    with ProcessPoolExecutor(options["concurrent"], get_context("spawn")) as pool:
        found = list(pool.map(_measure, [options] * options["concurrent"]))
    return {name: statistics.fmean(each[name] for each in found) for name in found[0]}


def _measure(options: dict[str, Any]) -> dict[str, float]:
    torch.set_num_threads(1)
    train, val = plain_ray.loaders(options)
    student, teacher = plain_ray.make_student(options), plain_ray.make_teacher(options)
    optimizer = plain_ray.make_optimizer(student)
    device = options.get("device", "cpu")
    images, labels = (part.to(device) for part in next(iter(train)))
    logits, held = plain_ray.infer(teacher, images), list(val)
    # A fixed number of images: the whole split can take minutes.
    some = torch.utils.data.Subset(train.dataset, range(options["batch"]))

    def train_step() -> None:
        student.train()
        plain_ray.step(student, optimizer, images, labels, logits, PAPER)

    seconds = fastest(
        train_step,
        lambda: plain_ray.infer(teacher, images),
        lambda: list(some),
        lambda: plain_ray.evaluate(student, held),
        lambda: list(val),
        rounds=ROUNDS,
        device=device,
    )
    return dict(zip(("student_step", "teacher_forward", "decode", "validation", "validation_decode"), seconds,
                    strict=True))  # fmt: skip


def bound(parts: Mapping[str, float], steps: int, epochs_a_start: float, taught: float = 1.0) -> float:
    """How many times more epochs an hour there are when a trial costs what its student costs.

    `parts` in seconds: `student_step`, `teacher_forward` and `decode` a batch, `validation` and `validation_decode`
    a split, `start_up` once in `epochs_a_start` epochs. What remains is the student's steps and its validation; gone
    are the teacher in the `taught` share of the epochs, decoding and augmenting, and start-up.
    """
    student = steps * parts["student_step"] + parts["validation"]
    shared = steps * (taught * parts["teacher_forward"] + parts["decode"]) + parts["validation_decode"]
    return (student + shared + parts["start_up"] / epochs_a_start) / student


def start_ups(trials: Iterable[tuple[float, float]], slots: int) -> list[float]:
    """Seconds between a trial's end and the first step of the next one in its slot.

    `trials` are (first step, last report) as times; a trial that begins takes the slot that became free first.
    """
    found, free = [], []
    for began, ended in sorted(trials):
        if len(free) == slots:
            found.append(began - heapq.heappop(free))
        heapq.heappush(free, ended)
    return found
