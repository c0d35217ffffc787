"""Faults planted in a real cluster of three nodes, each with its own environment, are found, and nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from bpkd_search.cluster import node_facts
from bpkd_search.cluster.doctor import STORE_REMEDY, Answers, clock_error, folder_rules
from bpkd_search.cluster.node_checks import Machine, folder_faults
from tests.store_server import running

ROOT = Path(__file__).parents[2]
ONE_CPU = {"num_cpus": 1, "include_dashboard": False}


def data_set(folder: Path, seed: int) -> Path:
    """A folder data set of random images."""
    random = np.random.default_rng(seed)
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            for kind, shape, most in (("images", (32, 48, 3), 256), ("masks", (32, 48), 2)):
                path = folder / kind / split / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, most, shape, dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of three nodes, and the folder below which things lie; two nodes' environments are wrong.

    The second's Optuna claims to be another version, its Ray counts a GPU that is not there, its variables name another
    data set and a disk that is a file. The third has other code of this package, a clock that is wrong, an old
    NVIDIA driver that PyTorch cannot use, and opens few files. No node asks for a token.
    """
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    here = tmp_path_factory.mktemp("doctor")
    good, other = (str(data_set(here / name, seed)) for seed, name in enumerate(("good", "other")))
    stated = here / "site" / "optuna-4.9.dist-info"
    stated.mkdir(parents=True)
    (stated / "METADATA").write_text("Metadata-Version: 2.1\nName: optuna\nVersion: 4.9\n")
    (here / "disk").mkdir()
    (here / "blocked").write_text("a file, not a folder")
    path = os.pathsep.join([str(stated.parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    changed = here / "changed"
    shutil.copytree(ROOT / "bpkd_search", changed / "bpkd_search", ignore=shutil.ignore_patterns("__pycache__"))
    (changed / "bpkd_search" / "errors.py").open("a").write("# changed\n")
    (changed / "sitecustomize.py").write_text("import time\nreal = time.time\ntime.time = lambda: real() - 3600\n")
    (here / "bin").mkdir()
    (here / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho 400.10\n")
    (here / "bin" / "nvidia-smi").chmod(0o755)
    folder = tempfile.mkdtemp(prefix="rt", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        cluster = Cluster()
        cluster.add_node(**ONE_CPU, env_vars={"BPKD_FOLDER": good, "OWN_DISK": str(here / "disk")})
        wrong = {"BPKD_FOLDER": other, "OWN_DISK": str(here / "blocked" / "x"), "PYTHONPATH": path}
        cluster.add_node(**ONE_CPU, num_gpus=1, env_vars=wrong)
        old = {"BPKD_FOLDER": good, "OWN_DISK": str(here / "disk"), "PYTHONPATH": str(changed)}
        third = cluster.add_node(**ONE_CPU, env_vars={**old, "PATH": f"{here / 'bin'}{os.pathsep}{os.environ['PATH']}"})
        raylet = psutil.Process(third.all_processes["raylet"][0].process.pid)
        for process in (raylet, *raylet.children(recursive=True)):
            process.rlimit(psutil.RLIMIT_NOFILE, (2048, 2048))
        patch.setenv("BPKD_FOLDER", good)
        patch.setenv("OWN_DISK", str(here / "disk"))
        yield cluster.address, here
        ray.shutdown()
        cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def space(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """A space whose data set is where `BPKD_FOLDER` says."""
    names = {"class_names": ["a", "b"], "images": "images/{split}", "masks": "masks/{split}"}
    tiny["data"] = {"kind": "folder", "crop": [32, 48], "views_dir": str(tmp_path / "views"), "folder": names}
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return path


def test_faults_of_a_node_are_found(
    cluster: tuple[str, Path],
    space: Path,
    tmp_path: Path,
    call: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, here = cluster
    # Another folder in every process that works elsewhere.
    monkeypatch.chdir(tmp_path)
    out = Path("/proc/self/cwd/runs")
    local = "data.local_dir=$OWN_DISK/copies"
    code, printed, said = call("doctor", space, "--out", out, "--address", address, "--set", local, "--json")
    assert code == 1, said
    found = json.loads(printed)
    driver, *nodes = found["machines"]
    assert driver["name"] == "driver"
    (wrong,) = (node["name"] for node in nodes if node["gpus"])
    (third,) = (node["name"] for node in nodes if node["facts"]["driver"])
    faults = {each["check"]: each for each in found["findings"] if each["level"] == "fault"}
    version = driver["facts"]["versions"]["optuna"]
    package = driver["facts"]["versions"]["bpkd-search"]
    expected = {
        "optuna": f"4.9, the driver has {version}",
        "GPUs": "Ray counts 1 GPU(s), PyTorch 0",
        "data.train": "the driver reads 4 images, ",
        "data.val": "the driver reads 2 images, ",
        "copies": f"{here}/blocked/x/copies cannot be written (Not a directory)",
    }
    for check, text in expected.items():
        assert text in faults[check]["found"] and faults[check]["where"] == [wrong], faults[check]
    for check, text in (("bpkd-search", f", the driver has {package}"), ("clock", " s behind the driver's")):
        assert text in faults[check]["found"] and faults[check]["where"] == [third], faults[check]
    assert 3000 < -next(node["skew"] for node in nodes if node["name"] == third) <= 3600
    warnings = {each["check"]: each for each in found["findings"] if each["level"] == "warning"}
    assert warnings["open files"]["found"] == "a process may open 2048 files"
    assert warnings["GPUs"]["found"].startswith("there is an NVIDIA driver, PyTorch has no GPU: ")
    assert warnings["open files"]["where"] == warnings["GPUs"]["where"] == [third]
    assert set(warnings["security"]["where"]) == {node["name"] for node in nodes}
    assert faults["experiments"]["found"] == f"{out} is not the driver's"
    assert set(faults["experiments"]["where"]) == {node["name"] for node in nodes}
    known = {*expected, "experiments", "bpkd-search", "clock"}
    if cuda := driver["facts"]["torch"]["cuda"]:
        known.add("driver")
        assert faults["driver"]["found"].startswith(f"400.10 is too old for PyTorch with CUDA {cuda}, which needs ")
        assert faults["driver"]["where"] == [third]
    assert set(faults) == known
    assert not [path for path in tmp_path.rglob(f"{node_facts.MARK}*")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["space.yaml", "views"]  # hashes of files are kept


def test_one_machine_needs_no_cluster(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed, _ = call("doctor", "quickstart", "--set", "data.views_dir=views")
    assert (code, printed.splitlines()[-1]) == (0, "1 node(s) and the driver: nothing is wrong")
    assert "on all: python " in printed
    assert not list(tmp_path.iterdir())


def test_wrong_usage_is_told(call: Callable[..., tuple[int, str, str]]) -> None:
    assert call("doctor", "--set", "data.crop=4")[::2] == (2, "error: --set: got data.crop=4, needs SPACE.yaml\n")
    code, _, said = call("doctor", "absent.yaml")
    assert (code, said.startswith("error: absent.yaml: ")) == (2, True)


def test_marks_are_of_the_machines_own_folders_and_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", str(tmp_path))
    old = tmp_path / f"{node_facts.MARK}old"
    old.touch()
    os.utime(old, (1, 1))
    found = node_facts.leave_marks({"a": "$MINE/not/yet", "b": "$UNSET_HERE/x", "c": "/proc/nothing"})
    assert Path(found["a"]["mark"]).parent == tmp_path
    assert (found["b"]["error"], found["b"]["mark"]) == ("a variable that is not set", None)
    assert found["c"]["error"] and found["c"]["mark"] is None
    assert node_facts.see_marks([found["a"]["mark"], str(old)]) == [True, False]
    node_facts.remove_marks([found["a"]["mark"]])
    assert not list(tmp_path.iterdir())


def test_stores_are_told_apart_and_what_they_refuse_is_told(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    with running(tmp_path / "one") as server, pytest.MonkeyPatch.context() as patch:
        url = server.url()
        driver = node_facts.leave_marks({"experiments": url})["experiments"]
        missing = node_facts.leave_marks({"experiments": "s3://nowhere/runs"})["experiments"]
        assert node_facts.see_marks([driver["mark"]]) == [True] and driver["path"] == url
        with running(tmp_path / "other") as other:  # a node whose environment names another store
            (tmp_path / "other" / "bucket" / url.split("/")[3]).mkdir()
            assert node_facts.see_marks([driver["mark"]]) == [False]
            assert other.objects(url) == {}
        node_facts.remove_marks([driver["mark"]])
        assert server.objects(url) == {}
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        refused = node_facts.leave_marks({"experiments": url})["experiments"]
    facts = {"a": driver | {"same": True}, "b": missing | {"same": False}, "c": refused, "d": driver | {"same": False}}
    machines = [Machine(name, folders={"experiments": each}) for name, each in facts.items()]
    found = [
        str(each) for each in folder_faults(machines, "experiments", folder_rules(None, on_store=True)["experiments"])
    ]
    assert found[0].startswith("fault: experiments: s3://nowhere/runs cannot be written (NO_SUCH_BUCKET")
    assert found[1].startswith(f"fault: experiments: {url} cannot be written (SIGNATURE_DOES_NOT_MATCH")
    rest = f"; {STORE_REMEDY}"
    assert found[0].endswith(f"on b{rest}") and found[1].endswith(f"on c{rest}")
    assert found[2:] == [f"fault: experiments: {url} is not the driver's on d{rest}"]
    code, _, said = call("doctor", "--out", "s3://bucket")
    assert code == 2 and "error: s3://bucket: must be a folder in a bucket" in said


def test_a_clock_is_wrong_only_outside_of_the_call() -> None:
    answers = Answers({"a": 105.0, "b": 112.0, "c": 90.0}, spans=dict.fromkeys("abc", (100.0, 110.0)))
    assert [clock_error(answers, name) for name in "abcd"] == [0.0, 2.0, -10.0, None]


def test_a_crash_of_pytorch_is_told(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os; os._exit(139)")
    assert node_facts.torch_facts({**os.environ, "PYTHONPATH": str(tmp_path)})["why"] == "its process crashed"
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.12: cannot open')\n")
    found = node_facts.torch_facts({**os.environ, "PYTHONPATH": str(tmp_path)})
    assert found == {"cuda": None, "gpus": [], "why": "libcudart.so.12: cannot open"}
