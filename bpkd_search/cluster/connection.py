"""A connection to Ray: a cluster that is up, or one of this machine's own."""

from __future__ import annotations

import logging
import os
import secrets
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from bpkd_search.cluster.nodes import Node, live_nodes
from bpkd_search.errors import ResourceError
from bpkd_search.machine import usable_cpus

MODE, TOKENS = "RAY_AUTH_MODE", ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@contextmanager
def connect_ray(address: str | None, verbose: bool) -> Iterator[Sequence[Node]]:
    """The nodes of a Ray cluster to work on; without an `address`, of one of its own, shut down afterwards.

    Another Ray on this machine, and `RAY_ADDRESS`, matter only to the address `auto`. One of its own takes commands of
    this process and its children alone (`own_token`).
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
    with ExitStack() as stack:
        if address is None:
            stack.enter_context(own_token())
        try:
            ray.init(address=address or "local", **options)
        except (ConnectionError, ValueError, RuntimeError) as e:
            where = "Ray cannot start here"
            if address:
                where = f"no Ray cluster answers at {address} (is {MODE} the same on both sides?)"
            raise ResourceError(f"{where}: {str(e).splitlines()[0]}") from e
        if not verbose:
            logging.getLogger("ray").setLevel(logging.CRITICAL)
        try:
            yield live_nodes()
        finally:
            ray.shutdown()


@contextmanager
def own_token() -> Iterator[None]:
    """Within the block, a Ray that starts refuses whoever lacks its token, which is new and only in the environment.

    Ray listens beyond this machine, and its commands are code that runs as the user. A mode or token that the user
    has set is kept. Left alone, Ray 2.52 to 2.58 has no token and later ones write theirs into the home folder, where
    it also decides what other clusters of the user ask for; older ones know none.
    """
    given = {name: os.environ.get(name) for name in (MODE, *TOKENS)}
    mode = given[MODE]
    if mode is None or mode.lower() == "token":
        os.environ[MODE] = "token"
        if not any(given[name] for name in TOKENS):
            os.environ[TOKENS[0]] = secrets.token_hex(32)
    _read_again()
    try:
        yield
    finally:
        for name, value in given.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_again()


def _read_again() -> None:
    """Let Ray's part of this process read mode and token from the environment again; it keeps what it found first."""
    # Not public, and missing in versions before 2.52.
    with suppress(ImportError, AttributeError):
        from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()
