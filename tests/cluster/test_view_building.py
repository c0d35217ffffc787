"""Chunks on Ray actors: the same files as in this process, errors as they were raised, and the rule when to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpkd_search.cluster import view_building as module
from bpkd_search.cluster.nodes import live_nodes
from bpkd_search.cluster.view_building import ray_map, ray_maps
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.data.views import build as views_build
from bpkd_search.errors import DataError
from bpkd_search.training.prepare import prepare
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
    ray_maps(nodes_of((16, 4)))
    ray_maps(nodes_of((16, 4)), "cpu")
    ray_maps(nodes_of((6, 0)))
    assert ray_maps(nodes_of((16, 4)), "cuda:1")[1] is map
    views = (16, 1, 0)
    assert asked == [views, (4, 4, 1), views, (16, 1, 0), (6, 1, 0), (6, 1, 0), views]


def test_an_actor_with_a_gpu_asks_for_no_more_cpus_than_its_node_has(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module, "ray_map", lambda *a: asked.append(a[:3]) or map)
    head_and_workers = nodes_of((64, 0), (8, 2), (8, 2))
    ray_maps(head_and_workers)
    ray_maps(head_and_workers, "auto", head_and_workers[0].id)
    ray_maps(nodes_of((4, 8)))
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

    def build(folder: str, *maps: Any) -> Path:
        data = run.data.model_copy(update={"views_dir": tmp_path / folder})
        prepared = prepare(run.model_copy(update={"data": data}), lambda line: None, *maps)
        return Path(prepared.logits or "").parent

    here = build("here")
    monkeypatch.setattr(module, "START_SECONDS", 0.0)
    monkeypatch.setattr(views_build, "LOGIT_CHUNK", 32)
    # The teacher is the same file for both: its training is not what is compared.
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "teachers").symlink_to(tmp_path / "here" / "teachers")
    there = build("there", *ray_maps(live_nodes(), "cpu", ray.get_runtime_context().get_node_id()))
    files = sorted(path.relative_to(here) for path in here.rglob("*.npy"))
    assert len(files) == 4
    assert all((here / name).read_bytes() == (there / name).read_bytes() for name in files)
