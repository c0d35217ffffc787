"""What a trial gets of the machine, and how many run at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bpkd_search.config.search import Resources, Search
from bpkd_search.errors import ResourceError


@dataclass(frozen=True)
class Slots:
    """`count` trials at once, each with `cpus` (and as many torch threads) and `gpus`."""

    count: int
    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        """Torch threads of a trial."""
        return max(1, int(self.cpus))


def divide(search: Search, available: Mapping[str, float], measured: Resources | None = None) -> Slots:
    """Divide what Ray offers (`CPU`, `GPU`) among trials; `measured` is what a packing has found for one.

    By default a trial has a GPU to itself where there is one, and one CPU where there is none: on CPU, two
    trials of two threads each were several times slower than two of one. A set figure is obeyed.
    Raises `ResourceError` for more than there is.
    """
    all_cpus, all_gpus = available.get("CPU", 0.0), available.get("GPU", 0.0)
    wanted = measured or (search.resources if isinstance(search.resources, Resources) else Resources())
    gpus = (1.0 if all_gpus else 0.0) if wanted.gpus == "auto" else float(wanted.gpus)
    if gpus > all_gpus:
        raise ResourceError(f"search.resources.gpus: got {gpus:g} a trial, there are {all_gpus:g} GPU(s)")
    by_gpu = int(all_gpus / gpus + 1e-9) if gpus else None
    share = max(1.0, all_cpus // by_gpu) if by_gpu else 1.0
    cpus = share if wanted.cpus == "auto" else float(wanted.cpus)
    if cpus > all_cpus:
        raise ResourceError(f"search.resources.cpus: got {cpus:g} a trial, there are {all_cpus:g} CPU(s)")
    count = int(all_cpus / cpus + 1e-9)
    if by_gpu:
        count = min(count, by_gpu)
    if search.concurrent != "auto":
        count = min(count, search.concurrent)
    return Slots(max(1, count), cpus, gpus)
