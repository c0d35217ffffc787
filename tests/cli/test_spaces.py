"""Installed search spaces on the command line: listed, copied, and given by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bpkd_search import __version__
from bpkd_search.config import load_run, load_search
from bpkd_search.config.search_spaces import installed_spaces

ROOT = Path(__file__).parents[2] / "search_spaces"
UNKNOWN = (
    "error: quickstrat: 1 error(s)\n  no such file, and no search space of this name; did you mean quickstart? valid: "
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_they_are_listed_with_what_they_are(call) -> None:
    code, out, _ = call("spaces")
    head, *rows = out.splitlines()
    assert (code, head.split()) == (0, ["name", "data", "trials"])
    found = sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.rglob("*.yaml"))
    assert [row.split()[0] for row in rows] == found
    for row in rows:
        tree = yaml.safe_load((ROOT / f"{row.split()[0]}.yaml").read_text())
        assert row.split()[1:3] == [tree["data"]["kind"], str(tree["search"]["trials"])]
        assert row.endswith((ROOT / f"{row.split()[0]}.yaml").read_text().splitlines()[0].removeprefix("# "))


def test_a_copy_is_the_same_file_and_overwrites_nothing(call, tmp_path: Path) -> None:
    assert call("spaces", "copy", "quickstart") == (0, "quickstart.yaml\n", "")
    assert Path("quickstart.yaml").read_bytes() == (ROOT / "quickstart.yaml").read_bytes()
    Path("quickstart.yaml").write_text("mine")
    code, _, err = call("spaces", "copy", "quickstart")
    assert (code, err) == (2, "error: quickstart.yaml: exists already; choose another --out\n")
    assert Path("quickstart.yaml").read_text() == "mine"
    assert call("spaces", "copy", "camvid", "--out", "new/my.yaml") == (0, "new/my.yaml\n", "")
    assert Path("new/my.yaml").read_bytes() == (ROOT / "camvid.yaml").read_bytes()
    assert call("spaces", "copy", "paper/ade20k-hrnet") == (0, "ade20k-hrnet.yaml\n", "")
    code, _, err = call("spaces", "copy", "quickstrat")
    assert (code, "no search space of this name; did you mean quickstart? valid: camvid, " in err) == (2, True)


def test_a_file_comes_before_a_name_and_a_folder_does_not(tmp_path: Path) -> None:
    shipped = load_search(ROOT / "quickstart.yaml")
    Path("quickstart").mkdir()
    assert load_search("quickstart") == shipped == load_search(Path("quickstart"))
    Path("quickstart").rmdir()
    Path("quickstart").write_text((ROOT / "quickstart.yaml").read_text().replace("name: quickstart", "name: mine"))
    assert load_search("quickstart").name == "mine"


@pytest.mark.parametrize(
    "command",
    [
        ["run"],
        ["validate"],
        ["train", "--out", "o"],
        ["teacher"],
        ["views"],
        ["show-edges"],
        ["simulate", "--table", "t.parquet"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_that_takes_a_space_takes_a_name(call, command: list[str]) -> None:
    name, *options = command
    code, out, err = call(name, "quickstrat", *options)
    assert (code, out) == (2, "")
    assert err.startswith(UNKNOWN)
    code, out, err = call(name, "quickstart", *options, "--set", "loss.edge_width=6")
    assert (code, out) == (2, "")
    assert err.startswith("error: quickstart: 1 error(s)\n  loss.edge_width: got 6")


def test_a_missing_file_is_no_name(call) -> None:
    code, _, err = call("validate", "quickstart.yaml")
    assert (code, err) == (2, "error: quickstart.yaml: 1 error(s)\n  cannot be read: No such file or directory\n")


def test_validate_takes_overrides_for_every_file(call) -> None:
    names = [name for name in installed_spaces() if not name.startswith("paper/")]
    assert call("validate", *names) == (0, "".join(f"{name}: ok\n" for name in names), "")
    code, out, err = call("validate", *names, "--set", "train.epochs=0", "--set", "data.views=3")
    assert (code, out, err.count("train.epochs: got 0")) == (2, "", len(names))
    Path("run.yaml").write_text("train: {epochs: 0}\n")
    assert call("validate", "run.yaml")[0] == 2
    assert call("validate", "run.yaml", "--set", "train.epochs=3") == (0, "run.yaml: ok\n", "")
    assert load_run("run.yaml", ["train.epochs=3"]).train.epochs == 3


def test_the_version_is_printed(call) -> None:
    assert call("--version") == (0, f"bpkd-search {__version__}\n", "")
