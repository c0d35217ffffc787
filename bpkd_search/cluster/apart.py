"""One call in a process of its own, which has a GPU and ends with the call.

What a process has once allocated on a GPU it keeps, CUDA's own state too. A driver that trained the teacher itself
would keep that memory from its trials for the whole search, and on a cluster it may have no GPU at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bpkd_search.errors import ResourceError, UserError
from bpkd_search.training.inputs import Say

# How often lines are fetched, and what it takes at most until a busy cluster gives its GPU.
POLL_SECONDS, START_SECONDS = 0.5, 600.0


def on_ray(options: Mapping[str, Any]) -> Callable[..., Any]:
    """Return an `Apart` (see `training.workers`) that calls in a Ray actor with these options, such as `num_gpus`."""

    def apart(function: Callable[..., Any], *arguments: Any, say: Say) -> Any:
        return _call(function, arguments, options, say)

    return apart


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], options: Mapping[str, Any], say: Say) -> Any:
    """Raises what the function raises if it is a user's error, `ResourceError` if no process can be had."""
    import ray
    from ray.exceptions import RayTaskError

    # A second thread gives the lines while the first computes.
    worker = ray.remote(_Worker).options(max_concurrency=2, **options).remote(max(1, int(options["num_cpus"])))
    try:
        if not ray.wait([worker.lines.remote(0)], timeout=START_SECONDS)[0]:
            raise ResourceError(
                f"Ray has not given {options['num_cpus']:g} CPU(s) and {options['num_gpus']:g} GPU(s) for"
                f" {START_SECONDS:g} s; other work holds them"
            )
        result, told = worker.run.remote(function, arguments), 0
        while True:
            done = bool(ray.wait([result], timeout=POLL_SECONDS)[0])
            lines = ray.get(worker.lines.remote(told))
            told += len(lines)
            for line in lines:
                say(line)
            if done:
                return ray.get(result)
    except RayTaskError as e:
        if isinstance(e.cause, UserError):
            raise e.cause from None
        raise
    finally:
        ray.kill(worker)


class _Worker:
    """Runs one function and keeps the lines that it prints until they are fetched."""

    def __init__(self, threads: int) -> None:
        self._threads, self._lines = threads, list[str]()

    def run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        import torch

        torch.set_num_threads(self._threads)
        return function(*arguments, say=self._lines.append)

    def lines(self, start: int) -> list[str]:
        return self._lines[start:]
