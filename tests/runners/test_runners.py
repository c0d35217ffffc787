"""The launch scripts, run for real with stand-ins for Slurm, Ray and the driver that log what they are told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

RUNNERS = Path(__file__).resolve().parents[2] / "runners"
SCRIPTS = sorted(p for p in RUNNERS.iterdir() if p.suffix in (".sh", ".sbatch"))

# Every stand-in logs its name and arguments, one field each, as one line of `log`.
LOG = 'IFS=$\'\\t\'; printf "%s\\n" "$(basename "$0")\t$*" >> "$STAND_IN/log"; unset IFS\n'

STAND_INS = {
    "scontrol": "tr , '\\n' <<< \"$SLURM_JOB_NODELIST\"",
    "hostname": 'echo "127.0.1.1 10.0.0.7"',
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    # `ray start --block` lasts until it is told to end, and a node counts while it lasts.
    "ray": """
        [[ $1 == start ]] || exit 0
        [[ -z ${RAY_FAILS-} ]] || exit 1
        trap 'rm "$STAND_IN/node-$$"; echo stopped >> "$STAND_IN/log"; exit 0' TERM
        touch "$STAND_IN/node-$$"
        while :; do sleep 0.05; done
    """,
    # Asked whether grpc is there, for a token, and for the number of nodes.
    "python": """
        case $* in
            *grpc*) exit 1 ;;
            *secrets*) echo token ;;
            *) find "$STAND_IN" -name 'node-*' | wc -l ;;
        esac
    """,
    # Stops cleanly on SIGTERM, and ends as told.
    "bpkd-search": """
        echo "RAY_ADDRESS=${RAY_ADDRESS-} RAY_AUTH_MODE=${RAY_AUTH_MODE-}" >> "$STAND_IN/environment"
        if [[ -n ${DRIVER_WAITS-} ]]; then
            trap 'sleep 0.3; exit 130' TERM
            touch "$STAND_IN/waiting"
            while :; do sleep 0.05; done
        fi
        exit "${DRIVER_ENDS:-0}"
    """,
}


class Place:
    """A checkout in a folder whose name has a space, and what the stand-ins logged in it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"
        shutil.copytree(RUNNERS, self.root / "runners", ignore=shutil.ignore_patterns("bench"))
        (self.root / "space.yaml").write_text("# comment\nname: 'demo' # said here\ndata: {kind: synthetic}\n")
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name, body in STAND_INS.items():
            self.stand_in(self.bin / name, body)
        self.environment = os.environ | {"PATH": f"{self.bin}:/usr/bin:/bin", "STAND_IN": str(folder)}
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "HEAD_IP", "JOIN_SECONDS"):
            self.environment.pop(name, None)
        self.folder = folder

    @staticmethod
    def stand_in(path: Path, body: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/usr/bin/env bash\n" + LOG + body)
        path.chmod(0o755)

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of every call of a stand-in, in order."""
        lines = [line.split("\t") for line in (self.folder / "log").read_text().splitlines()]
        return [line[1:] for line in lines if line[0] == name]

    def start(self, script: str, *arguments: str, nodes: int = 1, **extra: str) -> subprocess.Popen[str]:
        slurm = {
            "SLURM_JOB_ID": "4312345",
            "SLURM_JOB_NODELIST": ",".join(f"n{i}" for i in range(1, nodes + 1)),
            "SLURM_SUBMIT_DIR": str(self.root),
            "SLURM_CPUS_PER_TASK": "6",
            "SLURM_GPUS_ON_NODE": "2",
        }
        return subprocess.Popen(
            [str(self.root / "runners" / script), *arguments],
            cwd=self.root,
            env=self.environment | slurm | extra,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *arguments: str, nodes: int = 1, **extra: str) -> tuple[int, str]:
        process = self.start(script, *arguments, nodes=nodes, **extra)
        _, stderr = process.communicate(timeout=30)
        return process.returncode, stderr


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def option(call: list[str], name: str) -> str:
    """The value of `--name=value` in a call."""
    (value,) = [a.split("=", 1)[1] for a in call if a.startswith(f"--{name}=")]
    return value


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_script_parses_and_may_be_run(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)


def test_local_passes_arguments_through(place: Place) -> None:
    arguments = ["space.yaml", "--out", "my runs/it's 1", "--trials=3", "--set", "loss.method=a b", "--verbose"]
    assert place.run("local.sh", *arguments)[0] == 0
    assert place.calls("bpkd-search") == [["run", *arguments, "--resume"]]


def test_local_prefers_the_projects_environment_and_passes_the_exit_code_on(place: Place) -> None:
    place.stand_in(place.root / ".venv/bin/bpkd-search", 'echo "$0" > "$STAND_IN/used"; exit 7')
    assert place.run("local.sh", "space.yaml")[0] == 7
    assert (place.folder / "used").read_text().strip() == str(place.root / ".venv/bin/bpkd-search")


def test_local_says_what_is_missing(place: Place) -> None:
    assert place.run("local.sh")[0] == 2
    assert place.run("local.sh", "--trials", "3")[0] == 2
    (place.bin / "bpkd-search").unlink()
    code, said = place.run("local.sh", "space.yaml")
    assert code == 127
    assert "nor one on PATH" in said


@pytest.mark.parametrize("nodes", [1, 3])
def test_slurm_starts_one_head_and_the_other_nodes_as_workers(place: Place, nodes: int) -> None:
    arguments = ["space.yaml", "--out", "shared runs/x", "--set", "search.resources.gpus=0.5"]
    code, said = place.run("slurm.sbatch", *arguments, nodes=nodes)
    assert code == 0, said

    steps = place.calls("srun")
    assert option(steps[0], "nodelist") == "n1"
    assert sorted(option(step, "nodelist") for step in steps) == [f"n{i}" for i in range(1, nodes + 1)]
    assert {option(step, "cpus-per-task") for step in steps} == {"6"}

    head, *workers = [call for call in place.calls("ray") if call[0] == "start"]
    assert "--head" in head
    assert (option(head, "node-ip-address"), option(head, "port")) == ("10.0.0.7", "22345")
    assert len(workers) == nodes - 1
    assert all("--head" not in worker for worker in workers)
    assert all(option(worker, "address") == "10.0.0.7:22345" for worker in workers)
    for call in (head, *workers):
        assert "--block" in call
        assert (option(call, "num-cpus"), option(call, "num-gpus")) == ("6", "2")

    assert place.calls("bpkd-search") == [["run", *arguments, "--address", "auto", "--resume"]]
    environment = (place.folder / "environment").read_text().strip()
    assert environment == "RAY_ADDRESS=10.0.0.7:22345 RAY_AUTH_MODE=token"
    assert len(place.calls("stopped")) == nodes
    assert not list(place.folder.glob("node-*"))


def test_slurm_cleans_up_and_passes_on_the_code_of_a_driver_that_fails(place: Place) -> None:
    assert place.run("slurm.sbatch", "space.yaml", nodes=3, DRIVER_ENDS="9")[0] == 9
    assert len(place.calls("stopped")) == 3


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
def test_slurm_lets_the_driver_stop_cleanly_on_a_signal(place: Place, sent: signal.Signals) -> None:
    process = place.start("slurm.sbatch", "space.yaml", nodes=2, DRIVER_WAITS="1")
    deadline = time.monotonic() + 20
    while not (place.folder / "waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(sent)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert len(place.calls("stopped")) == 2


def test_slurm_gives_up_when_nodes_do_not_join_or_the_head_ends(place: Place) -> None:
    (place.bin / "python").write_text("#!/usr/bin/env bash\ncase $* in *grpc*) exit 1 ;; *) echo 1 ;; esac\n")
    code, said = place.run("slurm.sbatch", "space.yaml", nodes=2, JOIN_SECONDS="2")
    assert code == 1
    assert "1 of 2 node(s) joined within 2 s" in said
    assert len(place.calls("stopped")) == 2

    (place.bin / "python").write_text("#!/usr/bin/env bash\nexit 1\n")
    code, said = place.run("slurm.sbatch", "space.yaml", RAY_FAILS="1")
    assert code == 1
    assert "the Ray head on n1 ended" in said
    assert place.calls("bpkd-search") == []


def test_slurm_takes_the_name_of_an_installed_search_space(place: Place) -> None:
    assert place.run("slurm.sbatch", "quickstart")[0] == 0
    assert place.calls("bpkd-search") == [["run", "quickstart", "--address", "auto", "--resume"]]


@pytest.mark.parametrize("arguments", [["absent.yaml"], ["folder/absent.yaml"], ["--trials", "3"], []], ids=str)
def test_slurm_refuses_a_missing_space_before_it_starts_ray(place: Place, arguments: list[str]) -> None:
    code, said = place.run("slurm.sbatch", *arguments)
    assert code == 1
    assert f"'{arguments[0] if arguments else ''}': no such file" in said
    assert not (place.folder / "log").exists()
