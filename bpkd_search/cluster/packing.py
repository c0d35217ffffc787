"""Packing: how many trials run at once on a GPU, or with how many threads on CPUs, found by measuring them.

Small students leave most of a GPU idle, and threads beyond one seldom pay on a CPU; how far is a matter of the
student, the images and the machine. So copies of the search's own first run train side by side for some seconds,
1, 2, 3, ... of them, and the number with the most images a second in all is taken. Copies are processes, as trials are:
where the user runs NVIDIA's MPS, they are measured with it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpkd_search.cluster.mps import mps_runs
from bpkd_search.cluster.nodes import Node, live_nodes, on_each
from bpkd_search.cluster.slots import Slots
from bpkd_search.config.search import Search
from bpkd_search.errors import ResourceError

if TYPE_CHECKING:
    from bpkd_search.cluster.trial import TrialTask
    from bpkd_search.training.distill import Distillation

Say = Callable[[str], None]
# What was measured on which machine, and the resources of a trial that follow, as plain values.
Record = dict[str, Any]

# Copies a GPU at most, and what must stay free of its memory (or of the machine's, without a GPU).
MOST, RESERVE = 16, 0.1
# Candidates in a row that bring no more images a second before the climb ends.
PATIENCE = 2
WARM_UP_STEPS, SECONDS = 3, 4.0
# How long to wait for the machine that is measured: another driver's trials may hold it.
READY_SECONDS = 300.0


@dataclass(frozen=True, order=True)
class Machine:
    """One node's GPUs and CPUs."""

    gpus: int
    cpus: int


@dataclass(frozen=True)
class Packing:
    """`copies` trials at once on one GPU, or on one machine without any, each with `cpus` and `gpus`."""

    copies: int
    cpus: int
    gpus: float


@dataclass(frozen=True)
class Measured:
    """What a packing did: images a second of all its copies together, and the share of memory left; None: none did."""

    packing: Packing
    images_per_second: float | None
    memory_left: float | None

    @property
    def fits(self) -> bool:
        """Whether every copy trained and some memory was left."""
        return self.images_per_second is not None and (self.memory_left is None or self.memory_left >= RESERVE)


def wanted(search: Search, gpus: float) -> bool:
    """Whether a search leaves the packing to a measurement: `resources: auto`, or nothing said where there are GPUs."""
    return search.resources == "auto" or (search.resources is None and gpus > 0)


