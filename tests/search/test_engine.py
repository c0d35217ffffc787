"""The search without Ray: order, states, early stops, restarts; study and tables tell the same story."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from bpkd_search import Leaderboard
from bpkd_search.config import BASELINES, SearchConfig, dump
from bpkd_search.config.load import parse
from bpkd_search.experiment import folder as experiment
from bpkd_search.search.engine import Engine
from bpkd_search.search.replay import replay
from tests.driving import drive, report_of

STATES = {"COMPLETE": TrialState.COMPLETE, "PRUNED": TrialState.PRUNED, "FAILED": TrialState.FAIL}


def config_of(tiny: dict[str, Any], trials: int = 12, **changes: Any) -> SearchConfig:
    tree = deepcopy(tiny)
    tree["search"]["trials"] = trials
    tree["train"]["epochs"] = 8
    tree.update(changes)
    return parse(SearchConfig, tree, "test")


def start(folder: Path, config: SearchConfig) -> Engine:
    if not (folder / "config.yaml").exists():
        experiment.create(folder, config)
    return Engine(config, folder, "test")


def study_of(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(folder / "study.journal"))))


def test_baselines_come_first_and_run_to_the_end(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny, enqueue=[{"loss.edge_weight": 0.05}])
    engine = start(tmp_path / "e", config)
    drive(engine)
    origins = [trial.origin for trial in engine.trials.values()]
    assert origins == ["baseline"] * 4 + ["enqueued"] + ["sampled"] * 11
    assert [engine.trials[n].method for n in range(4)] == list(BASELINES)
    assert all(engine.states[n] == "COMPLETE" for n in range(4))
    assert engine.trials[4].run.loss.edge_weight == 0.05
    assert engine.trials[4].run.loss.edge_width == 3  # the base run's, where the point names none
    assert "PRUNED" in engine.states.values()
    assert engine.done


def test_study_table_and_engine_agree_on_every_state(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny))
    drive(engine)
    engine.recorder.close()
    table = Leaderboard(tmp_path / "e").trials().set_index("number")
    assert table["state"].to_dict() == engine.states
    told = {t.user_attrs["number"]: t for t in study_of(tmp_path / "e").trials}
    # ce, kd and cwd have no coordinates in this space; the paper's setting has.
    assert sorted(told) == [3, *range(4, 16)]
    for number, trial in told.items():
        row = table.loc[number]
        assert trial.state == STATES[row["state"]]
        assert trial.params["loss.edge_weight"] == row["loss.edge_weight"]
        assert trial.params["loss.edge_width"] == row["loss.edge_width"]
        assert trial.intermediate_values[row["epochs"]] == row["miou"]
        if trial.state == TrialState.COMPLETE:
            assert trial.value == row["miou"]


def test_a_partial_result_never_outranks_a_full_one(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny))
    # A curve that starts high and falls: stopped trials have the better numbers.
    drive(engine, curve=lambda trial, epoch: 0.9 / epoch - 0.001 * trial.number)
    engine.recorder.close()
    trials = Leaderboard(tmp_path / "e").trials()
    states = trials["state"].tolist()
    assert states == sorted(states, key=["COMPLETE", "PRUNED", "FAILED"].index)
    assert trials["miou"].max() > trials["miou"].iloc[0]
    assert set(Leaderboard(tmp_path / "e").best(99)["state"]) == {"COMPLETE"}


@pytest.mark.parametrize("reason", ["nan", "oom", "error", "lost"])
def test_failures_are_failed_with_their_reason_everywhere(tiny: dict[str, Any], tmp_path: Path, reason: str) -> None:
    engine = start(tmp_path / "e", config_of(tiny, trials=2))
    for number in range(6):
        trial = engine.ask()
        assert trial is not None
        if number == 4:
            engine.report(4, report_of(trial, 1, 0.2))
            engine.end(4, (reason, "what happened"))
            continue
        for epoch in range(1, 9):
            engine.report(number, report_of(trial, epoch, 0.1))
        engine.end(number)
    engine.recorder.close()
    row = Leaderboard(tmp_path / "e").trials().set_index("number").loc[4]
    assert (row["state"], row["reason"], row["message"]) == ("FAILED", reason, "what happened")
    told = next(t for t in study_of(tmp_path / "e").trials if t.user_attrs["number"] == 4)
    if reason == "nan":  # told as worse than all others, so that the sampler stays away
        assert told.state == TrialState.COMPLETE and told.value <= 0.1
    else:
        assert told.state == TrialState.FAIL
        assert told.values is None
    assert told.user_attrs["reason"] == reason


def test_an_undefined_metric_is_a_failure_not_a_rank(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny, trials=1))
    drive(engine, curve=lambda trial, epoch: math.nan if trial.number == 4 else 0.3)
    assert engine.states[4] == "FAILED"
    engine.recorder.close()
    assert Leaderboard(tmp_path / "e").trials().iloc[-1]["number"] == 4


def run_whole(folder: Path, config: SearchConfig) -> dict[int, Any]:
    engine = start(folder, config)
    drive(engine, slots=1)
    engine.recorder.close()
    return story(engine)


def story(engine: Engine) -> dict[int, Any]:
    return {
        n: (t.run.model_dump(mode="json"), engine.states.get(n), sorted(t.reports)) for n, t in engine.trials.items()
    }


@pytest.mark.parametrize("moment", [1, 9, 32, 33, 36, 40, 45, 50])
def test_killed_at_any_moment_and_resumed_is_the_undisturbed_search(
    tiny: dict[str, Any], tmp_path: Path, moment: int
) -> None:
    config = config_of(tiny)
    undisturbed = run_whole(tmp_path / "whole", config)
    first = start(tmp_path / "cut", config)
    assert drive(first, slots=1, stop_after=moment) == moment  # killed: nothing is flushed or closed
    second = start(tmp_path / "cut", config)
    drive(second, slots=1)
    second.recorder.close()
    assert story(second) == undisturbed
    whole, cut = Leaderboard(tmp_path / "whole").reports(), Leaderboard(tmp_path / "cut").reports()
    pd.testing.assert_frame_equal(whole.drop(columns="time"), cut.drop(columns="time"))


def test_a_torn_last_line_is_dropped_and_the_search_goes_on(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny)
    first = start(tmp_path / "e", config)
    drive(first, slots=1, stop_after=20)
    with (tmp_path / "e" / "events.jsonl").open("ab") as file:
        file.write(b'{"event":"report","number":2,"epo')
    second = start(tmp_path / "e", config)
    drive(second, slots=1)
    assert second.done
    lines = (tmp_path / "e" / "events.jsonl").read_bytes().splitlines()
    assert all(json.loads(line) for line in lines)


def test_asks_that_died_before_they_were_logged_leave_no_running_trial(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny, trials=3)
    undisturbed = run_whole(tmp_path / "whole", config)
    first = start(tmp_path / "cut", config)
    drive(first, slots=1, stop_after=24)  # the three baselines outside the space have ended
    lost = first.study.ask(3, {"loss.edge_weight": 50.0, "loss.edge_width": 7})
    first.study.study.enqueue_trial({"loss.edge_weight": 1.0, "loss.edge_width": 3})
    first.study.study.ask()
    second = start(tmp_path / "cut", config)
    drive(second, slots=1)
    assert lost == {"loss.edge_weight": 50.0, "loss.edge_width": 7}
    # Neither of the two is in the log: the search is the undisturbed one, and so is its study.
    assert story(second) == undisturbed
    states = [t.state for t in study_of(tmp_path / "cut").trials]
    assert states == [t.state for t in study_of(tmp_path / "whole").trials]


def test_a_study_in_a_database_beside_others_resumes_as_one_in_a_folder(tiny: dict[str, Any], tmp_path: Path) -> None:
    """There Optuna's ids of trials are not their numbers."""
    config = config_of(tiny)
    undisturbed = run_whole(tmp_path / "whole", config)
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    other = optuna.create_study(storage=url, study_name="other")
    for _ in range(5):
        other.ask()
    experiment.create(tmp_path / "cut", config)
    for moment in (20, 45, None):
        engine = Engine(config, tmp_path / "cut", "test", storage=RDBStorage(url))
        drive(engine, slots=1, stop_after=moment)
    assert story(engine) == undisturbed
    assert [trial.state for trial in other.trials] == [TrialState.RUNNING] * 5


