#!/usr/bin/env python3
"""Waits, SECONDS at most, until NODES nodes of this machine's Ray cluster are up: wait_for_nodes.py NODES [SECONDS]."""

from __future__ import annotations

import sys
import time

import ray


def main(nodes: int, seconds: float = 1200) -> int:
    deadline = time.monotonic() + seconds
    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    while (up := sum(node["Alive"] for node in ray.nodes())) < nodes:
        if time.monotonic() > deadline:
            print(f"error: {up} of {nodes} node(s) joined within {seconds:g} s", file=sys.stderr)
            return 1
        time.sleep(1)
    return 0


if __name__ == "__main__":
    if not 1 <= len(sys.argv[1:]) <= 2 or not all(given.isdigit() for given in sys.argv[1:]):
        print(f"usage: {sys.argv[0]} NODES [SECONDS], two whole numbers", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(*map(int, sys.argv[1:])))
