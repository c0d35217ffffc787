"""What is wrong with the machines of a cluster, from what they said of themselves (`node_facts`); no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bpkd_search.cluster.node_facts import Facts
from bpkd_search.files import shown_bytes

FAULT, WARNING = "fault", "warning"
# The least driver that runs programs of a major version of CUDA (NVIDIA, CUDA Compatibility, table 1).
LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
LEAST_FREE, LEAST_OPEN_FILES, MOST_SKEW = 2**30, 4096, 2.0


@dataclass(frozen=True)
class Machine:
    """The driver's machine or a node: what Ray counts on it, its clock's error in seconds, and its facts.

    `kind` is what Ray calls its GPUs.

    `folders` are those it was asked about, each with `same`: whether it and the driver see each other's files there;
    `contents` are hashes of what trials read. `error` says why there are none of these.
    """

    name: str
    gpus: float = 0.0
    object_store: int = 0
    facts: Facts = field(default_factory=dict)
    folders: dict[str, Facts] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    skew: float | None = None
    error: str | None = None
    kind: str = ""

    @property
    def kinds(self) -> str:
        """The kinds of its GPUs as PyTorch names them, or as Ray does where PyTorch has none; empty without any."""
        names = {str(gpu["name"]) for gpu in self.facts["torch"]["gpus"]}
        return ", ".join(sorted(names)) or (self.kind if self.gpus else "")


@dataclass(frozen=True)
class Folder:
    """A folder that machines use, or a `store`: what it is, what to do instead of mending it (or for a store, at all).

    `shared` says that all must see the same one.
    """

    what: str
    option: str
    shared: bool = True
    store: bool = False

    def remedy(self, mending: str) -> str:
        """What to do."""
        return self.option if self.store else f"{mending}, or {self.option}"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: its level, what was found, on which machines, and what to do."""

    level: str
    check: str
    found: str
    where: tuple[str, ...]
    remedy: str

    def __str__(self) -> str:
        return f"{self.level}: {self.check}: {self.found} on {', '.join(self.where)}; {self.remedy}"


def find_faults(machines: Sequence[Machine], folders: dict[str, Folder], unread: dict[str, str]) -> list[Finding]:
    """Return everything that is wrong, faults first. The first machine is the driver's, with which all are compared.

    `unread` are the errors of reading the contents, by machine.
    """
    answered = [machine for machine in machines if machine.error is None]
    found = [
        *grouped(machines, FAULT, "answer", lambda m: m.error, "see the logs of its Ray, or remove it"),
        *_versions(answered),
        *_gpus(answered),
        *_driver(answered),
        *(finding for name, folder in folders.items() for finding in folder_faults(answered, name, folder)),
        *_contents(answered, unread),
        *_clock(answered),
        *_limits(answered),
        *_token(answered),
    ]
    return sorted(found, key=lambda finding: finding.level != FAULT)


def grouped(
    machines: Iterable[Machine], level: str, check: str, fault: Callable[[Machine], str | None], remedy: str
) -> Iterator[Finding]:
    """One finding for each different fault, with all its machines."""
    where: dict[str, list[str]] = {}
    for machine in machines:
        if text := fault(machine):
            where.setdefault(text, []).append(machine.name)
    for text, names in where.items():
        yield Finding(level, check, text, tuple(names), remedy)


def as_json(machines: Sequence[Machine], findings: Sequence[Finding]) -> dict[str, Any]:
    """Return machines and findings as plain values."""
    return {"machines": [asdict(machine) for machine in machines], "findings": [asdict(each) for each in findings]}


def _versions(machines: Sequence[Machine]) -> Iterator[Finding]:
    driver = machines[0].facts["versions"]
    for name, own in driver.items():

        def missing(machine: Machine, name: str = name) -> str | None:
            return None if machine.facts["versions"][name] else "is not installed"

        def differs(machine: Machine, name: str = name, own: str | None = own) -> str | None:
            version = machine.facts["versions"][name]
            return f"{version}, the driver has {own}" if version and own and version != own else None

        yield from grouped(machines, FAULT, name, missing, "install it in the environment in which Ray is started")
        same = "install the same there"
        if name == "bpkd-search":
            same += "; in parentheses: a hash of the code"
        yield from grouped(machines, FAULT, name, differs, same)