def test_interrupted_trials_stay_running_and_go_on_first(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny)
    first = start(tmp_path / "e", config)
    one, two = first.ask(), first.ask()
    assert one is not None and two is not None
    first.report(0, report_of(one, 1, 0.2))
    first.interrupted = True
    first.end(0), first.end(1)
    assert first.ask() is None
    first.recorder.close()
    assert Leaderboard(tmp_path / "e").trials()["state"].tolist() == ["RUNNING", "RUNNING"]
    second = start(tmp_path / "e", config)
    again = second.ask()
    assert again is not None and (again.number, again.epoch, again.last()["gpu_seconds"]) == (0, 1, 2.0)


def test_a_schedule_in_place_of_a_searched_number_has_no_cell(tiny: dict[str, Any], tmp_path: Path) -> None:
    moving = {"method": "bpkd", "edge_weight": {"shape": "linear", "start": 0, "end": 5}}
    space = {"loss.edge_width": {"int": [3, 7], "step": 2}, "loss.edge_weight.end": {"float": [1, 9]}}
    engine = start(tmp_path / "e", config_of(tiny, trials=3, loss=moving, space=space))
    drive(engine, curve=lambda trial, epoch: 0.01 * epoch)
    engine.recorder.close()
    table = Leaderboard(tmp_path / "e").trials().set_index("number")
    for number, trial in engine.trials.items():
        end = getattr(getattr(trial.run.loss, "edge_weight", None), "end", None)
        cell = table.loc[number, "loss.edge_weight.end"]
        assert cell == end if end is not None else pd.isna(cell)
    assert table["loss.edge_weight.end"].notna().sum() == 3


