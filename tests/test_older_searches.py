"""Search folders written by version 0.1.0 before its modules were moved: they open, resume, replay, confirm, export.

`interrupted` was killed in the middle of a search, `confirmed` is finished and confirmed; `recorded` holds what that
version printed about the latter.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from bpkd_search import Leaderboard, resume_search
from bpkd_search.cluster.confirm import confirm
from bpkd_search.config import load_run
from bpkd_search.data.base import digest
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.folder import noted, read_config
from bpkd_search.export import export
from bpkd_search.search.replay import replay
from bpkd_search.training.forms import first_form
from bpkd_search.training.inputs import view_recipe
from bpkd_search.training.teacher import teacher_parts

SEARCHES = Path(__file__).parent / "fixtures" / "searches"
RECORDED = SEARCHES / "recorded"


@pytest.fixture
def older(tmp_path: Path):
    """A search folder to work on."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(SEARCHES / name, tmp_path / name))

    return copy


def test_the_leaderboard_is_the_recorded_one(call, older) -> None:
    code, printed, _ = call("leaderboard", older("confirmed"), "--format", "csv")
    recorded = pd.read_csv(RECORDED / "leaderboard.csv")
    now = pd.read_csv(io.StringIO(printed))
    assert code == 0
    pd.testing.assert_frame_equal(now[list(recorded)], recorded)


def test_the_winner_is_the_recorded_one(older) -> None:
    now = Leaderboard(older("confirmed")).winner()
    # The chance to be the best was given for two seeds then, which are too few to tell.
    recorded = pd.read_csv(RECORDED / "winner.csv", index_col="rank").assign(p_best=float("nan"))
    pd.testing.assert_frame_equal(now[list(recorded)], recorded, check_dtype=False, check_categorical=False)
    assert (now.attrs["paper"], now.attrs["plain"], now.attrs["winner"]) == (3, 0, None)


@pytest.mark.parametrize(("name", "trials"), [("confirmed", 10), ("interrupted", 9)])
def test_its_replay_shows_no_difference(older, name: str, trials: int) -> None:
    assert replay(older(name)) == (trials, [])


def test_views_and_teacher_are_determined_by_what_determined_them_then(older) -> None:
    """Versions of libraries were added to the keys; without them, the keys are the recorded ones."""
    run = read_config(older("confirmed")).run()
    views = digest(view_recipe(run.data, first_form(run)).parts())
    assert (views, digest([*teacher_parts(run, ()), views])) == ("4dd0de636a047f1a", "9ae394f9cda0ec23")


def test_what_is_confirmed_is_not_run_again(older) -> None:
    folder = older("confirmed")
    before, log = Leaderboard(folder).confirm(), (folder / "confirmation" / "events.jsonl").read_bytes()
    shutil.rmtree(folder / "confirm")  # made anew from the log
    after = confirm(folder, top=1, seeds=2).confirm()
    assert before["retries"].isna().all() and (after["retries"] == 0).all()  # a column that came later
    kept = [column for column in before if column != "retries"]
    pd.testing.assert_frame_equal(after[kept], before[kept])
    assert (folder / "confirmation" / "events.jsonl").read_bytes() == log


def test_its_best_setting_is_exported_as_it_was(older, tmp_path: Path) -> None:
    (file,) = export(older("confirmed"), tmp_path / "exported")
    recorded = RECORDED / "1-bpkd-trial4.yaml"
    assert file.name == recorded.name
    assert load_run(file) == load_run(recorded)


def test_its_report_is_written(call, older, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    page = tmp_path / "page.html"
    code, printed, _ = call("report", older("confirmed"), "--out", page, "--panels", "0")
    assert (code, printed.strip()) == (0, str(page))
    text = page.read_text()
    assert "The best searched setting, trial 4, reaches miou 0.0684: 1.7 points above the best baseline" in text


def test_it_is_resumed_to_the_end_and_keeps_every_row(older, cache: Path, capsys) -> None:
    folder = older("interrupted")
    log = (folder / "events.jsonl").read_bytes()
    ended = {event["number"]: event["state"] for event in read_events(folder) if event["event"] == "end"}
    trials = pq.read_table(folder / "trials").to_pandas().set_index("number")
    trials = trials[trials["state"] != "RUNNING"]
    reports = pq.read_table(folder / "reports").to_pandas().set_index(["number", "epoch"])
    assert (len(ended), len(trials), len(reports)) == (7, 6, 22)  # the tables were behind the log

    resume_search(folder)

    assert f"{folder}: was begun by an older version; what it reads is recorded from now on" in capsys.readouterr().err
    assert noted(folder)["fingerprints"]["contents"]["data.val"].startswith("6 images, ")

    assert (folder / "events.jsonl").read_bytes().startswith(log)
    now = pq.read_table(folder / "trials").to_pandas().set_index("number")
    assert len(now) == 10 and set(now["state"]) <= {"COMPLETE", "PRUNED"}
    assert {number: now["state"][number] for number in ended} == ended
    same = [name for name in trials if name != "version"]  # that of the code which wrote the table
    pd.testing.assert_frame_equal(now.loc[trials.index, same], trials[same], check_dtype=False, check_categorical=False)
    now = pq.read_table(folder / "reports").to_pandas().set_index(["number", "epoch"])
    assert not now.index.duplicated().any()
    pd.testing.assert_frame_equal(
        now.loc[reports.index, list(reports)], reports, check_dtype=False, check_categorical=False
    )
    assert replay(folder) == (10, [])
