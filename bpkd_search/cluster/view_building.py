"""Building views and logits on a Ray cluster: one actor a CPU or GPU, each making chunks until none is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from bpkd_search.cluster.apart import on_ray
from bpkd_search.cluster.nodes import Node, pinned
from bpkd_search.cluster.slots import divide
from bpkd_search.config.models import RunConfig
from bpkd_search.config.search import Search
from bpkd_search.data.views import Map, thread_map
from bpkd_search.errors import UserError
from bpkd_search.training.inputs import Say
from bpkd_search.training.prepare import Prepared, prepare
from bpkd_search.training.workers import Workers

# What starting actors takes, about: work that is done sooner stays here.
START_SECONDS = 10.0
Chunk = Callable[[int], tuple[int, int]]


def ray_workers(nodes: Sequence[Node], device: str = "auto", node: str | None = None) -> Workers:
    """How to spread the work of a preparation over the nodes of a cluster, or over one `node` (by Ray's id).

    Views take a CPU an actor. Logits take a GPU an actor with its share of the node's CPUs, or where there is none,
    or `device` is `cpu`, a CPU. Where there are GPUs, no work on one is done in this process, which would keep its
    memory. A named GPU (`cuda:1`) is that of this machine: its logits are computed here.
    """
    nodes = [each for each in nodes if node in (None, each.id)]
    views = ray_map(sum(int(each.cpus) for each in nodes), 1, 0, thread_map, node)
    if ":" in device or not any(each.cpus for each in nodes):
        return Workers(views)
    # As trials are placed by default.
    slots = divide(Search(), nodes, "cpu" if device == "cpu" else "auto")
    logits = ray_map(slots.count, slots.cpus, slots.gpus, map, node)
    if not slots.gpus:
        return Workers(views, logits)
    return Workers(views, logits, on_ray({"num_cpus": slots.cpus, "num_gpus": slots.gpus, **pinned(node)}), "cuda")


def build_inputs(run: RunConfig, say: Say, *, address: str | None = None, verbose: bool = False) -> Prepared:
    """Build what a run reads: in this process, or with an `address` by all of a Ray cluster (`local` starts one)."""
    if address is None:
        return prepare(run, say)
    from bpkd_search.cluster.connection import connect_ray

    with connect_ray(address, verbose) as nodes:
        return prepare(run, say, ray_workers(nodes, run.train.device))


def ray_map(actors: int, cpus: float, gpus: float, local: Map, node: str | None = None) -> Map:
    """A `map` over actors with the given CPUs (and torch threads) and GPUs, on any node or on one.

    Without GPUs the first chunk is made here; where the rest would be done before actors have started, `local` does it.
    Raises those of the user that a chunk raises, as they were raised.
    """

    def spread(function: Chunk, chunks: Sequence[int]) -> Iterator[tuple[int, int]]:
        if not chunks:
            return
        options = {"num_cpus": cpus, "num_gpus": gpus, **pinned(node)}
        if gpus:
            yield from _on_actors(function, chunks, min(actors, len(chunks)), options)
            return
        start = time.perf_counter()
        yield function(chunks[0])
        rest = chunks[1:]
        if actors < 2 or (time.perf_counter() - start) * len(rest) < START_SECONDS:
            yield from local(function, rest)
        else:
            yield from _on_actors(function, rest, min(actors, len(rest)), options)

    return spread


class _Builder:
    """Makes chunks in its own process; what the function opens stays open from chunk to chunk."""

    def __init__(self, function: Chunk, threads: int) -> None:
        torch.set_num_threads(threads)
        self._function = function

    def make(self, chunk: int) -> tuple[int, int]:
        return self._function(chunk)


def _on_actors(
    function: Chunk, chunks: Sequence[int], count: int, options: Mapping[str, Any]
) -> Iterator[tuple[int, int]]:
    import ray
    from ray.exceptions import RayTaskError
    from ray.util import ActorPool

    shared = ray.put(function)
    builder: Any = ray.remote(_Builder).options(**options)
    actors = [builder.remote(shared, max(1, int(options["num_cpus"]))) for _ in range(count)]
    try:
        yield from ActorPool(actors).map_unordered(lambda actor, chunk: actor.make.remote(chunk), chunks)
    except RayTaskError as e:
        if isinstance(e.cause, UserError):
            raise e.cause from None
        raise
    finally:
        for actor in actors:
            ray.kill(actor)
