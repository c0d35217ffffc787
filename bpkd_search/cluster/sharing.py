"""What the nodes of a cluster read: folders that all of them share, or copies on disks of their own.

Copies come through Ray's object store: one actor beside the store reads its chunks, and a task pinned to each node
fetches those that the node has not. So neither views nor teacher need a shared disk; the experiment folder does, or
it is on an object store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from uuid import uuid4

from bpkd_search.cluster.nodes import Node, exist, live_nodes, on_each, pinned
from bpkd_search.cluster.slots import Slots
from bpkd_search.cluster.view_building import ray_workers
from bpkd_search.config.models import RunConfig
from bpkd_search.data.views import cache_dir, require_space
from bpkd_search.data.views.copies import OPTION, Contents, copy_store, local_root, read_chunk
from bpkd_search.data.views.layout import Array
from bpkd_search.errors import ResourceError, UserError
from bpkd_search.files import shown_bytes, write_bytes
from bpkd_search.stores.home import reach
from bpkd_search.training.inputs import Say
from bpkd_search.training.prepare import Prepared, prepare
from bpkd_search.training.probe import teacher_files
from bpkd_search.training.teacher import content_hash

# Chunks of up to 64 MiB that wait in the object store for other nodes to ask for the same.
KEPT = 4


def prepare_nodes(run: RunConfig, directory: Path, slots: Slots, say: Say, store: str | None = None) -> Prepared:
    """`prepare` by the connected cluster, such that every node that can run a trial reads the result.

    `directory` is the experiment folder, which nodes need not see where the experiment is on a `store`, by its URL; a
    node on which none of the `slots` fits runs no trials. Raises what `prepare` raises, and `ResourceError` naming the
    nodes that do not see a folder they must share, cannot write to the store or cannot hold a copy.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes = live_nodes()
    trial_nodes = [node for node in nodes if slots.on(node)]
    views = cache_dir(run.data.views_dir)
    others = [node for node in nodes if node.id != here]
    if store is not None:
        on_each(trial_nodes, partial(reach, store))
    unseen = find_unseen(others, (views,) if store is not None else (directory, views))
    require_shared(trial_nodes, unseen, directory, views, copies=run.data.local_dir is not None)
    prepared = prepare(run, say, ray_workers(nodes, run.train.device, here if unseen[views] else None))
    if run.data.local_dir is None:
        return prepared
    return copy_to_nodes(prepared, run, trial_nodes, here, say)


def find_unseen(nodes: Sequence[Node], folders: Sequence[Path]) -> dict[Path, list[Node]]:
    """For each folder, the nodes on which its path is not the folder that this process sees."""
    unseen: dict[Path, list[Node]] = {folder: [] for folder in folders}
    if not nodes:
        return unseen
    with ExitStack() as stack:
        marks = [_mark(folder, stack) for folder in folders]
        for node, seen in on_each(nodes, partial(exist, marks)).items():
            for folder, there in zip(folders, seen, strict=True):
                if not there:
                    unseen[folder].append(node)
    return unseen


def require_shared(
    nodes: Sequence[Node], unseen: Mapping[Path, Sequence[Node]], directory: Path, views: Path, *, copies: bool
) -> None:
    """Refuse nodes on which no trial could run. Raises `ResourceError` with every folder, its nodes, the way out."""
    faults = []
    for folder, what, remedy in (
        (directory, "the experiment folder", "give --out a path that all nodes share"),
        (
            views,
            "the folder of the views",
            f"set {OPTION} to a folder of each node's own, or data.views_dir to a shared one",
        ),
    ):
        blind = ", ".join(node.name for node in nodes if node in unseen.get(folder, ()))
        if blind and not (copies and folder == views):
            faults.append(f"{folder}: {what} is not seen by {blind}; {remedy}")
    if faults:
        raise ResourceError("\n".join(faults))


def copy_to_nodes(prepared: Prepared, run: RunConfig, nodes: Sequence[Node], here: str, say: Say) -> Prepared:
    """Bring what trials read to every node's own folder, and say so in what they get.

    Raises `ResourceError` that names every node whose disk is too small, or one that could not make its copy.
    """
    import ray

    job = Job.of(prepared, str(run.data.local_dir))
    local = job.local
    missing = {node: size for node, size in on_each(nodes, job.missing).items() if size}
    if missing:
        size = shown_bytes(sum(missing.values()))
        say(f"copies: {size} to copy to {len(missing)} of {len(nodes)} node(s), into {local} of each")
        with _source(prepared, job, here) as source:

            def tick(done: int) -> None:
                sent = ray.get(source.sent.remote())
                say(f"copies: {done} of {len(missing)} node(s) are done, {shown_bytes(sent)} sent")

            on_each(list(missing), partial(job.fetch, source), tick)
    say(f"copies: {len(nodes)} node(s) have the views in {local}")
    return replace(prepared, local=local, local_teacher=job.weights.name if job.weights else None)


