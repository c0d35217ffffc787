"""Timing things against each other: their rounds alternate, so that what else the machine does meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

Run = Callable[[], object]


def seconds(run: Run, device: torch.device | str = "cpu") -> float:
    """Seconds that a call takes, the GPU's work on it included."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if on_gpu:
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def alternate(
    *runs: Run,
    rounds: int,
    device: torch.device | str = "cpu",
    after: Callable[[list[list[float]]], object] = lambda times: None,
) -> list[list[float]]:
    """Seconds of each run in so many alternating rounds, after one round to warm up; `after` each gets those so far."""
    for run in runs:
        seconds(run, device)
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, column in zip(runs, times, strict=True):
            column.append(seconds(run, device))
        after(times)
    return times


def fastest(*runs: Run, rounds: int, device: torch.device | str = "cpu") -> list[float]:
    """Seconds of each run, the least of the rounds."""
    return [min(times) for times in alternate(*runs, rounds=rounds, device=device)]


def ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """The median over the rounds of first / second."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))