def test_an_alpha_per_class_is_recorded_in_the_configuration(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["loss"] = {"method": "bpkd", "alpha": [1.0] * 8}
    tiny["space"] = {"loss.edge_width": {"int": [3, 7], "step": 2}}
    engine = start(tmp_path / "e", config_of(tiny, trials=2))
    drive(engine)
    engine.recorder.close()
    table = Leaderboard(tmp_path / "e").trials()
    sampled = table[(table["origin"] == "sampled") & (table["method"] == "bpkd")]
    assert all(json.loads(config)["loss"]["alpha"] == [1.0] * 8 for config in sampled["config"])


def test_conditional_spaces_sample_only_what_is_active(tiny: dict[str, Any], tmp_path: Path) -> None:
    space = {
        "loss.method": {"choice": ["bpkd", "kd"]},
        "loss.edge_weight": {"float": [0.1, 10], "log": True, "when": {"loss.method": "bpkd"}},
        "loss.weight": {"float": [0.1, 10], "log": True, "when": {"loss.method": "kd"}},
    }
    engine = start(tmp_path / "e", config_of(tiny, trials=20, space=space, loss={"method": "bpkd"}))
    drive(engine)
    engine.recorder.close()
    table = Leaderboard(tmp_path / "e").trials()
    sampled = table[table["origin"] == "sampled"]
    assert set(sampled["method"]) == {"bpkd", "kd"}
    assert (sampled["loss.edge_weight"].isna() == (sampled["method"] == "kd")).all()
    assert (sampled["loss.weight"].isna() == (sampled["method"] == "bpkd")).all()


def test_tpe_finds_the_peak_that_random_points_miss(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Over 40 trials TPE's later half lies nearer the peak than its random start."""
    tree = deepcopy(tiny)
    tree["search"] = {"trials": 40, "sampler": {"name": "tpe", "startup": 10}, "scheduler": {"name": "none"}}
    engine = start(tmp_path / "e", parse(SearchConfig, tree, "test"))
    drive(engine)
    away = [abs(math.log10(t.run.loss.edge_weight) - 0.2) for t in engine.trials.values() if t.origin == "sampled"]
    assert sum(away[20:]) / 20 < 0.6 * sum(away[:10]) / 10


def test_a_search_whose_files_have_moved_goes_on_there_with_the_same_study(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    (weights := tmp_path / "student.pt").touch()
    tiny["student"]["weights"] = str(weights)
    engine = start(tmp_path / "e", config_of(tiny, trials=3))
    drive(engine, stop_after=36)
    engine.recorder.close()
    journal = (tmp_path / "e" / "study.journal").read_text()
    tiny["data"]["root"], tiny["train"]["device"], tiny["student"]["weights"] = "/moved", "cpu", "/moved/student.pt"
    config = config_of(tiny, trials=5)
    (tmp_path / "e" / "config.yaml").write_text(dump(config))
    moved = start(tmp_path / "e", config)
    assert moved.notes == []
    assert (tmp_path / "e" / "study.journal").read_text().startswith(journal)
    paths = {(str(t.run.data.root), str(t.run.student.weights), t.run.train.device) for t in moved.trials.values()}
    assert len(moved.trials) > 4 and paths == {("/moved", "/moved/student.pt", "cpu")}
    drive(moved)
    moved.recorder.close()
    assert len(moved.states) == 9 and replay(tmp_path / "e")[1] == []
