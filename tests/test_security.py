"""What is not trusted stays data: no pickles, no code, no path out of its folder, no markup. See SECURITY.md."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bpkd_search import Leaderboard, load_student
from bpkd_search.config.data import Data
from bpkd_search.config.load import parse
from bpkd_search.config.models import SearchConfig
from bpkd_search.data.views.catalog import find, list_stores, remove
from bpkd_search.data.views.given import GivenLogits
from bpkd_search.data.views.manifest import MANIFEST
from bpkd_search.errors import CheckpointError, ConfigError, DataError, ExperimentError
from bpkd_search.experiment.paths import checkpoint_file, student_file, trial_log
from bpkd_search.export.write import export
from bpkd_search.imports import import_object
from bpkd_search.models.checkpoint import read_weights
from bpkd_search.report import page
from bpkd_search.search.requests import Stop
from bpkd_search.search.sending import send
from tests.experiments import make
from tests.test_imports import PACKAGE, ROOT, files, tree

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"


# No pickles and no code from files


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a file, as written without its arguments."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def given(call: ast.Call, name: str) -> Any:
    return next((ast.literal_eval(k.value) for k in call.keywords if k.arg == name), None)


def test_no_file_of_a_user_is_unpickled_or_run() -> None:
    found = []
    for path in files():
        for name, call in calls(path):
            last = name.rpartition(".")[2]
            where = f"{path.relative_to(PACKAGE)}: {name}"
            if (
                (name in ("eval", "exec", "compile", "__import__") or last in ("system", "popen"))
                or (last in ("Unpickler", "read_pickle", "loads") and "json" not in name)
                or (name.startswith(("pickle.", "cloudpickle.", "joblib.", "dill.", "marshal.", "shelve.")))
                or (name == "torch.load" and given(call, "weights_only") is not True)
                or (name in ("np.load", "numpy.load") and given(call, "allow_pickle") not in (None, False))
                or (given(call, "shell") is True)
            ):
                found.append(where)
    assert found == [
        "cluster/ending.py: subprocess.Popen",  # `search.on_end`, the user's own command
        "cluster/tune.py: pickle.load",  # the error that Ray Tune wrote in this process a moment before
    ]


def test_yaml_is_read_by_safe_loaders_alone() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {ast.unparse(node)}"
        for path in files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in ("Loader", "FullLoader", "UnsafeLoader", "unsafe_load")
        and ast.unparse(node.value) == "yaml"
    ]  # fmt: skip
    assert found == []
    with pytest.raises(ConfigError, match="is not valid YAML"):
        parse(SearchConfig, _yaml("space: !!python/object/apply:os.system ['true']"), "test")


def _yaml(text: str) -> Any:
    from bpkd_search.config.yaml_text import read_text

    try:
        return read_text(text)
    except ValueError as e:
        raise ConfigError([str(e)], "test") from e


class Pickled:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_weights_and_logits_with_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    torch.save({"state_dict": {"a": torch.ones(1)}, "hook": Pickled(ran)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="holds pickled objects"):
        read_weights(tmp_path / "weights.pth")
    logits = np.empty((1, 1, 1), dtype=object)
    logits[0, 0, 0] = Pickled(ran)
    np.save(tmp_path / "a.npy", logits, allow_pickle=True)
    np.savez(tmp_path / "b.npz", logits=logits)
    for name in "ab":
        with pytest.raises(DataError, match="cannot be read"):
            GivenLogits(tmp_path, "train", (name,)).array(0)
    assert not ran.exists()


@pytest.mark.parametrize("place", ["os:system", "subprocess:run", "builtins:exec", "importlib.util:find_spec"])
def test_no_function_of_python_itself_is_called_by_a_file(place: str) -> None:
    """A student's file names the function that builds its network, and may be somebody else's."""
    with pytest.raises(ConfigError, match=r"a module of Python's own; must be one with a function of yours"):
        import_object(place, "student.factory")


def test_a_students_file_cannot_name_a_function_of_python(tmp_path: Path, tiny: dict[str, Any]) -> None:
    from bpkd_search.models import save_weights

    ran = tmp_path / "ran"
    run = {
        "data": tiny["data"],
        "student": {"factory": "timeit:timeit", "arguments": {"setup": f"open({str(ran)!r}, 'w')"}},
    }
    about = {"config": run, "class_names": ["a"], "palette": [[0, 0, 0]]}
    save_weights(tmp_path / "s.safetensors", torch.nn.Linear(1, 1), about)
    with pytest.raises(CheckpointError, match="a module of Python's own"):
        load_student(tmp_path / "s.safetensors")
    assert not ran.exists()


# Names and paths


@pytest.mark.parametrize("name", ["..", ".", "../x", "/tmp/x", "a/b", "a\\b", "~", "a\0b", "-x", "", "a\n", "ａ"])
def test_names_of_experiments_and_splits_are_names_of_files(name: str, tiny: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"name: got .*must be 1 to 80 characters"):
        parse(SearchConfig, {**tiny, "name": name}, "test")
    with pytest.raises(ValueError, match="1 to 80 characters"):
        Data.model_validate({**tiny["data"], "test_split": name})


@pytest.mark.parametrize("path_of", [checkpoint_file, student_file, trial_log])
def test_a_trial_is_a_number_in_every_path(path_of: Callable[[Path, Any], Path], tmp_path: Path) -> None:
    assert path_of(tmp_path, 7).is_relative_to(tmp_path)
    for number in ("../7", "7", "/etc/passwd", None, 7.5):
        with pytest.raises((ValueError, TypeError)):
            path_of(tmp_path, number)


def test_a_request_for_a_trial_is_a_number_and_goes_into_its_own_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "e", [{"curve": [0.1], "state": "RUNNING"}])
    with pytest.raises(ValueError, match="valid integer"):
        Stop(trials=("../../x",))  # type: ignore[arg-type]
    before = set(tmp_path.rglob("*"))
    send(folder, Stop(trials=(0,)))
    (new,) = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert new.parent == folder / "requests"


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/{}/outside"])
def test_logits_are_read_from_their_folder_alone(name: str, tmp_path: Path) -> None:
    """Image names come from lists of names, and from data sets of others."""
    (tmp_path / "logits").mkdir()
    np.save(tmp_path / "outside.npy", np.zeros((2, 4, 4), np.float32))
    given = GivenLogits(tmp_path / "logits", "train", (name.format(tmp_path),))
    for read in (given.find, given.array):
        with pytest.raises(DataError, match="which leaves the folder"):
            read(0)
    with pytest.raises(DataError, match="which leaves the folder"):
        given.require_all()


def test_a_table_of_somebody_else_does_not_name_the_files_of_an_export(tmp_path: Path) -> None:
    folder = make(tmp_path / "e", [{"curve": [0.1, 0.2, 0.3, 0.4], "method": "../../planted"}])
    out = tmp_path / "deep" / "best"
    with pytest.raises(
        ExperimentError, match="is no file name: the tables of this experiment are not those of a search"
    ):
        export(folder, out)
    assert not [path for path in tmp_path.rglob("*planted*")]


def test_only_a_store_of_the_cache_is_removed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "train").mkdir(parents=True)
    (outside / MANIFEST).write_text("{}")
    views = tmp_path / "cache" / "views"
    views.mkdir(parents=True)
    for key in ("../../outside", str(outside), "..", ""):
        with pytest.raises(DataError, match="has no store"):
            find(tmp_path / "cache", key)
    (views / "linked").symlink_to(outside)
    (linked,) = list_stores(tmp_path / "cache")
    with pytest.raises(OSError, match="symbolic link"):
        remove(linked)
    assert (outside / "train").is_dir()


# Markup


def test_a_frame_in_a_notebook_shows_markup_as_text(tmp_path: Path) -> None:
    folder = make(
        tmp_path / EVIL.replace("/", "_"),
        [{"curve": [0.1, 0.2, 0.3, 0.4], "method": EVIL}, {"curve": [0.1], "state": "FAILED", "reason": EVIL}],
        name=EVIL,
        space={f"loss.{EVIL}": {"choice": [EVIL]}},
    )
    accepted = '{"accepted": [{"time": "' + EVIL + '", "changes": ["' + EVIL + '"]}]}'
    (folder / "experiment.json").write_text(accepted)
    shown = Leaderboard(folder)._repr_html_()
    assert "<script" not in shown and "<img" not in shown and "&lt;script&gt;" in shown
    text = page.report_page(Leaderboard(folder), page.Panels())
    assert "<script>alert" not in text and "<img src=x" not in text.replace("&lt;img", "")


# Servers


def test_every_server_listens_on_this_machine_alone() -> None:
    hosts = [
        (path.name, ast.unparse(k.value))
        for path in files()
        for _, call in calls(path)
        for k in call.keywords
        if k.arg in ("host", "dashboard_host", "include_dashboard")
    ]
    assert sorted(hosts) == [("dashboard.py", "HOST")]
    from bpkd_search.show.dashboard import HOST

    assert HOST == "127.0.0.1"


def test_the_policy_says_what_is_trusted_and_where_to_report() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    for said in ("search.on_end", "student.factory", "RAY_AUTH_TOKEN", "127.0.0.1", "weights_only", "Report"):
        assert said in text
