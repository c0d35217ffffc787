"""The files for Kubernetes and rented machines, as far as a machine without either can check them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from bpkd_search.cli import app
from bpkd_search.config.search_spaces import find_space

ROOT = Path(__file__).resolve().parents[2]
RUNNERS = ROOT / "runners"
FILES = sorted(path for path in RUNNERS.iterdir() if path.suffix in (".yaml", ".sh", ".sbatch"))

# Fields of KubeRay's `RayJob` (ray.io/v1, KubeRay 1.5.1) that the manifest may use; None is not looked into.
POD = {"spec": {"containers": None, "volumes": None}}
GROUP = {"rayStartParams": None, "template": POD}
RAYJOB = {
    "apiVersion": None,
    "kind": None,
    "metadata": {"name": None},
    "spec": {
        "entrypoint": None,
        "shutdownAfterJobFinishes": None,
        "backoffLimit": None,
        "rayClusterSpec": {
            "rayVersion": None,
            "authOptions": {"mode": None},
            "headGroupSpec": GROUP,
            "workerGroupSpecs": {
                **GROUP,
                "groupName": None,
                "replicas": None,
                "minReplicas": None,
                "maxReplicas": None,
            },
        },
    },
}
# Fields of a SkyPilot task that the file may use.
TASK = {
    "name": None,
    "num_nodes": None,
    "resources": {"infra": None, "accelerators": None, "cpus": None, "use_spot": None, "disk_size": None},
    "workdir": None,
    "envs": None,
    "secrets": None,
    "setup": None,
    "run": None,
}


def load(name: str) -> Any:
    *_, last = yaml.safe_load_all((RUNNERS / name).read_text())
    return last


def unknown(tree: Any, schema: Any, path: str = "") -> list[str]:
    """Keys of a tree that its schema does not have; items of a list share theirs."""
    if isinstance(tree, list):
        return [fault for item in tree for fault in unknown(item, schema, path)]
    if schema is None or not isinstance(tree, dict):
        return []
    return [
        fault
        for key, value in tree.items()
        for fault in (unknown(value, schema[key], f"{path}.{key}") if key in schema else [f"{path}.{key}"])
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_search_in_it_is_a_command_of_ours(path: Path) -> None:
    text = re.sub(r"\n#? +", " ", path.read_text())
    lines = re.findall(r"bpkd-search run ([\w/.-]+(?: +--[\w-]+(?: +[\w./$][\w./=$-]*)?)*)", text)
    assert lines or path.suffix != ".yaml"
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for line in lines:
        given = commands["run"].make_context("run", shlex.split(line))
        assert find_space(given.params["space"]).is_file()
        assert given.params["address"] == "auto" and given.params["resume"] is True
        assert str(given.params["out"]).startswith("/shared/")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_of_the_checkout_that_it_names_exists(path: Path) -> None:
    named = set(re.findall(r"\brunners/[\w.-]+\.\w+", path.read_text()))
    assert [name for name in named if not (ROOT / name).is_file()] == []
    assert path.name in (RUNNERS / "README.md").read_text()
    assert f"runners/{path.name}" in (ROOT / "docs/clusters.md").read_text()


def test_the_rayjob_has_known_fields_a_token_and_one_volume_for_all_pods() -> None:
    claim, job = yaml.safe_load_all((RUNNERS / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"], unknown(job, RAYJOB)) == ("ray.io/v1", "RayJob", [])
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert all(isinstance(value, str) for group in groups for value in group["rayStartParams"].values())
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted == {"shared": "/shared", "memory": "/dev/shm"}
        assert {volume["name"] for volume in pod["volumes"]} == set(mounted)
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert len({group["template"]["spec"]["containers"][0]["image"] for group in groups}) == 1


def test_rays_own_schema_accepts_the_cluster_file() -> None:
    pytest.importorskip("jsonschema")
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = util.fillout_defaults(load("ray-up.yaml"))
    util.validate_config(config)
    nodes = config["available_node_types"]
    assert nodes["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in nodes["head"]["node_config"] and nodes["head"]["resources"]["CPU"] == 0
    # The header waits for the head and all workers.
    wanted = re.search(r"wait_for_nodes\.py (\d+)", (RUNNERS / "ray-up.yaml").read_text())
    assert wanted and int(wanted[1]) == 1 + nodes["gpu"]["min_workers"] == 1 + config["max_workers"]
    with pytest.raises(Exception, match="idle_timeout"):
        util.validate_config({**config, "idle_timeout": 5})


def test_the_skypilot_task_has_known_fields_and_scripts_that_parse() -> None:
    task = load("skypilot.yaml")
    assert unknown(task, TASK) == []
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[part], text=True, check=True)


def test_shell_scripts_pass_shellcheck(tmp_path: Path) -> None:
    task = load("skypilot.yaml")
    script = tmp_path / "skypilot.sh"
    script.write_text(f"#!/usr/bin/env bash\n{task['setup']}\n{task['run']}")
    scripts = [*(path for path in FILES if path.suffix != ".yaml"), script]
    try:
        done = subprocess.run(["shellcheck", "--severity=warning", *scripts], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs shellcheck")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("arguments", [[], ["x"], ["2", "3", "4"], ["-1"]], ids=str)
def test_waiting_for_nodes_says_how_it_is_called(arguments: list[str]) -> None:
    command = [sys.executable, RUNNERS / "wait_for_nodes.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: ") and "Traceback" not in done.stderr
