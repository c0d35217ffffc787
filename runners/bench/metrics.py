"""What the boundary metrics add to a validation pass, as a ratio to one that measures mIoU alone.

    python runners/bench/metrics.py [--json FILE]

A pass is the forward of a small network (MobileNetV3-Small 0.5 and a linear head, untrained), logits
enlarged to the label size, arg-max and counting. Both kinds of pass alternate in one process on one
thread; the fastest of each is taken. Labels are smooth random regions, predictions the same with errors.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from timing import fastest
from torch import Tensor, nn

from bpkd_search.metrics import SegmentationMetrics, confusion_matrix

CASES = ((120, 160, 11), (180, 240, 11), (360, 480, 11), (256, 512, 19), (256, 256, 150))
BATCH, ROUNDS = 8, 7


class Segmentor(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = timm.create_model("mobilenetv3_small_050", features_only=True, out_indices=(1, 3))
        self.heads = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in self.encoder.feature_info.channels())

    def forward(self, images: Tensor) -> Tensor:
        fine, coarse = (head(part) for head, part in zip(self.heads, self.encoder(images), strict=True))
        return fine + F.interpolate(coarse, fine.shape[-2:], mode="bilinear")


def regions(height: int, width: int, classes: int) -> tuple[Tensor, Tensor]:
    """Logits at stride 8, and labels that are those of other, close logits; a tenth is ignored."""
    coarse = torch.randn(BATCH, classes, max(2, height // 24), max(2, width // 24))
    logits = F.interpolate(coarse, (height // 8, width // 8), mode="bicubic")
    noisy = F.interpolate(logits + 0.2 * torch.randn_like(logits), (height, width), mode="bicubic")
    labels = noisy.argmax(1)
    labels[:, : height // 10] = 255
    return logits, labels


@torch.inference_mode()
def measure(height: int, width: int, classes: int) -> dict[str, float]:
    """Milliseconds an image with mIoU alone and with every metric, and their ratio."""
    model = Segmentor(classes).eval()
    images = torch.randn(BATCH, 3, height, width)
    logits, labels = regions(height, width, classes)
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    metrics = SegmentationMetrics(classes)

    def predict() -> Tensor:
        model(images)
        # An untrained network predicts noise: its time counts, the predictions are the prepared ones.
        return F.interpolate(logits, (height, width), mode="bilinear").argmax(1)

    def miou_alone() -> None:
        # Image by image, as the full metrics count on a CPU: the same cache behaviour on both sides.
        for guess, truth in zip(predict(), labels, strict=True):
            confusion.add_(confusion_matrix(guess, truth, classes))

    def everything() -> None:
        metrics.update(predict(), labels)

    alone, full = fastest(miou_alone, everything, rounds=ROUNDS)
    return {
        "height": height,
        "width": width,
        "classes": classes,
        "miou_ms": 1000 * alone / BATCH,
        "all_ms": 1000 * full / BATCH,
        "ratio": full / alone,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [measure(*case) for case in CASES]
    print("size       classes  mIoU alone  all metrics  ratio   (ms an image)")
    for row in rows:
        size = f"{row['height']}x{row['width']}"
        print(f"{size:9}{row['classes']:9}{row['miou_ms']:12.2f}{row['all_ms']:13.2f}{row['ratio']:7.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