def candidates(machine: Machine, at_once: int | None = None) -> list[Packing]:
    """The packings to try, in order: more and more trials per GPU, or more and more threads per trial without a GPU.

    `at_once` bounds how many trials the user wants on the machine.
    """
    if machine.gpus:
        share = max(1, machine.cpus // machine.gpus)
        most = min(share, MOST, -(-at_once // machine.gpus) if at_once else MOST)
        # Ray counts in ten-thousandths: a share rounded up would leave no room for the last copy.
        return [Packing(n, share // n, int(1e4 / n) / 1e4) for n in range(1, most + 1)]
    threads = [2**power for power in range(machine.cpus.bit_length()) if 2**power <= machine.cpus]
    return [Packing(min(machine.cpus // each, at_once or machine.cpus), each, 0.0) for each in threads]


def climb(packings: Iterable[Packing], measure: Callable[[Packing], Measured]) -> Iterator[Measured]:
    """Measure packings in order until `PATIENCE` in a row are no better than the best before them."""
    best, worse = 0.0, 0
    for packing in packings:
        measured = measure(packing)
        yield measured
        rate = (measured.images_per_second or 0.0) if measured.fits else 0.0
        worse = 0 if rate > best else worse + 1
        best = max(best, rate)
        if worse == PATIENCE:
            return


def fastest(measured: Iterable[Measured]) -> Packing | None:
    """The packing with the most images a second among those that fit; None where none does."""
    fitting = [each for each in measured if each.fits]
    if not fitting:
        return None
    return max(fitting, key=lambda each: each.images_per_second or 0.0).packing


def pack(
    search: Search, machine: Machine, measure: Callable[[Packing], Measured], say: Say, *, mps: bool = False
) -> Record:
    """Choose a trial's resources on a machine; every measurement is said as it comes and is in the record.

    `mps` says whether processes on one GPU compute at the same time there.
    """
    found: list[Measured] = []
    if machine.gpus and mps:
        say("packing: MPS runs, so trials on one GPU compute at the same time")
    for each in climb(candidates(machine, _at_once(search)), measure):
        found.append(each)
        say(f"packing: {_words(each)}")
    chosen = fastest(found)
    if chosen is None:
        say("packing: nothing fits in memory with room to spare; one trial at a time on each device")
        chosen = Packing(1, max(1, machine.cpus // max(1, machine.gpus)), 1.0 if machine.gpus else 0.0)
    else:
        say(f"packing: {_share(chosen)} is the fastest")
        if machine.gpus and not mps and len(found) > 1:
            say("packing: trials on one GPU take turns; with NVIDIA's MPS (nvidia-cuda-mps-control -d) they need not")
    return {
        "machine": asdict(machine),
        "mps": mps,
        "resources": {"cpus": chosen.cpus, "gpus": chosen.gpus},
        "measured": [{**asdict(each), "fits": each.fits} for each in found],
    }


def pack_on_ray(search: Search, task: TrialTask, slots: Slots, known: Record | None, say: Say) -> Record:
    """The same on the Ray cluster that is connected, by running the task's own first steps.

    `slots` is how the cluster is divided before the measurement; without GPUs in it, CPUs are measured. A `known`
    record of the same machine, with MPS or without as now, is taken as it is: a resumed search continues as it began.
    """
    nodes = live_nodes()
    machine = largest(nodes, slots)
    # If some node has no daemon, trials there take turns whatever the others do.
    mps = bool(machine.gpus) and all(on_each([node for node in nodes if slots.on(node)], mps_runs).values())
    if known is not None and known["machine"] == asdict(machine) and known.get("mps", False) == mps:
        return known
    most = max(packing.copies for packing in candidates(machine, _at_once(search)))
    with ray_copies(task.to_dict(), machine, most) as measure:
        return pack(search, machine, measure, say, mps=mps)


def largest(nodes: Iterable[Node], slots: Slots) -> Machine:
    """The largest node among those on which a trial fits; its GPUs count only if trials use them."""
    return max(Machine(int(node.gpus) if slots.gpus else 0, int(node.cpus)) for node in nodes if slots.on(node))


def _at_once(search: Search) -> int | None:
    return None if search.concurrent == "auto" else search.concurrent


def _share(packing: Packing) -> str:
    where = "a GPU" if packing.gpus else "this machine"
    return f"{packing.copies} trial(s) on {where}, {packing.cpus} thread(s) each"


def _words(measured: Measured) -> str:
    if measured.images_per_second is None:
        return f"{_share(measured.packing)}: out of memory"
    left = "" if measured.memory_left is None else f", {measured.memory_left:.0%} of memory left"
    return f"{_share(measured.packing)}: {measured.images_per_second:.1f} images a second{left}"


@contextmanager
def ray_copies(task: dict[str, Any], machine: Machine, most: int) -> Iterator[Callable[[Packing], Measured]]:
    """A `measure` whose copies are Ray actors, side by side on one GPU (or one machine), warm from packing to packing.

    `task` is a `TrialTask` as plain values; `most` is how many copies the largest packing has.
    """
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    bundle: dict[str, float] = {"CPU": 1}
    if machine.gpus:
        bundle["GPU"] = int(1e4 / most) / 1e4
    group = placement_group([bundle] * most, strategy="STRICT_PACK")
    try:
        ray.get(group.ready(), timeout=READY_SECONDS)
    except GetTimeoutError:
        remove_placement_group(group)
        raise ResourceError(
            f"packing: Ray has not given {most} CPU(s)"
            + (" and a GPU" if machine.gpus else "")
            + f" of one node for {READY_SECONDS:g} s, which other work holds; wait for its end, or give figures in"
            " search.resources instead of auto"
        ) from None
    copies: list[Any] = []

    def measure(packing: Packing) -> Measured:
        while len(copies) < packing.copies:
            here = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=len(copies))
            options = {"num_cpus": 1, "num_gpus": bundle.get("GPU", 0), "scheduling_strategy": here}
            copies.append(ray.remote(Copy).options(**options).remote(task))
        running = copies[: packing.copies]
        rates = ray.get([copy.warm_up.remote(packing.cpus) for copy in running])
        if None not in rates:
            rates = ray.get([copy.rate.remote(SECONDS) for copy in running])
        left = ray.get(copies[0].memory_left.remote())
        return Measured(packing, None if None in rates else sum(rates), left)

    try:
        yield measure
    finally:
        for copy in copies:
            ray.kill(copy)
        remove_placement_group(group)


class Copy:
    """A process that trains as a trial does and says how fast."""

    def __init__(self, task: dict[str, Any]) -> None:
        from bpkd_search.cluster.trial import TrialTask

        self._task = TrialTask.from_dict(task)
        self._run: Distillation | None = None

    def warm_up(self, threads: int) -> float | None:
        """Some steps and a batch of validation, which do not count; None when the memory is full.

        What validation takes of the memory, PyTorch keeps: `memory_left` is beside it.
        """
        import torch

        torch.set_num_threads(threads)
        rate = self._train(lambda steps, _: steps < WARM_UP_STEPS)
        return None if rate is None or not self._evaluate() else rate

    def rate(self, seconds: float) -> float | None:
        """Images per second, over `seconds` seconds; None when the memory is full."""
        return self._train(lambda _, spent: spent < seconds)

    def _train(self, on: Callable[[int, float], bool]) -> float | None:
        import torch

        try:
            run = self._run = self._run or self._start()
            with run.train_mode():
                run.warm_up(0)
                steps, start = 0, time.perf_counter()
                for batch in run.batches(0, sys.maxsize):
                    if not on(steps, time.perf_counter() - start):
                        break
                    losses = run.step(*batch, progress=0.0)
                    steps += 1
                # Reading a value waits for the device.
                float(sum(losses.values()))
                return steps * len(batch[0]) / (time.perf_counter() - start)
        except (torch.OutOfMemoryError, MemoryError):
            torch.cuda.empty_cache()
            return None

    def _evaluate(self) -> bool:
        """Whether the memory holds a batch of validation beside training."""
        import torch

        from bpkd_search.config.data import Data
        from bpkd_search.training.evaluation import BATCH, evaluate

        run, data = self._run, Data.model_validate(self._task.prepared.data)
        assert run is not None
        try:
            rows = range(min(BATCH, run.store.num_val_images))
            evaluate(run.student, run.store, run.device, data.evaluation, rows, amp=run.amp)
        except (torch.OutOfMemoryError, MemoryError):
            torch.cuda.empty_cache()
            return False
        return True

    def _start(self) -> Distillation:
        from bpkd_search.config.models import RunConfig
        from bpkd_search.training.process_cache import ProcessCache

        return ProcessCache().start(RunConfig.model_validate(self._task.run), self._task.prepared)

    def memory_left(self) -> float | None:
        """The share of the device's memory, or of the machine's, that is unused; None if unknown."""
        import torch

        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            return free / total
        facts = Path("/proc/meminfo")
        if not facts.is_file():
            return None
        sizes = dict(line.split(":") for line in facts.read_text().splitlines())
        return int(sizes["MemAvailable"].split()[0]) / int(sizes["MemTotal"].split()[0])
