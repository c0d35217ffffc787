"""Cost of the losses as ratios, each measured in one run as interleaved pairs (medians).

python runners/bench/losses.py [--device cpu|cuda] [--json FILE] [--threads 1] [--repeats 7]

- edge_masks against the one-hot max-pool form, with a square and with a separable window, [4, 19, 512, 1024] to
  stride 8, at widths 3, 7 and 15;
- bpkd_loss against kd_loss, forward and backward, [8, 19, 64, 128] logits and [8, 512, 1024] labels.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from timing import alternate, ratio
from torch import Tensor
from torch.nn import functional as F

from bpkd_search.losses import bpkd_loss, edge_masks, kd_loss

CLASSES, FRAME, GRID = 19, (512, 1024), (64, 128)


def scene(images: int, device: str) -> Tensor:
    """Label maps of smooth regions with a void strip, uint8; a quarter of the pixels is edge at width 7."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(images, CLASSES, 8, 16, generator=generator)
    labels = F.interpolate(scores, size=FRAME, mode="bicubic").argmax(1).to(torch.uint8)
    labels[:, -32:] = 255
    return labels.to(device)


def max_pool(maps: Tensor, width: int) -> Tensor:
    return F.max_pool2d(maps, width, stride=1, padding=width // 2)


def separable_max_pool(maps: Tensor, width: int) -> Tensor:
    rows = F.max_pool2d(maps, (width, 1), stride=1, padding=(width // 2, 0))
    return F.max_pool2d(rows, (1, width), stride=1, padding=(0, width // 2))


def one_hot_edge_masks(labels: Tensor, width: int, pool: Callable[[Tensor, int], Tensor] = max_pool) -> Tensor:
    """The form found in public code: a one-hot float map, max-pooled both ways and averaged."""
    void = labels == 255
    one_hot = F.one_hot(torch.where(void, CLASSES, labels.long()), CLASSES + 1).permute(0, 3, 1, 2).float()
    dilated, eroded = pool(one_hot, width), -pool(-one_hot, width)
    edges = (dilated - eroded)[:, :CLASSES] * (1 - dilated[:, CLASSES:])
    return F.adaptive_avg_pool2d(edges, GRID)


def peak_bytes(run: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def pair(first: Callable[[], object], second: Callable[[], object], device: str, repeats: int) -> dict[str, float]:
    """Median milliseconds of both and the median ratio first / second, after one warm-up each."""
    a, b = alternate(first, second, rounds=repeats, device=device)
    return {"first_ms": 1e3 * statistics.median(a), "second_ms": 1e3 * statistics.median(b), "ratio": ratio(a, b)}


def measure(device: str, repeats: int) -> dict[str, dict[str, float]]:
    results = {}
    labels = scene(4, device)
    for width in (3, 7, 15):
        new = partial(edge_masks, labels, CLASSES, width, GRID)
        for name, pool in {"one-hot": max_pool, "separable one-hot": separable_max_pool}.items():
            old = partial(one_hot_edge_masks, labels, width, pool)
            torch.testing.assert_close(new(), old(), rtol=0, atol=1e-6)
            result = pair(old, new, device, repeats)
            if device == "cuda":
                result["peak_memory_ratio"] = peak_bytes(old) / peak_bytes(new)
            results[f"{name} / edge_masks, width {width}"] = result

    labels = scene(8, device)
    student, teacher = torch.randn(2, 8, CLASSES, *GRID, device=device)
    student.requires_grad_()

    def step(loss: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(), student)

    results["bpkd_loss / kd_loss, forward and backward"] = pair(
        step(lambda: bpkd_loss(student, teacher, labels).total),
        step(lambda: kd_loss(student, teacher, labels)),
        device,
        repeats,
    )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = measure(arguments.device, arguments.repeats)
    for name, figures in results.items():
        print(f"{name:50}", "  ".join(f"{key} {value:.2f}" for key, value in figures.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
