"""A connection to Ray: a cluster that is up, or one of this machine's own."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bpkd_search.cluster.nodes import Node, live_nodes
from bpkd_search.errors import ResourceError
from bpkd_search.machine import usable_cpus


@contextmanager
def connect_ray(address: str | None, verbose: bool) -> Iterator[Sequence[Node]]:
    """The nodes of a Ray cluster to work on; without an `address`, of one of its own, shut down afterwards.

    Another Ray on this machine, and `RAY_ADDRESS`, matter only to the address `auto`.
    Raises `ResourceError` if Ray cannot be reached or started.
    """
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
        options |= {"num_cpus": usable_cpus(), "include_dashboard": False}
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError) as e:
        where = "Ray cannot start here"
        if address:
            where = f"no Ray cluster answers at {address} (is RAY_AUTH_MODE the same on both sides?)"
        raise ResourceError(f"{where}: {str(e).splitlines()[0]}") from e
    if not verbose:
        logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        yield live_nodes()
    finally:
        ray.shutdown()
