"""How long a student takes for one image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bpkd_search.config.models import RunConfig
from bpkd_search.models import Network
from bpkd_search.models.build import autocast, build_model, pick_device
from bpkd_search.training.check import plain
from bpkd_search.training.inputs import Say
from bpkd_search.training.prepare import Prepared
from bpkd_search.training.runtime import synchronize

# The measure's name in reports and tables.
LATENCY = "latency_ms"
REPEATS, REPEATS_ALONE = 5, 20


def latency_ms(student: Network, image: Tensor, *, amp: bool = True, repeats: int = REPEATS) -> float:
    """Return milliseconds for an image [3, H, W] through a student on its device, the median of `repeats` passes.

    The student is in evaluation mode afterwards. Other work on the device counts into it.
    """
    device = student.mean.device
    images = image[None].to(device)
    student.eval()
    times = []
    with torch.inference_mode(), autocast(device, amp):
        for _ in range(repeats + 1):
            start = time.perf_counter()
            student(images)
            synchronize(device)
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def latencies(runs: Sequence[Mapping[str, Any]], prepared: Prepared, say: Say) -> list[float]:
    """Return the latency of the student of each run, with random weights, on the first validation image."""
    store = prepared.here().open()
    image, found = next(store.val_samples([0]))[0], []
    for tree in runs:
        run = RunConfig.model_validate(tree)
        student = build_model(plain(run.student), store.num_classes, 0).to(pick_device(run.train.device))
        found.append(latency_ms(student, image, amp=run.train.amp == "auto", repeats=REPEATS_ALONE))
    return found
