"""Chunks on Ray actors: the same files as in this process, errors as they were raised, and the rule when to."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bpkd_search.cluster import view_building as module
from bpkd_search.cluster.nodes import live_nodes
from bpkd_search.cluster.view_building import ray_map, ray_workers
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.data.views import build as views_build
from bpkd_search.errors import DataError
from bpkd_search.training.prepare import prepare
from bpkd_search.training.workers import Workers
from tests.machines import nodes_of


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def square(chunk: int) -> tuple[int, int]:
    if chunk == 13:
        raise DataError("chunk 13 is damaged")
    return chunk, chunk * chunk


def test_short_work_stays_here_and_no_work_is_none() -> None:
    used: list[int] = []

    def local(function: Any, chunks: Any) -> Any:
        used.extend(chunks)
        return map(function, chunks)

    assert list(ray_map(4, 1, 0, local)(square, [2, 3, 4])) == [(2, 4), (3, 9), (4, 16)]
    assert used == [3, 4]
    assert list(ray_map(4, 1, 0, local)(square, [])) == []


def test_what_an_actor_gets_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module, "ray_map", lambda *a: asked.append(a[:3]) or map)
    ray_workers(nodes_of((16, 4)))
    ray_workers(nodes_of((16, 4)), "cpu")
    ray_workers(nodes_of((6, 0)))
    assert ray_workers(nodes_of((16, 4)), "cuda:1").logits is map
    views = (16, 1, 0)
    assert asked == [views, (4, 4, 1), views, (16, 1, 0), (6, 1, 0), (6, 1, 0), views]


def test_an_actor_with_a_gpu_asks_for_no_more_cpus_than_its_node_has(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module, "ray_map", lambda *a: asked.append(a[:3]) or map)
    head_and_workers = nodes_of((64, 0), (8, 2), (8, 2))
    ray_workers(head_and_workers)
    ray_workers(head_and_workers, "auto", head_and_workers[0].id)
    ray_workers(nodes_of((4, 8)))
    assert asked == [(80, 1, 0), (4, 4, 1), (64, 1, 0), (64, 1, 0), (4, 1, 0), (8, 0.5, 1)]


def test_actors_make_the_chunks_and_pass_errors_on(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.0)
    made = []
    with pytest.raises(DataError, match=r"^chunk 13 is damaged$"):
        for result in ray_map(2, 1, 0, map)(square, [*range(8), 13]):
            made.append(result)
    # Two actors: when the last chunk fails, at most one other is on its way.
    assert len(made) >= 7
    assert all(value == chunk * chunk for chunk, value in made)


def test_views_and_logits_built_by_actors_are_those_built_here(
    cluster: None, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    tiny["data"]["synthetic"]["train_images"] = 40  # more than one chunk of views
    tiny["train"]["device"] = "cpu"
    tiny["teacher"]["train"]["device"] = "cpu"
    run = parse(SearchConfig, tiny, "test").run()

    def build(folder: str, *workers: Any) -> Path:
        data = run.data.model_copy(update={"views_dir": tmp_path / folder})
        prepared = prepare(run.model_copy(update={"data": data}), lambda line: None, *workers)
        return Path(prepared.logits or "").parent

    here = build("here")
    monkeypatch.setattr(module, "START_SECONDS", 0.0)
    monkeypatch.setattr(views_build, "LOGIT_CHUNK", 32)
    # The teacher is the same file for both: its training is not what is compared.
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "teachers").symlink_to(tmp_path / "here" / "teachers")
    # One actor for each of the two: every one is a process that starts.
    nodes = [replace(node, cpus=1) for node in live_nodes()]
    there = build("there", ray_workers(nodes, "cpu", ray.get_runtime_context().get_node_id()))
    files = sorted(path.relative_to(here) for path in here.rglob("*.npy"))
    assert len(files) == 4
    assert all((here / name).read_bytes() == (there / name).read_bytes() for name in files)


def test_where_there_are_gpus_this_process_uses_none(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    here, apart = [], []
    monkeypatch.setattr(module, "on_ray", lambda options: lambda function, *given, say: apart.append(function.__name__))
    monkeypatch.setattr(
        module, "_on_actors", lambda function, chunks, count, options: iter([(c, count) for c in chunks])
    )
    workers = ray_workers(nodes_of((16, 4)))
    workers.apart(square, 3, say=print)
    assert apart == ["square"] and workers.device == "cuda"
    assert list(workers.logits(lambda chunk: here.append(chunk) or (chunk, 0), [1, 2, 3])) == [(1, 3), (2, 3), (3, 3)]
    assert here == []
    without = ray_workers(nodes_of((16, 0)))
    assert without.device is None and without.apart(lambda say: "in this process", say=print) == "in this process"


def test_a_preparation_trains_and_evaluates_apart(tiny: dict[str, Any]) -> None:
    called: list[str] = []

    def apart(function: Any, *given: Any, say: Any) -> Any:
        called.append(function.__name__)
        # What travels through Ray is pickled.
        function, given = pickle.loads(pickle.dumps((function, given)))
        return function(*given, say=say)

    tiny["train"]["device"] = tiny["teacher"]["train"]["device"] = "cpu"
    tiny["data"]["views"], tiny["teacher"]["mode"] = "auto", "maps"
    run = parse(SearchConfig, tiny, "test").run()
    prepared = prepare(run, lambda line: None, Workers(apart=apart, device="cuda"))
    assert called == ["_try_step", "prepare_teacher", "_agreement"]
    # The logits are of the device of those who computed them.
    assert prepared.logits != prepare(run, lambda line: None).logits
