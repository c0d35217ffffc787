"""What it costs to keep a search on an object store: the same search in a folder and on a server on loopback, in turn.

    python runners/bench/stores.py [--rounds 2] [--trials 4] [--epochs 4] [--tiny] [--json FILE]

The server is `rclone serve s3`, which shares the CPUs with the search; a store elsewhere takes none of them, but each
request takes longer. Both sides find views and teacher built. The time is that of the whole search with Ray's start,
and on the store with the last upload.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bpkd_search import run_search
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.stores.home import local_folder
from bpkd_search.stores.store import Store
from bpkd_search.training.prepare import prepare

sys.path.append(str(Path(__file__).resolve().parents[2]))
from tests.store_server import StoreServer


def config_of(options: argparse.Namespace, folder: Path) -> SearchConfig:
    height, width, images = (32, 48, 8) if options.tiny else (120, 160, 96)
    synthetic = {"train_images": images, "val_images": images // 4, "height": height, "width": width}
    encoder = "mobilenetv3_small_050" if options.tiny else "mobilenetv2_100"
    config: dict[str, Any] = {
        "data": {"crop": [height, width], "views": 2, "views_dir": folder / "views", "synthetic": synthetic},
        "teacher": {"encoder": "mobilenetv3_small_050", "train": {"epochs": 1, "batch_size": 4}},
        "student": {"encoder": encoder},
        "loss": {"method": "bpkd"},
        "train": {"epochs": options.epochs, "batch_size": 8},
        "search": {"trials": options.trials, "concurrent": 2, "scheduler": {"name": "none"}},
        "space": {"loss.edge_weight": {"float": [0.05, 50], "log": True}},
    }
    return parse(SearchConfig, config, "bench")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    server = StoreServer(folder / "server")
    os.environ |= {**server.environment, "BPKD_SEARCH_CACHE": str(folder / "cache")}
    config = config_of(options, folder)
    prepare(config.run(), lambda line: None)
    server.start()
    found: dict[str, Any] = {"disk": [], "store": []}
    try:
        for number in range(options.rounds):
            places = {"disk": str(folder / f"disk-{number}"), "store": f"s3://bucket/{number}/bench"}
            # Each side is the first one every second time.
            for side in sorted(places, reverse=number % 2 == 1):
                where = places[side]
                start = time.perf_counter()
                run_search(config, where)
                found[side].append(time.perf_counter() - start)
                print(f"{side}: {found[side][-1]:.1f} s", flush=True)
                if side == "store":
                    found["objects"] = len(objects := Store(where).objects())
                    found["mib"] = sum(each.size for each in objects.values()) / 2**20
                shutil.rmtree(local_folder(where) if side == "store" else where)
    finally:
        server.stop()
    return found | {"ratio": sum(found["store"]) / sum(found["disk"])}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--trials", type=int, default=4, help="beside the baselines")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--tiny", action="store_true", help="a few small images, to try the command")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    print(f"in the store at the end: {found['objects']} objects, {found['mib']:.1f} MiB")
    print(f"a search on the store over one on disk: {found['ratio']:.3f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
