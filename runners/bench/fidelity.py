"""Does the view store train what an online teacher on endless crops trains?

    python runners/bench/fidelity.py --root CAMVID [--teacher FILE] [--views 2 4 8] [--seeds 2] [--jobs 2] [--json FILE]

Eight settings are trained on CamVid with the teacher run at every step on crops that never repeat, and from stores
of some views an image, whose crops come again every that many epochs. Prints the mIoU of each pair, the mean
difference and its size, and the rank correlation of each store with the online runs, all with the first seed; beside
them the same figures between the seeds of the online runs, which is what agreement can mean. A store whose differences
are no larger than those between seeds is as good as the online teacher.

Finished runs are kept as lines of the file given by --runs, so that an interrupted study goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from bpkd_search.config.models import RunConfig
from bpkd_search.models.build import pick_device
from bpkd_search.training.distill import Distillation
from bpkd_search.training.evaluation import evaluate
from bpkd_search.training.prepare import prepare
from bpkd_search.training.teacher import open_teacher

SETTINGS: dict[str, dict[str, Any]] = {
    "kd": {"method": "kd"},
    "kd, weight 10": {"method": "kd", "weight": 10},
    "cwd": {"method": "cwd"},
    "bpkd-paper": {"method": "bpkd"},
    "bpkd 1 / 20, width 7": {"method": "bpkd", "edge_weight": 1, "body_weight": 20},
    "bpkd 0.3 / 3, width 3": {
        **{"method": "bpkd", "edge_width": 3, "edge_weight": 0.3, "body_weight": 3},
        "body_temperature": 4,
    },
    "bpkd 0.1 / 0.1, width 7": {"method": "bpkd", "edge_weight": 0.1, "body_weight": 0.1},
    "bpkd 5 / 0.1, width 9": {"method": "bpkd", "edge_width": 9, "edge_weight": 5, "body_weight": 0.1},
}
ONLINE = "online"


def configure(given: argparse.Namespace, setting: str, mode: str, seed: int) -> RunConfig:
    """The run of a setting; with as many views as epochs, no crop comes again."""
    views = given.epochs if mode == ONLINE else int(mode)
    size = {"height": given.height, "width": given.width}
    teacher = {"encoder": "tf_efficientnet_lite2", "checkpoint": given.teacher} if given.teacher else {}
    return RunConfig.model_validate(
        {
            "data": {"kind": "camvid", "root": str(given.root), **size, "views": views},
            "teacher": {**teacher, "mode": "online" if mode == ONLINE else "stored"},
            "student": {"encoder": given.student},
            "loss": SETTINGS[setting],
            "train": {
                **{"epochs": given.epochs, "batch_size": 8, "optimizer": "adamw", "lr": 0.001, "weight_decay": 0.01},
                **{"warmup": 0.5, "seed": seed, "device": given.device},
            },
        }
    )


def train(given: argparse.Namespace, setting: str, mode: str, seed: int) -> dict[str, Any]:
    """One run, in a process of its own; its mIoU on the validation split after the last epoch."""
    torch.set_num_threads(1)
    run = configure(given, setting, mode, seed)
    prepared = prepare(run, lambda line: None)
    store, device = prepared.open(), pick_device(given.device)
    net = None
    if mode == ONLINE:
        net = open_teacher(run, store.num_classes, Path(str(prepared.teacher)), device)
    distillation = Distillation(run.student, run.loss, run.train, store, teacher=net)
    while not distillation.finished:
        distillation.train_epoch()
    scores = evaluate(distillation.student, store, device, run.data.evaluation)
    return {"setting": setting, "mode": mode, "seed": seed, "miou": scores.miou}


def agreement(a: list[float], b: list[float]) -> dict[str, float]:
    """Of two runs of every setting: mean of a - b, mean absolute difference, and Spearman's rank correlation."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    return {
        "mean_difference": statistics.fmean(differences),
        "mean_absolute_difference": statistics.fmean(map(abs, differences)),
        "rank_correlation": float(spearmanr(a, b).statistic),
    }


def compare(runs: list[dict[str, Any]], modes: list[str], seeds: int) -> dict[str, dict[str, float]]:
    """Every store against the online runs of the first seed, and these against the online runs of the others."""
    miou = {(r["setting"], r["mode"], r["seed"]): r["miou"] for r in runs}

    def against_online(mode: str, seed: int) -> dict[str, float]:
        return agreement([miou[each, mode, seed] for each in SETTINGS], [miou[each, ONLINE, 0] for each in SETTINGS])

    stores = {f"{mode} views": against_online(mode, 0) for mode in modes if mode != ONLINE}
    return stores | {f"online, seed {seed}": against_online(ONLINE, seed) for seed in range(1, seeds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the CamVid folder")
    parser.add_argument("--teacher", help="weights of a tf_efficientnet_lite2 + fpn teacher; without, one is trained")
    parser.add_argument("--student", default="mobilenetv3_small_050")
    parser.add_argument("--views", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--seeds", type=int, default=2, help="of the online runs; the stores are trained with one")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench/fidelity.jsonl"))
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()

    given.runs.parent.mkdir(parents=True, exist_ok=True)
    runs = [json.loads(line) for line in given.runs.read_text().splitlines()] if given.runs.is_file() else []
    done = {(r["setting"], r["mode"], r["seed"]) for r in runs}
    modes = [ONLINE, *map(str, given.views)]
    todo = [
        (setting, mode, seed)
        for seed, mode, setting in itertools.product(range(given.seeds), modes, SETTINGS)
        if (seed == 0 or mode == ONLINE) and (setting, mode, seed) not in done
    ]
    for mode in {mode: None for _, mode, _ in todo}:
        prepare(configure(given, "kd", mode, 0), print)
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool, given.runs.open("a") as kept:
        for future in [pool.submit(train, given, *each) for each in todo]:
            runs.append(future.result())
            kept.write(json.dumps(runs[-1]) + "\n")
            kept.flush()
            print("{setting:26}{mode:>8}  seed {seed}  miou {miou:.4f}".format(**runs[-1]), flush=True)

    figures = compare(runs, modes, given.seeds)
    columns = ("mean difference", "mean |difference|", "rank correlation")
    print(f"\n{'against online, seed 0':28}" + "".join(f"{name:>18}" for name in columns))
    for name, row in figures.items():
        print(f"{name:28}" + "".join(f"{value:>18.4f}" for value in row.values()))
    if given.json:
        given.json.write_text(json.dumps({"runs": runs, "against online, seed 0": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
