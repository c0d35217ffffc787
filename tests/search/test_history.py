"""The event log is the truth: whatever happens to the journal, the study is what an undisturbed search has."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.folder import read_config
from bpkd_search.search.engine import Engine
from bpkd_search.search.history import journal
from tests.driving import drive

SEARCHES = Path(__file__).parent.parent / "fixtures" / "searches"
MOMENT = 47  # reports until the search is killed; by then sampled trials have ended, stopped and are running


def config_of(tiny: dict[str, Any], sampler: str = "tpe", **search: Any) -> SearchConfig:
    tree = deepcopy(tiny)
    tree["train"]["epochs"] = 8
    tree["search"] |= {"trials": 12, "sampler": {"name": sampler}, **search}
    if sampler in ("tpe", "gp", "cmaes"):
        tree["search"]["sampler"]["startup"] = 2
    return parse(SearchConfig, tree, "test")


def start(folder: Path, config: SearchConfig) -> Engine:
    if not folder.exists():
        experiment.create(folder, config)
    return Engine(config, folder, "test")


def trials_of(folder: Path) -> list[Any]:
    """Everything in the study that a sampler may read, but times."""
    storage = journal(folder)
    (study,) = storage.get_all_studies()
    return [
        (t.number, t.state, t.values, t.params, t.intermediate_values, t.user_attrs, t.system_attrs, t.distributions)
        for t in storage.get_all_trials(study._study_id)
    ] + [storage.get_study_system_attrs(study._study_id)]


def story(engine: Engine) -> dict[int, Any]:
    return {
        n: (t.run.model_dump(mode="json"), engine.states.get(n), sorted(t.reports)) for n, t in engine.trials.items()
    }


def cut(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])

    return damage


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True)))) and None


def ask_more(path: Path) -> None:
    from bpkd_search.search.study import Study

    config = read_config(path.parent)
    Study(journal(path.parent), config).ask(99)


def end_another(path: Path) -> None:
    import optuna

    study = optuna.load_study(study_name=None, storage=journal(path.parent))
    running = next(t for t in study.trials if t.state == TrialState.RUNNING)
    study.tell(running.number, 0.99)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (Path.unlink, "is missing"),
    "empty": (cut(0), "lacks trials"),
    "torn": (cut(0.6), "ends in the middle of a line"),
    "torn by one byte": (lambda path: path.write_bytes(path.read_bytes()[:-1]) and None, "ends in the middle"),
    "torn and written on": (lines(lambda found: [*found[:-9], found[-9][:20], *found[-8:]]), "is damaged"),
    "no text": (lines(lambda found: [*found[:20], b"\xff\x00\n", *found[20:]]), "is damaged"),
    "another JSON": (lines(lambda found: [*found[:20], b"[1]\n", *found[20:]]), "is damaged"),
    "behind": (lines(lambda found: found[: len(found) // 2]), "lacks trials"),
    "ahead": (ask_more, "has trials that the event log lacks"),
    "another end": (end_another, "has another end of trial"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_study_is_rebuilt_from_the_log_and_the_search_is_the_undisturbed_one(
    tiny: dict[str, Any], tmp_path: Path, damage: str
) -> None:
    config = config_of(tiny)
    whole = start(tmp_path / "whole", config)
    drive(whole)
    first = start(tmp_path / "cut", config)
    assert drive(first, stop_after=MOMENT) == MOMENT
    shutil.copytree(tmp_path / "cut", tmp_path / "kept")
    path = tmp_path / "cut" / "study.journal"
    spoil, fault = DAMAGES[damage]
    spoil(path)
    spoilt = path.read_bytes() if path.exists() else None
    second = start(tmp_path / "cut", config)
    (note,) = second.notes
    assert note.startswith(f"{path}: {fault}") and "rebuilt from the event log" in note
    old = path.with_name("study.journal.old-1")
    if spoilt is None:
        assert not old.exists()
    else:  # kept, and at most opened by Optuna
        assert old.read_bytes().startswith(spoilt)
        assert old.name in note
    assert start(tmp_path / "kept", config).notes == []  # it ends the trial whose last report is in the log
    assert trials_of(tmp_path / "cut") == trials_of(tmp_path / "kept")
    third = start(tmp_path / "cut", config)
    assert third.notes == []
    drive(third)
    assert third.done and len(third.trials) == len(whole.trials)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp", "cmaes", "nsga2"])
def test_every_sampler_proposes_the_same_after_a_rebuild(tiny: dict[str, Any], tmp_path: Path, sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    config = config_of(tiny, sampler)
    whole = start(tmp_path / "whole", config)
    drive(whole, slots=1)
    first = start(tmp_path / "cut", config)
    for name in ("unlink", "cut"):
        drive(first, slots=1, stop_after=20)
        path = tmp_path / "cut" / "study.journal"
        path.unlink() if name == "unlink" else cut(0.5)(path)
        first = start(tmp_path / "cut", config)
        assert first.notes
    drive(first, slots=1)
    assert story(first) == story(whole)
    assert trials_of(tmp_path / "cut") == trials_of(tmp_path / "whole")


def test_several_objectives_constraints_and_conditions_are_rebuilt_alike(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["space"] = {
        "loss.method": {"choice": ["bpkd", "kd"]},
        "loss.edge_weight": {"float": [0.1, 10], "log": True, "when": {"loss.method": "bpkd"}},
        "loss.weight": {"float": [0.1, 10], "log": True, "when": {"loss.method": "kd"}},
    }
    tiny["enqueue"] = [{"loss.method": "kd", "loss.weight": 3.0}]
    config = config_of(tiny, objectives={"miou": "max", "edge_miou": "max"}, constraints=["accuracy >= 0.3"])
    whole = start(tmp_path / "whole", config)
    drive(whole, slots=1)
    first = start(tmp_path / "cut", config)
    drive(first, slots=1, stop_after=MOMENT)
    (tmp_path / "cut" / "study.journal").unlink()
    second = start(tmp_path / "cut", config)
    drive(second, slots=1)
    assert story(second) == story(whole)
    assert trials_of(tmp_path / "cut") == trials_of(tmp_path / "whole")


def test_points_that_the_sampler_would_not_propose_are_those_of_the_log(tiny: dict[str, Any], tmp_path: Path) -> None:
    """As after an update of Optuna: what was run counts."""
    config = config_of(tiny, "random")
    first = start(tmp_path / "e", config)
    drive(first, slots=1)
    (tmp_path / "e" / "study.journal").unlink()
    other = config.model_copy(update={"search": config.search.model_copy(update={"seed": 77})})
    second = start(tmp_path / "e", other)
    assert story(second) == story(first)
    params = {t[5]["number"]: t[3] for t in trials_of(tmp_path / "e")[:-1]}
    for number, point in params.items():
        loss = first.trials[number].run.loss
        assert point == {"loss.edge_weight": loss.edge_weight, "loss.edge_width": loss.edge_width}
    assert start(tmp_path / "e", other).notes == []


def test_a_journal_that_lacks_only_ends_and_reports_is_told_them(tiny: dict[str, Any], tmp_path: Path) -> None:
    """As when a driver is killed between the log and the journal."""
    config = config_of(tiny)
    first = start(tmp_path / "e", config)
    drive(first, slots=1)
    before = trials_of(tmp_path / "e")
    path = tmp_path / "e" / "study.journal"
    lines(lambda found: found[:-2])(path)
    assert trials_of(tmp_path / "e") != before
    assert start(tmp_path / "e", config).notes == []
    assert trials_of(tmp_path / "e") == before
    assert not path.with_name("study.journal.old-1").exists()


@pytest.mark.parametrize("name", ["confirmed", "interrupted"])
def test_journals_of_older_versions_are_kept(tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(SEARCHES / name, tmp_path / name))
    before = (folder / "study.journal").read_bytes()
    engine = Engine(read_config(folder), folder, "test")
    engine.recorder.close()
    assert engine.notes == []
    assert (folder / "study.journal").read_bytes().startswith(before)
