"""What nodes read: a Ray cluster of two on this machine, each with a disk of its own, told apart by a variable."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bpkd_search.cluster.nodes import Node, live_nodes, on_each
from bpkd_search.cluster.sharing import copies_for_joining, copy_here, find_unseen, prepare_nodes, require_shared
from bpkd_search.cluster.slots import Slots
from bpkd_search.cluster.trial import DistillationTrial, TrialTask
from bpkd_search.config import RunConfig, SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.data.views.catalog import list_stores
from bpkd_search.data.views.copies import Contents, copy_store, read_chunk
from bpkd_search.errors import DataError, ResourceError
from bpkd_search.experiment.trial import Trial
from bpkd_search.training.prepare import Prepared, prepare

ONE_CPU = {"num_cpus": 1, "include_dashboard": False}


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """The disks of the two nodes of a cluster, `$OWN_DISK` on each; the first is this process's node."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    paths = [tmp_path_factory.mktemp("disk") for _ in range(2)]
    # Apart from other clusters of this machine, and short: sockets lie there.
    folder = tempfile.mkdtemp(prefix="rt", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        cluster = Cluster()
        for path in paths:
            cluster.add_node(**ONE_CPU, env_vars={"OWN_DISK": str(path)})
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield paths
        ray.shutdown()
        cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def run_of(tiny: dict[str, Any], views: Path, local: str | None, **teacher: Any) -> RunConfig:
    tiny["data"] |= {"views_dir": str(views), "local_dir": local}
    tiny["teacher"] |= teacher
    return parse(SearchConfig, tiny, "test").run()


def test_every_node_reads_its_own_copy(disks: list[Path], tiny: dict[str, Any], tmp_path: Path) -> None:
    said: list[str] = []

    def to_copy() -> list[str]:
        return [line.partition(" to copy to ")[2] for line in said if " to copy to " in line]

    def prepared_for(run: RunConfig) -> Prepared:
        said.clear()
        return prepare_nodes(run, tmp_path / "out", Slots(2, 1, 0), said.append)

    shared = tmp_path / "shared"
    prepared = prepared_for(run_of(tiny, shared, "$OWN_DISK/copies"))
    assert to_copy() == ["2 of 2 node(s), into $OWN_DISK/copies of each"]
    bytes_of = {path.relative_to(shared): path.read_bytes() for path in shared.rglob("*.npy")}
    assert len(bytes_of) == 4
    for disk in disks:
        assert all((disk / "copies" / name).read_bytes() == content for name, content in bytes_of.items())
        assert [entry.finished for entry in list_stores(disk / "copies")] == [True]
    # The same again copies nothing; where a table is damaged, to its node alone.
    prepared_for(run_of(tiny, shared, "$OWN_DISK/copies"))
    assert said[-1] == "copies: 2 node(s) have the views in $OWN_DISK/copies" and to_copy() == []
    table = disks[1] / "copies" / "views" / Path(prepared.store).name / "validation" / "chunks.json"
    table.write_text("{")
    prepared_for(run_of(tiny, shared, "$OWN_DISK/copies"))
    assert to_copy() == ["1 of 2 node(s), into $OWN_DISK/copies of each"]
    # The views are there, an online teacher goes to both.
    online = prepared_for(run_of(tiny, shared, "$OWN_DISK/copies", mode="online"))
    assert to_copy() == ["2 of 2 node(s), into $OWN_DISK/copies of each"]
    # With the shared folder gone, what each node opens is its own.
    shared.rename(tmp_path / "away")
    nodes = live_nodes()
    for one, parts in ((prepared, {"images", "logits"}), (online, {"images", "teacher"})):

        def opened(one: Prepared = one) -> tuple[str, str, set[str]]:
            own = one.here()
            store = own.open()
            whole = {"images"} if store.crops.images is not None else set()
            return own.store, own.teacher, whole | ({"logits"} if store.logits else {"teacher"})

        found = list(on_each(nodes, opened).values())
        assert sorted(Path(views).parents[2] for views, _, _ in found) == sorted(disks)
        assert all(has == parts for _, _, has in found)
        if one is online:
            assert all(Path(teacher).read_bytes() == away_teacher(tmp_path, one) for _, teacher, _ in found)


def test_a_node_that_joins_later_copies_what_it_has_not(
    disks: list[Path], tiny: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    import ray

    prepared = prepare_nodes(run_of(tiny, cache, "$OWN_DISK/late"), tmp_path / "out", Slots(2, 1, 0), lambda line: None)
    kept = {path.relative_to(disks[0]): path.read_bytes() for path in (disks[0] / "late").rglob("*.npy")}
    here = ray.get_runtime_context().get_node_id()
    (other,) = [node for node in live_nodes() if node.id != here]

    def arrive(source: str | None) -> int:
        # Several trials begin there at once.
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(partial(copy_here, prepared), [source] * 2))
        return len(list(Path(os.path.expandvars("$OWN_DISK/late")).rglob("*.npy")))

    with copies_for_joining(prepared) as source:
        shutil.rmtree(disks[1] / "late")
        assert on_each([other], partial(arrive, None)) == {other: 0}
        assert on_each([other], partial(arrive, source)) == {other: len(kept)}
        assert {path.relative_to(disks[1]): path.read_bytes() for path in (disks[1] / "late").rglob("*.npy")} == kept
        shutil.rmtree(disks[1] / "late")
        (disks[1] / "late").write_text("a file, not a folder")
        with pytest.raises(ResourceError, match=rf"^node .*: {disks[1]}/late: cannot be made"):
            on_each([other], partial(arrive, source))
        (disks[1] / "late").unlink()
    with pytest.raises(ResourceError, match=r"\$OWN_DISK/late: the views cannot be copied to this node: "):
        on_each([other], partial(arrive, source))
    with copies_for_joining(replace(prepared, local=None)) as source:
        assert source is None


def away_teacher(folder: Path, prepared: Prepared) -> bytes:
    return (folder / "away" / "teachers" / Path(prepared.teacher or "").name).read_bytes()


def test_nodes_that_cannot_hold_a_copy_are_named_before_any_trial(
    disks: list[Path], tiny: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    (disks[1] / "blocked").write_text("a file, not a folder")
    with pytest.raises(ResourceError) as info:
        prepare_nodes(run_of(tiny, cache, "$OWN_DISK/blocked/copies"), tmp_path, Slots(2, 1, 0), lambda line: None)
    names = [node.name for node in live_nodes()]
    expected = [f"node {name}: {disks[1]}/blocked/copies: cannot be made:" for name in names]
    assert any(str(info.value).startswith(line) for line in expected)
    with pytest.raises(ResourceError, match=r"data\.local_dir: \$NOWHERE/x is \$NOWHERE/x on .*; must be an absolute"):
        prepare_nodes(run_of(tiny, cache, "$NOWHERE/x"), tmp_path, Slots(2, 1, 0), lambda line: None)


def test_a_folder_that_another_node_does_not_see_is_refused(
    disks: list[Path], tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    here = ray.get_runtime_context().get_node_id()
    (other,) = [node for node in live_nodes() if node.id != here]
    # A path that is another folder in every process that works elsewhere.
    monkeypatch.chdir(tmp_path)
    mine = Path("/proc/self/cwd/mine")
    assert find_unseen([other], (tmp_path, mine)) == {tmp_path: [], mine: [other]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    with pytest.raises(
        ResourceError, match=r"^/proc/self/cwd/mine: the folder of the views is not seen by .*local_dir"
    ):
        prepare_nodes(run_of(tiny, mine, None), tmp_path, Slots(2, 1, 0), lambda line: None)


def test_every_blind_node_is_named_with_the_way_out() -> None:
    a, b, c = (Node(name, name, 8, gpus) for name, gpus in (("a", 1), ("b", 1), ("c", 0)))
    out, views = Path("/runs/x"), Path("/views")
    with pytest.raises(ResourceError) as info:
        require_shared([a, b], {out: [b, c], views: [a, b]}, out, views, copies=False)
    assert str(info.value).splitlines() == [
        "/runs/x: the experiment folder is not seen by b; give --out a path that all nodes share",
        "/views: the folder of the views is not seen by a, b; set data.local_dir to a folder of each node's own, or"
        " data.views_dir to a shared one",
    ]
    # Nodes without trials see what they like, and copies need no shared views.
    require_shared([a, b], {out: [c], views: [a, b, c]}, out, views, copies=True)


def test_a_trial_reads_the_copy_then_the_shared_folder_and_fails_without_either(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    run = run_of(tiny, tmp_path / "shared", str(tmp_path / "own"))
    prepared = replace(prepare(run, lambda line: None), local=str(tmp_path / "own"))
    store = Path(prepared.store)

    def first_epoch() -> dict[str, Any]:
        task = TrialTask(str(tmp_path), prepared, threads=1).at(Trial(7, "bpkd", "sampled", run))
        trial = DistillationTrial(config=task.to_dict())
        result: dict[str, Any] = trial.step()
        task.checkpoint.unlink(missing_ok=True)
        return result | {"read": [views for views, _, _ in trial._cache.stores]}

    assert first_epoch()["read"] == [str(store)]
    contents = Contents.of(store, prepared.parts)
    copy_store(contents, tmp_path / "own", lambda part, chunk: read_chunk(store / part, chunk))
    (tmp_path / "shared").rename(tmp_path / "away")
    assert first_epoch()["read"] == [str(contents.path(tmp_path / "own"))]
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(DataError, match="is not a complete copy of the views"):
        prepared.here()
    failed = first_epoch()
    assert failed["failure"] == "error" and "stop the search and resume it to copy them" in failed["message"]
