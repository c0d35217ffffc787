"""A connection to Ray: a cluster that is up, or one of this machine's own."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bpkd_search.errors import ResourceError


@contextmanager
def connect_ray(address: str | None, verbose: bool) -> Iterator[dict[str, float]]:
    """A Ray cluster to work on, and what it offers; a local one is shut down afterwards."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's own files a trial, its signal handler and its tables have better ones here.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    if not verbose:
        warnings.filterwarnings("ignore", module="ray|optuna")
    import ray

    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": logging.INFO if verbose else logging.ERROR}
    if address is None:
        options |= {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError) as e:
        where = "Ray cannot start here"
        if address:
            where = f"no Ray cluster answers at {address} (is RAY_AUTH_MODE the same on both sides?)"
        raise ResourceError(f"{where}: {str(e).splitlines()[0]}") from e
    if not verbose:
        logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        yield dict(ray.cluster_resources())
    finally:
        ray.shutdown()
