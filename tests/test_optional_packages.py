"""Packages that are not installed: every use names its purpose and the extra to install, in the same words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bpkd_search.config.search import CmaEsSampler
from bpkd_search.errors import MissingPackageError
from bpkd_search.imports import require


def sampler(folder: Path) -> None:
    from bpkd_search.search.samplers import make_sampler

    make_sampler(CmaEsSampler(), {}, 0, 0, 0)


def picture(folder: Path) -> None:
    from bpkd_search.pictures.strategies import draw

    draw({}, "miou", 0.5, folder / "x.png")


def page(folder: Path) -> None:
    from bpkd_search.report.page import plotly_script

    plotly_script()


def dashboard(folder: Path) -> None:
    from bpkd_search.show.dashboard import serve

    (folder / "study.journal").touch()
    serve(folder, 8080, print)


def onnx(folder: Path) -> None:
    from bpkd_search.export.weights import require_packages

    require_packages(["safetensors", "onnx"])


def saved_data(folder: Path) -> None:
    from bpkd_search.data import open_split

    open_split("huggingface", "train", root=folder, class_names=["a"])


@pytest.mark.parametrize(
    ("use", "package", "extra", "purpose"),
    [
        (sampler, "cmaes", "samplers", "search.sampler cmaes"),
        (picture, "matplotlib", "plots", "--picture"),
        (page, "plotly", "report", "the report"),
        (dashboard, "optuna_dashboard", "dashboard", "the dashboard"),
        (saved_data, "datasets", "datasets", "data.kind huggingface"),
        (onnx, "onnxruntime", "export", "--format onnx"),
    ],
)
def test_a_missing_package_names_the_purpose_and_the_extra(
    use: Callable[[Path], None],
    package: str,
    extra: str,
    purpose: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if use is onnx:
        pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError) as raised:
        use(tmp_path)
    install = f"pip install 'bpkd-search[{extra}]'"
    assert str(raised.value) == f"{purpose}: needs {package}, which is not installed; run: {install}"


def test_other_formats_need_no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    from bpkd_search.export.weights import require_packages

    monkeypatch.setitem(sys.modules, "onnx", None)
    require_packages(["safetensors", "torch"])
    with pytest.raises(MissingPackageError, match="onnx"):
        require_packages(["torch", "onnx"])


def test_a_package_that_is_there_and_broken_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("raise ImportError('libfoo.so.1: cannot open shared object file')")
    (tmp_path / "incomplete_package.py").write_text("import a_package_that_nobody_has")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPackageError, match=r"^x: broken_package is installed but cannot be imported \(libfoo"):
        require("broken_package", "report", "x")
    with pytest.raises(MissingPackageError, match=r"^x: needs a_package_that_nobody_has, which is not installed"):
        require("incomplete_package", "report", "x")