def _gpus(machines: Sequence[Machine]) -> Iterator[Finding]:
    def broken(machine: Machine) -> str | None:
        errors = (gpu["error"] for gpu in machine.facts["torch"]["gpus"])
        return next((f"PyTorch cannot use a GPU: {error}" for error in errors if error), None)

    def too_many(machine: Machine) -> str | None:
        torch, usable = machine.facts["torch"], len(machine.facts["torch"]["gpus"])
        if machine.gpus <= usable:
            return None
        why = f" ({torch['why']})" if torch["why"] else ""
        return f"Ray counts {machine.gpus:g} GPU(s), PyTorch {usable}{why}"

    def idle(machine: Machine) -> str | None:
        usable = len(machine.facts["torch"]["gpus"])
        few = machine.gpus < usable
        return f"Ray counts {machine.gpus:g} GPU(s), PyTorch {usable}: the rest stays idle" if few else None

    def unused(machine: Machine) -> str | None:
        facts = machine.facts
        none = facts["driver"] and not facts["torch"]["gpus"] and not machine.gpus
        return f"there is an NVIDIA driver, PyTorch has no GPU: {facts['torch']['why']}" if none else None

    nodes = machines[1:]
    yield from grouped(machines, FAULT, "GPUs", broken, "free it, or install a build of PyTorch that supports it")
    remedy = "install a build of PyTorch with CUDA there, or start Ray with the --num-gpus that there are"
    yield from grouped(nodes, FAULT, "GPUs", too_many, remedy)
    yield from grouped(nodes, WARNING, "GPUs", idle, "start Ray there with --num-gpus")
    yield from grouped(nodes, WARNING, "GPUs", unused, "install a build of PyTorch with CUDA there to use it")
    with_gpus = [machine for machine in nodes if machine.gpus and machine.kinds]
    if len({machine.kinds for machine in with_gpus}) > 1 or any(", " in machine.kinds for machine in with_gpus):
        remedy = "compare costs by calibrated_seconds, which a step timed on each kind makes comparable"
        yield from grouped(with_gpus, WARNING, "GPUs", lambda machine: machine.kinds, remedy)


def _driver(machines: Sequence[Machine]) -> Iterator[Finding]:
    def too_old(machine: Machine) -> str | None:
        driver, cuda = machine.facts["driver"], machine.facts["torch"]["cuda"]
        least = LEAST_DRIVER.get(int(cuda.split(".")[0])) if cuda else None
        if driver is None or least is None or int(driver.split(".")[0]) >= least:
            return None
        return f"{driver} is too old for PyTorch with CUDA {cuda}, which needs {least} or later"

    remedy = "update the driver, or install a build of PyTorch for an older CUDA everywhere"
    return grouped(machines, FAULT, "driver", too_old, remedy)


def folder_faults(machines: Sequence[Machine], name: str, folder: Folder) -> Iterator[Finding]:
    """What is wrong with the folder of that name on machines that have told of it."""

    def unwritable(machine: Machine) -> str | None:
        facts = machine.folders.get(name)
        return f"{facts['path']} cannot be written ({facts['error']})" if facts and facts["error"] else None

    def other(machine: Machine) -> str | None:
        facts = machine.folders.get(name)
        return f"{facts['path']} is not the driver's" if facts and not facts["error"] and not facts["same"] else None

    def full(machine: Machine) -> str | None:
        facts = machine.folders.get(name)
        if not facts or facts["free"] is None or facts["free"] >= LEAST_FREE:
            return None
        return f"{shown_bytes(facts['free'])} free for {facts['path']}"

    mending = folder.remedy("correct its permissions or mount")
    yield from grouped(machines, FAULT, folder.what, unwritable, mending)
    if folder.shared:
        yield from grouped(machines, FAULT, folder.what, other, folder.remedy("mount it there"))
    yield from grouped(machines, FAULT, folder.what, full, folder.remedy("make room"))


def _contents(machines: Sequence[Machine], unread: dict[str, str]) -> Iterator[Finding]:
    remedy = "make it readable there by the same path, with the same contents"
    yield from grouped(machines, FAULT, "contents", lambda m: unread.get(m.name), remedy)
    for name, own in machines[0].contents.items():

        def differs(machine: Machine, name: str = name, own: str = own) -> str | None:
            there = machine.contents.get(name, own)
            return f"{there}, the driver reads {own}" if there != own else None

        yield from grouped(machines, FAULT, name, differs, "give all machines the same files")


def _clock(machines: Sequence[Machine]) -> Iterator[Finding]:
    def wrong(machine: Machine) -> str | None:
        if machine.skew is None or abs(machine.skew) <= MOST_SKEW:
            return None
        side = "ahead of" if machine.skew > 0 else "behind"
        return f"{abs(machine.skew):.1f} s {side} the driver's"

    return grouped(machines, FAULT, "clock", wrong, "set the clocks by NTP")


def _limits(machines: Sequence[Machine]) -> Iterator[Finding]:
    def few_files(machine: Machine) -> str | None:
        most = machine.facts["open_files"]
        return f"a process may open {most} files" if 0 <= most < LEAST_OPEN_FILES else None

    def little_memory(machine: Machine) -> str | None:
        there = machine.facts["shared_memory"]
        if there is None or there >= machine.object_store:
            return None
        return f"/dev/shm has {shown_bytes(there)}, Ray's object store {shown_bytes(machine.object_store)}"

    yield from grouped(machines, WARNING, "open files", few_files, "run `ulimit -n 8192` before `ray start`")
    remedy = "enlarge it (containers: --shm-size), or Ray stores objects on the disk, which is slow"
    yield from grouped(machines, WARNING, "shared memory", little_memory, remedy)


def _token(machines: Sequence[Machine]) -> Iterator[Finding]:
    if len(machines) > 2:
        open_to_all = "Ray accepts commands without a token"
        remedy = "set RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN wherever Ray and the driver start"
        yield from grouped(
            machines[1:], WARNING, "security", lambda m: None if m.facts["token"] else open_to_all, remedy
        )
