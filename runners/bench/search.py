"""One search by this tool and by the script one would write from Ray's documentation, `plain_ray.py`, in one run.

    python runners/bench/search.py [--root CAMVID] [--teacher lite2|resnet101] [--checkpoint FILE]
        [--form auto|views|maps] [--json FILE]

Both run the same settings, the four baselines first, with the same networks, losses, augmentation, optimiser, epochs,
ASHA rungs and number of trials at once; validation is mIoU there and every measure here. ASHA may stop different
trials on both sides (here it never stops a baseline), so the ratio of epochs an hour is that of trials an hour at equal
epochs; with --grace equal to --epochs nothing is stopped and the two are one. This tool's views and logits are built
once, before; figures with and without that time are printed. --form says what is stored: views, or whole images and
maps; `auto` is what the tool takes by itself. The script runs twice: as one would write it first, and with actors,
decoded images and the teacher kept (`--reuse`). Without --checkpoint the teacher's weights are random: its
time is that of a trained one, the scores are not. Without --root, the images are scenes that the package draws, saved
as files.

The bound is what removing start-up, decoding and the teacher from trials allows (`parts.py`), for the epochs an hour
between a search's first step and its last report.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import images
import parts

from bpkd_search import run_search
from bpkd_search.cluster.connection import connect_ray
from bpkd_search.cluster.view_building import ray_workers
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.networks import Model
from bpkd_search.config.points import BASELINES
from bpkd_search.experiment.events import read_events
from bpkd_search.models import save_weights
from bpkd_search.models.build import build_model
from bpkd_search.training.prepare import prepare

TEACHERS = {
    "lite2": {"encoder": "tf_efficientnet_lite2"},
    "resnet101": {"encoder": "resnet101", "head": "psp", "output_stride": 8},
}
FORMS = {"auto": ("auto", "auto"), "views": (8, "stored"), "maps": ("auto", "maps")}
CAMVID = (360, 480)
RANGES = {"edge_weight": (0.05, 50), "body_weight": (0.02, 20), "edge_temperature": (0.5, 8),
          "body_temperature": (0.5, 8)}  # fmt: skip
WIDTHS = (3, 5, 7, 9, 11)


def points(count: int) -> list[dict[str, Any]]:
    """Settings drawn from the space of search_spaces/camvid.yaml, always the same ones."""
    draws = random.Random(0)
    weights = [{name: low * (high / low) ** draws.random() for name, (low, high) in RANGES.items()}
               for _ in range(count)]  # fmt: skip
    return [{"edge_width": draws.choice(WIDTHS), **each} for each in weights]


def config_of(options: dict[str, Any], folder: Path) -> SearchConfig:
    whole = [options["height"], options["width"]]
    # Images of 3:4 are not distorted by this; their labels are scored at the crop's size, as the script does.
    size = {"crop": whole, "resize": whole, "eval": {"labels": "resized"}}
    views, mode = FORMS[options["form"]]
    train = {"epochs": options["epochs"], "batch_size": options["batch"], "optimizer": "adamw", "lr": 1e-3}
    on_gpu = options["device"] == "cuda"
    resources = {"cpus": 1, "gpus": int(1e4 / options["concurrent"]) / 1e4 if on_gpu else 0}
    search = {"trials": options["trials"], "concurrent": options["concurrent"], "resources": resources}
    scheduler = {"name": "asha", "grace": options["grace"], "reduction": options["reduction"]}
    space = {f"loss.{name}": {"float": bounds, "log": True} for name, bounds in RANGES.items()}
    config = {
        "data": {"kind": "camvid", "root": options["root"], "views": views, "views_dir": folder} | size,
        "teacher": TEACHERS[options["teacher"]] | {"checkpoint": options["checkpoint"], "mode": mode},
        "student": {"encoder": options["student"]},
        "train": train | {"weight_decay": 0.01, "device": options["device"]},
        "search": search | {"scheduler": scheduler},
        "space": space | {"loss.edge_width": {"int": [WIDTHS[0], WIDTHS[-1]], "step": 2}},
        "enqueue": [{f"loss.{name}": value for name, value in point.items()} for point in points(options["trials"])],
    }
    return parse(SearchConfig, config, "bench")


def summary(trials: list[dict[str, Any]], seconds: float, slots: int, epochs: int) -> dict[str, Any]:
    """Figures of one side; `trials` hold epoch, miou, began (the first step) and ended (the last report).

    `seconds` are those of the whole search; between its first step and its last report, Ray's start is left out.
    """
    done = sum(trial["epoch"] for trial in trials)
    between = max(trial["ended"] for trial in trials) - min(trial["began"] for trial in trials)
    waits = parts.start_ups([(trial["began"], trial["ended"]) for trial in trials], slots)
    return {
        "seconds": seconds,
        "trials": len(trials),
        "epochs": done,
        "trials_an_hour": 3600 * len(trials) / seconds,
        "epochs_an_hour": 3600 * done / seconds,
        "epochs_an_hour_between": 3600 * done / between,
        "best_miou": max((trial["miou"] for trial in trials if trial["epoch"] == epochs), default=math.nan),
        "start_up_seconds": statistics.median(waits),
    }


def trials_of(directory: Path) -> list[dict[str, Any]]:
    """The trials of an experiment from its event log.

    The first step is not logged. A report comes training and a rest (validation, saving, Ray) after it, and the rest
    is the median of those between later reports.
    """
    reports: dict[int, list[dict[str, Any]]] = {}
    for event in read_events(directory):
        if event["event"] == "report":
            reports.setdefault(event["number"], []).append(event)
        if event["event"] == "end" and event["state"] == "FAILED":
            raise RuntimeError(f"trial {event['number']}: {event['message']}")
    rest = statistics.median(
        (later["wall_seconds"] - earlier["wall_seconds"]) - (later["gpu_seconds"] - earlier["gpu_seconds"])
        for trial in reports.values()
        for earlier, later in pairwise(trial)
    )
    return [
        {
            "epoch": trial[-1]["epoch"],
            "miou": trial[-1]["miou"],
            "began": trial[0]["time"] - trial[0]["gpu_seconds"] - rest,
            "ended": trial[-1]["time"],
            "training": trial[-1]["gpu_seconds"],
        }
        for trial in reports.values()
    ]


def by_this_tool(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    config = config_of(options, folder / "views")
    with connect_ray(None, False) as available:
        start = time.perf_counter()
        prepare(config.run(), lambda line: None, ray_workers(available, options["device"]))
        preparation = time.perf_counter() - start
    start = time.perf_counter()
    run_search(config, folder / "search")
    seconds = time.perf_counter() - start
    trials = trials_of(folder / "search")
    result = summary(trials, seconds, options["concurrent"], options["epochs"])
    busy = sum(trial["ended"] - trial["began"] for trial in trials)
    return {
        **result,
        "preparation_seconds": preparation,
        "training_share": sum(trial["training"] for trial in trials) / busy,
    }


def by_plain_ray(options: dict[str, Any], folder: Path, *, reuse: bool = False) -> dict[str, Any]:
    settings = plain_settings(options)
    others = {name: value for name, value in parts.PAPER.items() if name != "method"}
    fixed = [parts.PAPER if name == "bpkd-paper" else {"method": name, **others} for name in BASELINES]
    settings["points"] = json.dumps([*fixed, *({"method": "bpkd", **point} for point in points(options["trials"]))])
    results = folder / ("reused" if reuse else "plain")
    settings |= {"storage": results, "json": results.with_suffix(".json")}
    line = [sys.executable, str(Path(__file__).with_name("plain_ray.py"))]
    for name, value in settings.items():
        line += [f"--{name.replace('_', '-')}", str(value)]
    line += ["--reuse"] if reuse else []
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"plain_ray.py failed:\n{done.stderr[-4000:]}")
    found = json.loads(results.with_suffix(".json").read_text())
    taught = sum(row["epoch"] for row in found["trials"] if row["config"]["method"] != "ce")
    result = summary(found["trials"], found["seconds"], options["concurrent"], options["epochs"])
    return {**result, "taught_epochs": taught}


def plain_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The options as `plain_ray.py` names them."""
    teacher = Model.model_validate(TEACHERS[options["teacher"]])
    shared = ("root", "checkpoint", "student", "height", "width", "batch", "epochs", "grace", "reduction", "concurrent",
              "workers", "device")  # fmt: skip
    return {name: options[name] for name in shared} | {
        "teacher": teacher.encoder,
        "teacher_head": teacher.head,
        "teacher_stride": teacher.output_stride,
    }


