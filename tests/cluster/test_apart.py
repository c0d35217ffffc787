"""A call in a process of its own: its result, its lines in order and while it runs, its errors, and its end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
import torch

from bpkd_search.cluster.apart import on_ray
from bpkd_search.errors import DataError


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    # A GPU in name alone: what is asked for is what a real one would give.
    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def work(count: int, *, say: Callable[[str], None]) -> dict[str, object]:
    for number in range(count):
        say(f"line {number} at {time.time()}")
        time.sleep(0.7)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"pid": os.getpid(), "gpus": gpus, "threads": torch.get_num_threads(), "ended": time.time()}


def fails(*, say: Callable[[str], None]) -> None:
    say("about to fail")
    raise DataError("image 3 is damaged")


def test_a_call_has_its_own_process_and_gpu_and_ends_with_it(cluster: None) -> None:
    heard: list[tuple[float, str]] = []
    apart = on_ray({"num_cpus": 2, "num_gpus": 1})
    result = apart(work, 3, say=lambda line: heard.append((time.time(), line)))
    assert result["pid"] != os.getpid()
    assert (result["gpus"], result["threads"]) == ("0", 2)
    assert [line.split(" at ")[0] for _, line in heard] == ["line 0", "line 1", "line 2"]
    assert heard[0][0] < result["ended"], "lines come while the work goes on"
    until = time.monotonic() + 10
    while psutil.pid_exists(result["pid"]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not psutil.pid_exists(result["pid"])


def test_errors_of_the_user_come_as_they_were_raised(cluster: None) -> None:
    heard: list[str] = []
    with pytest.raises(DataError, match=r"^image 3 is damaged$"):
        on_ray({"num_cpus": 1, "num_gpus": 0.5})(fails, say=heard.append)
    assert heard == ["about to fail"]
