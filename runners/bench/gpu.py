"""Everything that only a GPU can show, in one command of under nine minutes.

    python runners/bench/gpu.py --out DIR [--root CAMVID] [--parts tests step packing search] [--tiny --device cpu]
    python runners/bench/gpu.py --out DIR --root CAMVID --hours H [--weights LITE2.safetensors]

Parts run one after the other, each in a process of its own with its own time limit, and write DIR/PART.json as they go;
a part that fails or runs out of time leaves the others. At the end a table and a verdict for each target are printed
and written to DIR/verdict.json:

    tests    the tests marked `gpu`, and those of losses, metrics, models and training, on this machine
    step     a training step of each loss beside the bare one: stored and online teacher; eager, compiled, as CUDA
             graphs; the small student at 120x160 and at 512x1024; milliseconds, launches, peak memory
    packing  images a second of 1 to 16 trials on one GPU
    search   the four baselines and eight settings through Ray with fractions of a GPU, against `plain_ray.py` as one
             writes it first and as it is with `--reuse`
    left     memory in use on the GPU after all of it, against before

With --hours, none of these: in that time the table `tables/camvid-360x480.yaml` is recorded, 64 settings with three
seeds each, in DIR/runs; the same command goes on where the time was up, and writes DIR/camvid-360x480.parquet.

It needs torch, timm, Ray and Optuna: no package index, no virtual environment, no git. With `--tiny --device cpu` the
same code runs on a few small images, which the ordinary tests do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parents[1]
# Seconds that each part may take.
LIMITS = {"tests": 110, "step": 180, "packing": 70, "search": 170}
# A CPU takes its time; there the limits only end what hangs.
SLOWER = 10
TARGETS = {
    "step, stored teacher, over the bare step": (1.05, "at most"),
    "trials an hour over plain Ray with --reuse": (3.0, "at least"),
    "share of the bound": (0.9, "at least"),
    "MiB left on the GPU": (0.0, "at most"),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a directory for the figures")
    parser.add_argument("--root", type=Path, default=os.environ.get("BPKD_CAMVID"), help="CamVid (default: scenes)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a few small images, to try the command")
    parser.add_argument("--parts", nargs="+", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument("--hours", type=float, help="record a table of CamVid at 360x480 for so long, instead")
    parser.add_argument("--weights", type=Path, help="with --hours, the encoder of its teacher")
    options = parser.parse_args(arguments)
    if options.hours is not None and options.root is None and not options.tiny:
        parser.error("--hours: needs CamVid, as --root or BPKD_CAMVID")
    if options.device == "cuda" and (fault := unusable()):
        print(f"gpu: {fault}; nothing was measured", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    if options.hours is not None:
        return record(options)
    before = used_mib(options.device)
    outcomes = {part: run_part(part, options) for part in options.parts}
    left = None if before is None else max(0.0, (used_mib(options.device) or 0.0) - before)
    (options.out / "left.json").write_text(json.dumps({"mib": left}) + "\n")
    found = verdicts(options.out, left)
    (options.out / "verdict.json").write_text(json.dumps({"parts": outcomes, "targets": found}, indent=1) + "\n")
    show(options.out, outcomes, found)
    return 0 if all(each["outcome"] == "done" for each in outcomes.values()) else 1


def unusable() -> str | None:
    """What keeps this process from using a GPU, None if nothing does."""
    import torch

    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA"
    return f"this machine has no GPU that PyTorch {torch.__version__} (CUDA {torch.version.cuda}) can use"


def used_mib(device: str) -> float | None:
    """MiB in use on the GPU by any process, asked for by a process that ends; None on a CPU."""
    if device == "cpu":
        return None
    code = "import torch; free, total = torch.cuda.mem_get_info(); print((total - free) / 2**20)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def commands(part: str, options: argparse.Namespace) -> list[list[str]]:
    """The command lines of a part; each writes its figures to a file of its own."""
    python, device, root = sys.executable, options.device, ["--root", str(options.root)] if options.root else []

    def json_to(name: str) -> list[str]:
        return ["--json", str(options.out / f"{name}.json")]

    if part == "tests":
        chosen = ["tests/test_on_gpu.py"]
        if not options.tiny:
            chosen += [
                "tests/losses",
                "tests/metrics",
                "tests/models/test_inference.py",
                "tests/data/test_resampling.py",
            ]
            chosen.append("tests/training")
        marks = "not long" if options.device == "cuda" else "gpu"
        line = [python, "-m", "pytest", "-q", "-m", marks, "-p", "no:cacheprovider", *chosen]
        return [[*line, f"--junitxml={options.out / 'tests.xml'}"]]
    if part == "step":
        # The small student at the README's size and at Cityscapes'.
        sizes = ["32x48"] if options.tiny else ["120x160", "512x1024"]
        few = ["--rounds", "3", "--images", "32"]
        if options.tiny:
            # All but the code that is generated, which takes a minute.
            few = ["--rounds", "1", "--images", "4", "--batch", "2", "--backend", "eager"]
        few.append("--compile")
        encoders = ["--teacher", "mobilenetv3_small_050"] if options.tiny else []
        line = [python, str(BENCH / "step.py"), "--device", device, *few, *encoders]
        sides = {size: size.split("x") for size in sizes}
        return [[*line, "--height", h, "--width", w, *json_to(f"step-{size}")] for size, (h, w) in sides.items()]
    if part == "packing":
        few = ["--tiny"] if options.tiny else []
        line = [python, str(BENCH / "packing.py"), "--device", device, *few, *root]
        return [[*line, *json_to("packing")]]
    # Eight settings beside the four baselines, nothing stopped: trials an hour are then epochs an hour.
    sized = ["--height", "360", "--width", "480", "--epochs", "2", "--grace", "2", "--trials", "8"]
    sized += ["--concurrent", "4", "--workers", "2"]
    if options.tiny:
        sized = ["--height", "32", "--width", "48", "--batch", "4", "--epochs", "2", "--grace", "2"]
        sized += ["--trials", "1", "--images", "8", "--concurrent", "1"]
    line = [python, str(BENCH / "search.py"), "--device", device, *root, *sized]
    return [[*line, *json_to("search")]]


def run_part(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a part's commands in their time; what they print is in DIR/PART.log."""
    print(f"{part} ...", flush=True)
    start, outcome = time.monotonic(), "done"
    limit = LIMITS[part] * (SLOWER if options.device == "cpu" else 1)
    with (options.out / f"{part}.log").open("w") as log:
        for line in commands(part, options):
            left = limit - (time.monotonic() - start)
            try:
                done = subprocess.run(
                    line, cwd=ROOT, env=environment(), stdout=log, stderr=subprocess.STDOUT,
                    timeout=max(1.0, left),
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                outcome = f"stopped after {limit} s"
                break
            # pytest's 5: no test is marked so.
            if done.returncode not in (0, 5 if part == "tests" else 0):
                outcome = f"failed with exit code {done.returncode}; see {part}.log"
    return {"outcome": outcome, "seconds": round(time.monotonic() - start, 1)}


def record(options: argparse.Namespace) -> int:
    """Record the table until it is whole or the time is up."""
    recorder = [sys.executable, str(BENCH / "tables" / "record.py"), "camvid-360x480"]
    line = [*recorder, "--runs", str(options.out / "runs"), "--to", str(options.out), "--hours", str(options.hours)]
    line += ["--root", str(options.root)] if options.root else []
    line += ["--weights", str(options.weights)] if options.weights else []
    line += ["--tiny"] if options.tiny else []
    return subprocess.run(line, env=environment()).returncode


def environment() -> dict[str, str]:
    """That of this process, with the package of this tree."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}


def verdicts(out: Path, left: float | None) -> dict[str, dict[str, Any]]:
    """Each target with what was reached, None where it was not measured."""
    reached: dict[str, float | None] = dict.fromkeys(TARGETS)
    steps = [json.loads(path.read_text()) for path in sorted(out.glob("step-*.json"))]
    if steps:
        rows = [row["ratio"] for step in steps for name, row in step["rows"].items() if name in ("kd", "cwd", "bpkd")]
        reached["step, stored teacher, over the bare step"] = max(rows)
    path = out / "search.json"
    # A search whose time was up has no ratios.
    if path.is_file() and (ratios := json.loads(path.read_text()).get("ratios")):
        reached["trials an hour over plain Ray with --reuse"] = ratios["trials_an_hour_over_reused"]
        reached["share of the bound"] = ratios["share_of_bound"]
    reached["MiB left on the GPU"] = left
    found = {}
    for name, (target, sense) in TARGETS.items():
        value = reached[name]
        met = None if value is None else value <= target if sense == "at most" else value >= target
        found[name] = {"target": target, "sense": sense, "reached": value, "met": met}
    return found


def show(out: Path, outcomes: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]]) -> None:
    """Print the figures, what became of the parts, and whether the targets are met."""
    for path in sorted(out.glob("step-*.json")):
        print("\n".join(step_table(path.stem.removeprefix("step-"), json.loads(path.read_text())["rows"])))
    if (path := out / "packing.json").is_file():
        cells = []
        for each in json.loads(path.read_text()):
            rate = each["images_per_second"]
            cells.append(f"{each['packing']['copies']} at once {'no memory' if rate is None else f'{rate:.0f}'}")
        print(f"images a second: {', '.join(cells)}")
    if (path := out / "search.json").is_file():
        figures = json.loads(path.read_text())
        for name in ("this_tool", "plain_ray", "plain_ray_reused"):
            if name in figures:
                print(f"{name:18}{figures[name]['trials_an_hour']:8.0f} trials an hour")
    for part, each in outcomes.items():
        print(f"{part:10}{each['seconds']:8.1f} s  {each['outcome']}")
    for name, each in found.items():
        reached = "not measured" if each["reached"] is None else f"{each['reached']:.3g}"
        verdict = {True: "met", False: "missed", None: ""}[each["met"]]
        print(f"{name:45}{each['sense']} {each['target']:g}: {reached:>12}  {verdict}")


def step_table(size: str, rows: dict[str, dict[str, float]]) -> list[str]:
    """One line a step, its milliseconds in each mode, and launches and peak MiB of the last mode that has them."""
    lines = [f"{size:24}" + "".join(f"{mode:>12}" for mode in ("eager", "compiled", "graphs", "launches", "peak MiB"))]
    for name in (name for name in rows if not name.endswith((", compiled", ", graphs"))):
        modes = [rows.get(key) for key in (name, f"{name}, compiled", f"{name}, graphs")]
        there = [row for row in modes if row is not None and "peak_mib" in row]
        cells = ["" if row is None else f"{row['ms_a_step']:.2f}" for row in modes]
        cells += [f"{there[-1]['launches_a_step']:.0f}", f"{there[-1]['peak_mib']:.0f}"] if there else []
        lines.append(f"{name:24}" + "".join(f"{cell:>12}" for cell in cells))
    return lines


if __name__ == "__main__":
    sys.exit(main())