def measure(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    given = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    # Trials run in other working directories.
    options = options | {name: options[name].resolve() for name in ("root", "checkpoint") if options[name]}
    if not options["root"]:
        options["root"] = images.draw(folder / "drawn", options["images"] or 48, *CAMVID)
    elif options["images"]:
        options["root"] = images.first(options["root"], folder / "first", options["images"])
    if not options["checkpoint"]:
        options["checkpoint"] = folder / "teacher.safetensors"
        save_weights(options["checkpoint"], build_model(Model.model_validate(TEACHERS[options["teacher"]]), 11, 0))
    count = len(list((options["root"] / "train").glob("*.png")))
    seconds = parts.measure(plain_settings(options))
    figures: dict[str, Any] = {"options": given, "train_images": count, "parts_seconds": seconds}

    def noted(name: str, side: dict[str, Any]) -> dict[str, Any]:
        figures[name] = side
        if options["json"]:  # what a time limit leaves
            options["json"].write_text(json.dumps(figures, indent=2) + "\n")
        return side

    ours = noted("this_tool", by_this_tool(options, folder))
    reused = noted("plain_ray_reused", by_plain_ray(options, folder, reuse=True))
    plain = noted("plain_ray", by_plain_ray(options, folder))
    seconds["start_up"] = plain["start_up_seconds"]
    # The first trial of a slot begins before the time that is compared.
    epochs_a_start = plain["epochs"] / (plain["trials"] - options["concurrent"])
    taught = plain["taught_epochs"] / plain["epochs"]
    limit = parts.bound(seconds, count // options["batch"], epochs_a_start, taught)
    whole = ours["seconds"] / (ours["seconds"] + ours["preparation_seconds"])
    names = ("trials_an_hour", "epochs_an_hour", "epochs_an_hour_between")
    trials, epochs, between = (ours[name] / plain[name] for name in names)
    ratios = {
        "trials_an_hour": trials,
        "trials_an_hour_over_reused": ours["trials_an_hour"] / reused["trials_an_hour"],
        "epochs_an_hour": epochs,
        "trials_an_hour_with_preparation": trials * whole,
        "epochs_an_hour_with_preparation": epochs * whole,
        "epochs_an_hour_between": between,
        "bound": limit,
        "share_of_bound": between / limit,
    }
    noted("ratios", ratios)
    return figures


def show(figures: dict[str, Any]) -> None:
    options = figures["options"]
    print("{student} from {teacher}, {images} images of {height}x{width}, {concurrent} trials at once".format(
        **options | {"images": figures["train_images"]}))  # fmt: skip
    print("parts of a plain trial, seconds: " + ", ".join(f"{k} {v:.3f}" for k, v in figures["parts_seconds"].items()))
    print(f"{'':24}{'this tool':>12}{'plain Ray':>12}{'with reuse':>12}")
    for name, value in figures["this_tool"].items():
        if name in figures["plain_ray"]:
            plain, reused = (figures[side][name] for side in ("plain_ray", "plain_ray_reused"))
            print(f"{name:24}{value:12.4g}{plain:12.4g}{reused:12.4g}")
    about = (
        "preparation, once: {preparation_seconds:.1f} s, not in the figures above; {training_share:.0%} of this tool's"
    )
    print(f"{about} trials is training, the rest validation and saving".format(**figures["this_tool"]))
    for name, value in figures["ratios"].items():
        print(f"{name:32}{value:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a CamVid folder (default: scenes that the package draws)")
    parser.add_argument("--images", type=int, help="train on so many (default: 48 drawn ones, or all of --root)")
    parser.add_argument("--teacher", choices=list(TEACHERS), default="lite2")
    parser.add_argument("--checkpoint", type=Path, help="the teacher's weights, from `bpkd-search teacher`")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--form", choices=list(FORMS), default="auto", help="what is stored for the trials")
    parser.add_argument("--student", default="mobilenetv3_small_050")
    parser.add_argument("--height", type=int, default=120)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--trials", type=int, default=6, help="beside the four baselines")
    parser.add_argument("--epochs", type=int, default=3, help="of a trial that is not stopped; at least 2")
    parser.add_argument("--grace", type=int, default=1)
    parser.add_argument("--reduction", type=int, default=3)
    parser.add_argument("--concurrent", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers of a plain trial")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error(f"--epochs: got {options.epochs}, must be at least 2: start-up is told from later epochs")
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(vars(options), Path(folder))
    show(figures)


if __name__ == "__main__":
    main()
