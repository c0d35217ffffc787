"""Does a stored teacher train what an online teacher on endless crops trains?

    python runners/bench/fidelity.py --root CAMVID [--data camvid quarter scenes] [--epochs 50] [--seeds 4]
        [--settings 2] [--arms online maps views 8] [--jobs 2] [--runs FILE] [--json FILE]

Students are trained on CamVid, on every fourth image of it, and on scenes the package draws, each in some forms of the
store ("arms"): the teacher run at every step on new crops (`online`), new crops with slices of stored maps (`maps`),
one stored view an epoch (`views`), and a number of fixed views. Every arm has its own `data.seed`, so that two arms
never share crops by chance. Prints the mean mIoU of each arm with its 95 % interval, its difference from `online`, and
the seconds of a run; with more settings also the rank correlation of their means with those of `online`, beside that
of two halves of the seeds of `online` itself, which is the most that agreement can mean.

Finished runs are kept as lines of the file given by --runs; an interrupted study continues.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from scipy.stats import t as student_t

from bpkd_search.config.models import RunConfig
from bpkd_search.training.evaluation import evaluate
from bpkd_search.training.prepare import prepare
from bpkd_search.training.process_cache import ProcessCache

SETTINGS: dict[str, dict[str, Any]] = {
    "kd": {"method": "kd"},
    "bpkd 1 / 3, width 3": {"method": "bpkd", "edge_width": 3, "edge_weight": 1, "body_weight": 3},
    "kd, weight 10": {"method": "kd", "weight": 10},
    "cwd": {"method": "cwd"},
    "bpkd-paper": {"method": "bpkd"},
    "bpkd 1 / 20, width 7": {"method": "bpkd", "edge_weight": 1, "body_weight": 20},
    "bpkd 0.1 / 0.1, width 7": {"method": "bpkd", "edge_weight": 0.1, "body_weight": 0.1},
    "bpkd 5 / 0.1, width 9": {"method": "bpkd", "edge_width": 9, "edge_weight": 5, "body_weight": 0.1},
}
ONLINE = "online"
FORMS = {ONLINE: {"mode": "online"}, "maps": {"mode": "maps"}, "views": {"mode": "stored"}}
Run = dict[str, Any]


def configure(given: argparse.Namespace, data: str, arm: str, setting: str, seed: int) -> RunConfig:
    """Return the run of a setting in an arm."""
    views = {} if arm in FORMS else {"views": int(arm)}
    sets: dict[str, dict[str, Any]] = {
        "camvid": {"kind": "camvid", "root": str(given.root), "resize": {"short": given.size}},
        "quarter": {"kind": "camvid", "root": str(given.runs.parent / "quarter"), "resize": {"short": given.size}},
        "scenes": {
            "kind": "synthetic",
            "synthetic": {"train_images": 96, "val_images": 64, "height": 128, "width": 192},
        },
    }
    sets["scenes"]["resize"] = {"short": given.size}
    optimiser = {"batch_size": 8, "optimizer": "adamw", "lr": 0.001, "weight_decay": 0.01, "warmup": 0.5}
    teacher = {"encoder": "tf_efficientnet_lite2", "weights": given.weights} if given.weights else {}
    trained = {**optimiser, "epochs": given.teacher_epochs, "device": given.device}
    return RunConfig.model_validate(
        {
            "data": {**sets[data], **views, "crop": [given.size, given.size * 3 // 2], "seed": seed_of(arm, seed)},
            "teacher": {**teacher, **FORMS.get(arm, {"mode": "stored"}), "train": trained},
            "student": {"encoder": given.student},
            "loss": SETTINGS[setting],
            "train": {**optimiser, "epochs": given.epochs, "seed": seed, "device": given.device},
        }
    )


def seed_of(arm: str, seed: int) -> int:
    """Return the seed of the crops: another one in every arm; the stores of fixed views serve all seeds."""
    base = 1000 * (1 + (list(FORMS).index(arm) if arm in FORMS else 10 + int(arm)))
    return base + (seed if arm in (ONLINE, "maps") else 0)


def quarter(root: Path, folder: Path) -> None:
    """Make a CamVid of every fourth training image, of links."""
    for split, every in (("train", 4), ("val", 1)):
        for part in (split, f"{split}annot"):
            (folder / part).mkdir(parents=True, exist_ok=True)
            for path in sorted((root / part).glob("*.png"))[::every]:
                if not (folder / part / path.name).exists():
                    (folder / part / path.name).symlink_to(path.resolve())


def train(given: argparse.Namespace, data: str, arm: str, setting: str, seed: int) -> Run:
    """Train one student in a process of its own; its mIoU on the whole validation split after the last epoch."""
    torch.set_num_threads(1)
    run = teacher_of(given, configure(given, data, arm, setting, seed), data)
    prepared = prepare(run, lambda line: None)
    distillation = ProcessCache().start(run, prepared)
    start, cpu = time.perf_counter(), time.process_time()
    while not distillation.finished:
        distillation.train_epoch()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    scores = evaluate(distillation.student, distillation.store, distillation.device, run.data.evaluation)
    figures = {"miou": scores.miou, "seconds": seconds, "cpu_seconds": cpu}
    return {"data": data, "arm": arm, "setting": setting, "seed": seed, "epochs": given.epochs, **figures}


def teacher_of(given: argparse.Namespace, run: RunConfig, data: str) -> RunConfig:
    """Return the run with the one teacher of its data set, so that arms differ in nothing else."""
    weights = given.runs.parent / f"teacher-{data}-{given.size}.safetensors"
    if not weights.is_file():
        own = run.model_copy(update={"teacher": run.teacher.model_copy(update={"mode": "online"})})
        trained = prepare(own, print).teacher
        assert trained is not None
        weights.write_bytes(Path(trained).read_bytes())
    return run.model_copy(update={"teacher": run.teacher.model_copy(update={"checkpoint": weights, "weights": None})})


def interval(values: list[float]) -> float:
    """Return half the width of the 95 % interval of a mean, by Student's t."""
    if len(values) < 2:
        return math.nan
    return float(student_t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def compare(runs: list[Run]) -> list[dict[str, Any]]:
    """Return, for each data set and arm: runs, mIoU, difference from online with intervals, seconds, rank agreement."""
    rows = []
    for data in dict.fromkeys(run["data"] for run in runs):
        here = [run for run in runs if run["data"] == data]
        arms = dict.fromkeys(run["arm"] for run in here)
        online = {(run["setting"], run["seed"]): run for run in here if run["arm"] == ONLINE}
        for arm in arms:
            mine = {(run["setting"], run["seed"]): run for run in here if run["arm"] == arm}
            pairs = [(run["miou"], online[key]["miou"]) for key, run in mine.items() if key in online]
            # Paired by setting and initial weights; the crops differ.
            gaps = [a - b for a, b in pairs]
            ratio = [run["cpu_seconds"] / online[key]["cpu_seconds"] for key, run in mine.items() if key in online]
            rows.append(
                {
                    **{"data": data, "arm": arm, "runs": len(mine), "epochs": here[0]["epochs"]},
                    "miou": statistics.fmean(run["miou"] for run in mine.values()),
                    "difference": statistics.fmean(gaps) if gaps else math.nan,
                    "interval": interval(gaps),
                    "seconds_ratio": statistics.median(ratio) if ratio else math.nan,
                    "rank_correlation": ranks(mine, online, same=arm == ONLINE),
                }
            )
    return rows


def ranks(mine: dict[Any, Run], online: dict[Any, Run], *, same: bool) -> float:
    """Return Spearman's correlation of the settings' means in two arms; of one arm, of the halves of its seeds."""

    def means(runs: dict[Any, Run], seeds: list[int]) -> dict[str, float]:
        groups: dict[str, list[float]] = {}
        for (setting, seed), run in runs.items():
            if seed in seeds:
                groups.setdefault(setting, []).append(run["miou"])
        return {setting: statistics.fmean(values) for setting, values in groups.items()}

    seeds = sorted({seed for _, seed in online})
    half = seeds[: max(1, len(seeds) // 2)]
    a, b = (means(mine, half), means(online, [s for s in seeds if s not in half] if same else half))
    shared = [setting for setting in a if setting in b]
    if len(shared) < 4:
        return math.nan
    return float(spearmanr([a[s] for s in shared], [b[s] for s in shared]).statistic)


def show(rows: list[dict[str, Any]]) -> None:
    """Print the comparison."""
    print(
        f"\n{'data':10}{'arm':>8}{'runs':>6}{'mIoU':>8}{'difference from online':>26}{'CPU time':>10}{'rank corr.':>12}"
    )
    for row in rows:
        gap = f"{100 * row['difference']:+.2f} +- {100 * row['interval']:.2f} points" if row["arm"] != ONLINE else ""
        print(
            f"{row['data']:10}{row['arm']:>8}{row['runs']:>6}{row['miou']:>8.4f}{gap:>26}{row['seconds_ratio']:>10.2f}"
            f"{row['rank_correlation']:>12.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the CamVid directory")
    parser.add_argument("--weights", help="first weights of the teacher's encoder, tf_efficientnet_lite2")
    parser.add_argument(
        "--data", nargs="+", default=["camvid", "quarter", "scenes"], choices=["camvid", "quarter", "scenes"]
    )
    parser.add_argument("--arms", nargs="+", default=[ONLINE, "maps", "views", "8"])
    parser.add_argument("--settings", type=int, default=2, help="of the eight, the first ones")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--teacher-epochs", type=int, default=30)
    parser.add_argument("--student", default="mobilenetv3_small_050")
    parser.add_argument("--size", type=int, default=64, help="short side of an image at scale 1, and of the crop")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench/fidelity.jsonl"))
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()

    given.runs.parent.mkdir(parents=True, exist_ok=True)
    given.runs = given.runs.absolute()
    quarter(given.root, given.runs.parent / "quarter")
    runs = [json.loads(line) for line in given.runs.read_text().splitlines()] if given.runs.is_file() else []
    done = {(r["data"], r["arm"], r["setting"], r["seed"]) for r in runs}
    settings = list(SETTINGS)[: given.settings]
    todo = [
        (data, arm, setting, seed)
        for data, seed, setting, arm in itertools.product(given.data, range(given.seeds), settings, given.arms)
        if (data, arm, setting, seed) not in done
    ]
    for data in dict.fromkeys(data for data, *_ in todo):
        teacher_of(given, configure(given, data, ONLINE, "kd", 0), data)
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool, given.runs.open("a") as kept:
        for future in [pool.submit(train, given, *each) for each in todo]:
            runs.append(future.result())
            kept.write(json.dumps(runs[-1]) + "\n")
            kept.flush()
            print(
                "{data:9}{arm:>7}  {setting:24} seed {seed}  miou {miou:.4f}  {cpu_seconds:.0f} s".format(**runs[-1]),
                flush=True,
            )
    rows = compare(runs)
    show(rows)
    if given.json:
        given.json.write_text(json.dumps({"runs": runs, "arms": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
