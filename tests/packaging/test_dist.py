"""The sdist holds the whole checkout, the wheel built from it installs, and its command runs far from the checkout."""

from __future__ import annotations

import json
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ["bpkd_search", "docs", "runners", "search_spaces", "tests"]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both, built from a copy of the checkout, with the setuptools of this environment."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for part in PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def files(*parts: str) -> set[str]:
    found = {path.relative_to(ROOT) for part in parts for path in (ROOT / part).rglob("*") if path.is_file()}
    return {path.as_posix() for path in found if not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)}


def test_the_sdist_holds_package_tests_docs_and_runners(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        held = {member.name.partition("/")[2] for member in tar if member.isfile()}
    assert files(*PARTS) <= held
    assert {"CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "README.md", "constraints.txt", "setup.py"} <= held


def test_the_wheel_holds_the_package_and_the_search_spaces_and_nothing_else(dist: Path) -> None:
    (archive,) = dist.glob("*.whl")
    held = {name for name in zipfile.ZipFile(archive).namelist() if ".dist-info/" not in name}
    assert held == files("bpkd_search") | {f"bpkd_search/{name}" for name in files("search_spaces")}
    assert {"bpkd_search/py.typed", "bpkd_search/report/page.html"} < held


def test_the_installed_command_finds_the_search_spaces(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    environment = tmp_path / "venv"
    venv.create(environment)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    # Dependencies are those of this environment; a path file does not bring its editable installs.
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))

    def run(*command: str | Path) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout

    command = environment / "bin" / "bpkd-search"
    assert run(command, "validate", "quickstart") == "quickstart: ok\n"
    spaces = ROOT / "search_spaces"
    names = {path.relative_to(spaces).with_suffix("").as_posix() for path in spaces.rglob("*.yaml")}
    assert any(name.startswith("paper/") for name in names)
    assert names <= {line.split()[0] for line in run(command, "spaces").splitlines()}
    assert run(command, "spaces", "copy", "quickstart") == "quickstart.yaml\n"
    assert (tmp_path / "quickstart.yaml").read_bytes() == (ROOT / "search_spaces" / "quickstart.yaml").read_bytes()
    code = "import bpkd_search as b, json; print(json.dumps([b.__file__, b.__version__]))"
    file, version = json.loads(run(python, "-c", code))
    assert Path(file).is_relative_to(packages) and wheel.name.startswith(f"bpkd_search-{version}-")
