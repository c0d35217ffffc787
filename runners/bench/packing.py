"""Images a second of more and more trials on one GPU, or with more threads on a CPU: the curve that `auto` climbs.

    python runners/bench/packing.py [--device cpu|cuda] [--root CAMVID] [--tiny] [--json FILE]

Every packing is measured, also those after the best, where a search would stop. Small students (mobilenetv3_small_050
at 120x160) and stored views, as a search has them; without --root on scenes that the package draws.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bpkd_search.cluster import packing
from bpkd_search.cluster.connection import connect_ray
from bpkd_search.cluster.trial import TrialTask
from bpkd_search.config.models import RunConfig
from bpkd_search.config.points import to_tree
from bpkd_search.models import save_weights
from bpkd_search.models.build import build_model
from bpkd_search.training.prepare import prepare
from bpkd_search.training.source import open_data


def run_of(options: argparse.Namespace, folder: Path) -> RunConfig:
    height, width = (32, 48) if options.tiny else (120, 160)
    images = {"train_images": 8 if options.tiny else 128, "val_images": 8, "height": height, "width": width}
    data: dict[str, Any] = {"crop": [height, width], "resize": {"short": height}, "views": 2, "views_dir": folder}
    data |= {"kind": "camvid", "root": options.root} if options.root else {"synthetic": images}
    train = {"epochs": 2, "batch_size": 4 if options.tiny else 8, "device": options.device}
    teacher = {"encoder": "mobilenetv3_small_050", "mode": "stored", "checkpoint": folder / "teacher.safetensors"}
    return RunConfig.model_validate({"data": data, "teacher": teacher, "train": train, "loss": {"method": "bpkd"}})


def measure(options: argparse.Namespace, folder: Path) -> list[packing.Measured]:
    run = run_of(options, folder)
    classes = len(open_data(run.data, "train").class_names)
    save_weights(folder / "teacher.safetensors", build_model(run.teacher, classes, 0))
    prepared = prepare(run, lambda line: None)
    task = TrialTask(str(folder), prepared, 1, run=to_tree(run))
    if options.tiny:
        packing.SECONDS = 0.5
    with connect_ray(None, False) as nodes:
        machine = packing.Machine(int(nodes[0].gpus) and int(options.device == "cuda"), int(nodes[0].cpus))
        tried = packing.candidates(machine)
        with packing.ray_copies(task.to_dict(), machine, max(each.copies for each in tried)) as copies:
            found: list[packing.Measured] = []
            for each in tried:
                found.append(copies(each))
                if options.json:  # what a time limit leaves
                    options.json.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
            return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--root", type=Path, help="a CamVid folder (default: scenes that the package draws)")
    parser.add_argument("--tiny", action="store_true", help="a few small images, to try the command")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    print("trials  threads  images a second  memory left")
    for each in found:
        rate = "out of memory" if each.images_per_second is None else f"{each.images_per_second:.1f}"
        left = "" if each.memory_left is None else f"{each.memory_left:.0%}"
        print(f"{each.packing.copies:6}{each.packing.cpus:9}{rate:>17}{left:>13}")


if __name__ == "__main__":
    main()