@contextmanager
def copies_for_joining(prepared: Prepared | None) -> Iterator[str | None]:
    """Keep ready what nodes that join later copy; gives the name by which `copy_here` finds it, None without copies.

    `prepared` is None where no node can join.
    """
    import ray

    if prepared is None or prepared.local is None:
        yield None
        return
    here, name = ray.get_runtime_context().get_node_id(), f"copies-{uuid4().hex}"
    with _source(prepared, Job.of(prepared, prepared.local), here, name):
        yield name


def copy_here(prepared: Prepared, source: str | None) -> None:
    """Bring what is missing to this node, which may have joined after the others got their copies.

    `source` is what `copies_for_joining` gave. If two processes copy at once, the second waits for the first. Raises
    `ResourceError` where the disk is too small or nobody has what is missing, `DataError` as `copy_store`.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    if prepared.local is None or source is None or prepared.copy_here() is not None:
        return
    try:
        actor = ray.get_actor(source)
        job: Job = ray.get(actor.job.remote())
        job.missing()
        job.fetch(actor)
    except (RayError, ValueError) as e:
        if isinstance(e, RayTaskError) and isinstance(e.cause, UserError):
            raise e.cause from None
        text = str(e).strip().splitlines()[0]
        raise ResourceError(f"{prepared.local}: the views cannot be copied to this node: {text}") from e


@dataclass(frozen=True)
class Weights:
    """A teacher's file, or folder of `files`: its name among the copies, and its bytes."""

    name: str
    bytes: int
    files: tuple[str, ...] = ()

    def path(self, root: Path) -> Path:
        """Where the copy is."""
        return root / "teachers" / self.name

    def missing(self, root: Path) -> int:
        """Bytes that are still to come."""
        return 0 if all((self.path(root) / file).is_file() for file in self.files or ("",)) else self.bytes


@dataclass(frozen=True)
class Job:
    """What a node is to hold in its own folder, and how it gets there; runs on that node."""

    local: str
    contents: Contents
    weights: Weights | None = None

    @staticmethod
    def of(prepared: Prepared, local: str) -> Job:
        """All that trials read, into `local` of each node."""
        contents, weights = Contents.of(Path(prepared.store), prepared.parts), None
        if prepared.mode == "online":
            teacher = Path(str(prepared.teacher)).expanduser()
            name = f"{content_hash(teacher)[:16]}{teacher.suffix}"
            files = tuple(teacher_files(teacher)) if teacher.is_dir() else ()
            weights = Weights(name, sum((teacher / file).stat().st_size for file in files or ("",)), files)
        return Job(local, contents, weights)

    def missing(self) -> int:
        """Bytes that this node has to fetch. Raises `ResourceError` where its disk cannot hold them."""
        root = local_root(self.local)
        weights = self.weights.missing(root) if self.weights else 0
        needed = {"a copy of the views": self.contents.missing(root), "the teacher": weights}
        require_space(root, needed, OPTION)
        return sum(needed.values())

    def fetch(self, source: Any) -> None:
        """Bring what is missing from a `_Source` to this node. Raises what `copy_store` raises."""
        import ray

        def rows(part: str, chunk: int) -> dict[str, Array]:
            got: dict[str, Array] = ray.get(ray.get(source.chunk.remote(part, chunk))[0])
            return got

        root = local_root(self.local)
        try:
            copy_store(self.contents, root, rows)
            if self.weights and self.weights.missing(root):
                for file in self.weights.files or ("",):
                    write_bytes(self.weights.path(root) / file, ray.get(source.weights.remote(file)))
        except OSError as e:
            raise ResourceError(f"{root}: cannot be written: {e.strerror}; set {OPTION} to another folder") from e


class _Source:
    """Hands out what copies are made of; an actor on the node that has the store."""

    def __init__(self, prepared: Prepared, job: Job) -> None:
        self._prepared, self._job, self._sent = prepared, job, 0
        # While it is open, `views --prune` leaves it alone.
        self._store = prepared.open()
        self._chunk = lru_cache(KEPT)(self._put)

    def _put(self, part: str, chunk: int) -> tuple[list[Any], int]:
        import ray

        rows = read_chunk(self._store.path / part, chunk)
        return [ray.put(rows)], sum(array.nbytes for array in rows.values())

    def chunk(self, part: str, chunk: int) -> list[Any]:
        # A reference in a list travels as it is, so that a chunk is read once for all nodes that ask in time.
        refs, size = self._chunk(part, chunk)
        self._sent += size
        return refs

    def weights(self, file: str) -> bytes:
        return (Path(self._prepared.teacher or "").expanduser() / file).read_bytes()

    def job(self) -> Job:
        return self._job

    def sent(self) -> int:
        return self._sent


@contextmanager
def _source(prepared: Prepared, job: Job, node: str, name: str | None = None) -> Iterator[Any]:
    import ray

    source = ray.remote(_Source).options(num_cpus=0, name=name, **pinned(node)).remote(prepared, job)
    try:
        yield source
    finally:
        ray.kill(source)


def _mark(folder: Path, stack: ExitStack) -> str:
    """A file that only this folder has, as long as the stack is open; where none can be made, the folder itself."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return stack.enter_context(NamedTemporaryFile(prefix=".seen-", dir=folder)).name
    except OSError:
        return str(folder)
