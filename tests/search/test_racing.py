"""Races over seeds inside a search: what runs next, exact resumption and replay, bad input; in simulated time."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpkd_search import Leaderboard
from bpkd_search.cluster.confirm import choose_settings
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.errors import ConfigError
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.trial import Trial
from bpkd_search.results.expectation import Expected
from bpkd_search.results.race import MOST_SEEDS
from bpkd_search.search.contenders import Known, contenders
from bpkd_search.search.engine import Engine
from bpkd_search.search.racing import Setting, is_due, next_replicate
from bpkd_search.search.replay import replay
from bpkd_search.search.requests import Change, Enqueue, Retry, Stop, effect, states_of_engine
from tests.driving import curve, drive, report_of


def config_of(tiny: dict[str, Any], trials: int = 24, **search: Any) -> SearchConfig:
    tree = deepcopy(tiny)
    tree["search"] |= {"trials": trials, "replicates": "auto", **search}
    return parse(SearchConfig, tree, "test")


def start(folder: Path, config: SearchConfig) -> Engine:
    if not (folder / "config.yaml").exists():
        experiment.create(folder, config)
    return Engine(experiment.read_config(folder), folder, "test")


def luck(trial: Trial, epoch: int) -> float:
    """What a seed gives to all, and what it gives to one setting."""
    seed = trial.run.train.seed
    weight = getattr(trial.run.loss, "edge_weight", 0.0)
    return curve(trial, epoch) + 0.004 * ((7 * seed) % 5) + 0.003 * ((seed * 31 + int(1000 * weight)) % 7)


def story(engine: Engine) -> dict[int, Any]:
    return {
        n: (t.run.model_dump(mode="json"), t.origin, t.replicate_of, engine.states.get(n), t.last().get("miou"))
        for n, t in engine.trials.items()
    }


def known_of(engine: Engine) -> Known:
    return Known(engine.trials, engine.plan.base.train.seed, engine.metric, 1.0, engine.tried, engine.model)


def setting(number: int, expected: float, *scores: float, method: str = "a", **given: Any) -> tuple[Setting, float]:
    known = dict(enumerate(scores, 1))
    given = {"begun": frozenset(known), **given}
    return Setting(number, method, method == "a", scores=known, **given), expected


def chosen(settings: list[tuple[Setting, float]], noise: float = 1.0, alike: float = 0.0) -> tuple[int, int] | None:
    """What runs next; `alike` is the correlation of what is expected of the settings."""
    count = len(settings)
    covariance = noise**2 * ((1 - alike) * np.eye(count) + alike)
    return next_replicate([s for s, _ in settings], Expected(np.array([m for _, m in settings]), covariance, noise))


def test_replicates_are_few_at_first_and_half_later() -> None:
    explored = replicates = 0
    order = []
    for _ in range(64):
        again = is_due(explored, replicates)
        order.append(again)
        explored, replicates = explored + (not again), replicates + again
    assert not any(order[:8]) and [sum(order[:n]) for n in (16, 32, 64)] == [2, 6, 22]


def test_the_leader_meets_its_nearest_challenger_and_the_one_with_fewer_seeds_runs() -> None:
    rivals = [setting(0, 0.0, method="x"), setting(1, 4.0, method="y")]
    assert chosen([*rivals, setting(7, 5.0), setting(8, -9.0)]) == (7, 1)
    # What runs counts: the leader's first seed has begun, so it is the turn of its rival.
    mate, ahead = setting(8, 4.9), setting(7, 5.0, begun=frozenset({1}))
    assert chosen([*rivals, ahead, mate]) == (8, 1), "by turns it is the nearest of its own method"
    both = setting(8, 4.9, begun=frozenset({1}))
    assert chosen([*rivals, ahead, both]) == (1, 1), "or the nearest rival"


def test_rivals_with_too_few_seeds_to_be_beaten_come_before_the_nearest_goes_on() -> None:
    leader, near = setting(7, 5.0, 5.0, 5.1, 4.9), setting(1, 4.9, 5.1, 4.8, 5.0, method="y")
    far = [setting(0, 0.0, 0.1, 0.0, method="x"), setting(2, 1.0, 1.1, 0.9, method="z")]
    assert chosen([leader, near, *far]) == (2, 3), "the nearer of those with two seeds"
    done = [setting(0, 0.0, 0.1, 0.0, 0.1, method="x"), setting(2, 1.0, 1.1, 0.9, 1.0, method="z")]
    assert chosen([leader, near, *done], 0.1) == (7, 4), "both far ones are beaten, the near one is not"


def test_the_best_of_each_method_is_a_rival_however_far_behind_its_first_run_was() -> None:
    leader, base = setting(7, 5.0, 5.0, 5.1, 4.9, 5.0), setting(0, 0.0, 0.1, 0.0, -0.1, 0.0, method="x")
    other = [setting(i, mean, method="b") for i, mean in ((8, -4.0), (9, -3.0))]
    other = [(replace(s, searched=True), mean) for s, mean in other]
    assert chosen([base, leader, *other], 0.1) == (9, 1)
    unable = [(replace(s, able=False), mean) for s, mean in other]
    assert chosen([base, leader, *unable], 0.1) is None, "whoever cannot win need not be beaten"


def test_settings_that_are_as_good_as_equal_do_not_race_each_other() -> None:
    rivals = [setting(0, 0.0, method="x"), setting(1, 4.0, method="y")]
    pair = [setting(7, 5.0, begun=frozenset({1})), setting(8, 5.0)]
    assert chosen([*rivals, *pair], alike=0.7) == (8, 1)
    assert chosen([*rivals, *pair], alike=0.995) == (1, 1), "the model says that both are the same"


def test_one_that_failed_or_breaks_a_constraint_does_not_lead() -> None:
    rival, best = setting(0, 0.0, method="x"), setting(7, 9.0, able=False)
    other = setting(8, 1.0)
    assert chosen([rival, best, other]) == (8, 1)
    assert chosen([setting(7, 9.0, able=False)]) is None


def test_a_decided_race_and_one_with_all_seeds_run_nothing() -> None:
    leader = setting(7, 5.0, 5.0, 5.1, 4.9, 5.0, 5.05)
    beaten = setting(0, 0.0, 0.1, 0.0, -0.1, 0.0, 0.1, method="x")
    assert chosen([beaten, leader], 0.1) is None
    assert chosen([setting(0, 5.0, 5.1, 4.8, 5.2, 4.9, 5.1, method="x"), leader], 0.1) is not None
    every = [float(i % 2) for i in range(MOST_SEEDS)]
    assert chosen([setting(0, 0.5, *every, method="x"), setting(7, 0.5, *every)]) is None


def test_a_raced_search_has_paired_seeds_in_full_and_replays_exactly(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 40))
    drive(engine, curve=luck)
    engine.recorder.close()
    again = {n: t for n, t in engine.trials.items() if t.origin == "replicate"}
    assert len(engine.trials) == 44 and len(again) == 10, "replicates are among the trials"
    assert min(again) >= 12, "8 new settings come first"
    assert {engine.states[n] for n in again} == {"COMPLETE"}
    seeds: dict[int, list[int]] = {}
    for trial in again.values():
        first = engine.trials[int(trial.replicate_of or 0)]
        assert first.state == "COMPLETE" and trial.method == first.method
        seed = {"seed": trial.run.train.seed}
        assert first.run.model_copy(update={"train": first.run.train.model_copy(update=seed)}) == trial.run
        seeds.setdefault(first.number, []).append(trial.run.train.seed)
    assert all(mine == list(range(1, len(mine) + 1)) for mine in seeds.values()) and len(seeds) > 2
    assert any(engine.trials[number].origin == "baseline" for number in seeds)
    assert replay(tmp_path / "e") == (44, [])
    assert len(engine.study.points()) == 44 - 10 - 3, "neither replicates nor the plain baselines are in the study"
    board = Leaderboard(tmp_path / "e")
    table = board.trials().set_index("number")
    assert table["replicate_of"].dropna().astype(int).to_dict() == {n: t.replicate_of for n, t in again.items()}
    assert not {*board.best(30)["number"]} & {*again}, "a lucky further seed does not lead the board"
    settings, _, used = choose_settings(board, 3)
    assert not {t.number for t in settings} & {*again} and {t.run.train.seed for t in again.values()} <= used
    race = board.race()
    assert dict(zip(race["number"], race["seeds"], strict=True)) == {n: len(seeds.get(n, [])) for n in race["number"]}
    assert {0, 1, 2, 3} <= {*race["number"]} and {*seeds} <= {*race["number"]}
    assert race["expected"].notna().all()
    # The race in the table is the one that chose what ran: by the same model, the same is expected.
    settings_now, expected = contenders(known_of(engine), list(again.values())) or ([], None)
    assert expected is not None
    runs = [(i, seed, value) for i, mine in enumerate(settings_now) for seed, value in mine.scores.items()]
    means = dict(zip((mine.number for mine in settings_now), expected.after(runs).mean, strict=True))
    assert np.allclose(race["expected"], [means[n] for n in race["number"]], atol=1e-9)
    if race.attrs["winner"] is None:
        best = max((n for n in means if n in seeds), key=lambda n: means[n])
        assert race["number"].iloc[0] == best
    first = max(means, key=lambda n: means[n])
    assert race.attrs["ahead"] == (None if first in {*race["number"]} else (first, pytest.approx(means[first])))


@pytest.mark.parametrize("share", [0.6, 0.75, 0.9])
def test_killed_in_the_race_and_resumed_it_is_the_undisturbed_one(
    tiny: dict[str, Any], tmp_path: Path, share: float
) -> None:
    whole = start(tmp_path / "whole", config_of(tiny, 20))
    total = drive(whole, slots=1, curve=luck)
    engine = start(tmp_path / "e", config_of(tiny, 20))
    drive(engine, slots=1, stop_after=int(share * total), curve=luck)
    assert any(trial.origin == "replicate" for trial in engine.trials.values()) and not engine.done
    engine.recorder.close()
    resumed = start(tmp_path / "e", config_of(tiny, 20))
    drive(resumed, slots=1, curve=luck)
    resumed.recorder.close()
    assert story(resumed) == story(whole) and resumed.done
    assert replay(tmp_path / "e") == (24, [])


def test_more_trials_of_a_raced_search_are_those_of_a_longer_one(tiny: dict[str, Any], tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", config_of(tiny, 26))
    drive(whole, slots=1, curve=luck)
    engine = start(tmp_path / "e", config_of(tiny, 18))
    drive(engine, slots=1, curve=luck)
    engine.request({"id": "some", **effect(Change(more_trials=8), engine.config, states_of_engine(engine))})
    drive(engine, slots=1, curve=luck)
    assert story(engine) == story(whole)


def test_requests_steer_a_raced_search(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 20))

    def ask(request: Any) -> None:
        engine.request({"id": "some", **effect(request, engine.config, states_of_engine(engine))})

    while (trial := engine.ask()) is not None and trial.origin != "replicate":
        for epoch in range(1, engine.max_epochs + 1):
            if not engine.report(trial.number, report_of(trial, epoch, luck(trial, epoch))):
                break
        engine.end(trial.number)
    assert trial is not None
    engine.end(trial.number, ("oom", "too large"))
    source, seed = trial.replicate_of, trial.run.train.seed
    ask(Enqueue(point={"loss.edge_weight": 0.25}))
    second = engine.ask()
    assert second is not None and second.origin == "enqueued" and second.run.loss.edge_weight == 0.25
    ask(Retry(trials=(trial.number,)))
    third = engine.ask()
    assert third is trial and third.run.train.seed == seed
    ask(Stop(trials=(second.number,)))
    engine.end(second.number)
    for epoch in range(1, engine.max_epochs + 1):
        assert engine.report(third.number, report_of(third, epoch, 0.0)), "a replicate is never stopped early"
    engine.end(third.number)
    drive(engine, curve=luck)
    engine.recorder.close()
    assert engine.done and len(engine.trials) == 25
    pairs = [(t.replicate_of, t.run.train.seed) for t in engine.trials.values() if t.replicate_of is not None]
    assert len(pairs) == len({*pairs}) and (source, seed) in pairs, "no seed of a setting twice"
    assert replay(tmp_path / "e") == (25, [])


def test_a_setting_that_fails_with_a_further_seed_cannot_win(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 30))
    failed: set[int] = set()
    running: list[Trial] = []
    while True:
        while len(running) < 3 and (trial := engine.ask()) is not None:
            running.append(trial)
        if not running:
            break
        trial = running.pop(0)
        of = trial.replicate_of
        if of is not None and engine.trials[of].origin == "sampled" and not failed:
            failed.add(of)
            engine.end(trial.number, ("nan", "the loss is NaN"))
            continue
        for epoch in range(1, engine.max_epochs + 1):
            if not engine.report(trial.number, report_of(trial, epoch, luck(trial, epoch))):
                break
        engine.end(trial.number)
    engine.recorder.close()
    race = Leaderboard(tmp_path / "e").race().set_index("number")
    assert failed and race.loc[[*failed], "failed"].tolist() == [1]
    assert race.index[0] not in failed and race.attrs["winner"] not in failed
    assert replay(tmp_path / "e") == (34, [])


def test_a_budget_ends_a_race_and_it_says_so(tiny: dict[str, Any], tmp_path: Path) -> None:
    # A trial takes 8 GPU-seconds: the budget ends after the baselines and some six others.
    engine = start(tmp_path / "e", config_of(tiny, 40, budget={"gpu_hours": 60 / 3600}))
    drive(engine, curve=luck)
    engine.recorder.close()
    race = Leaderboard(tmp_path / "e").race()
    assert engine.done and engine.closed is not None
    assert race.attrs["winner"] is None and race.attrs["verdict"].startswith("No winner at this budget: no setting ran")


@pytest.mark.parametrize(
    ("search", "train", "said"),
    [
        ({"trials": 10}, {}, "search.trials: got 10, must be at least 16 with search.replicates: auto"),
        ({"budget": {"gpu_hours": 0.01}}, {"gpu_seconds": 60}, "search.budget.gpu_hours: got 0.01, must be at least"),
        ({"replicates": 3}, {}, "search.replicates: got 3, must be 'auto'"),
    ],
)
def test_a_race_that_ends_before_the_second_seed_is_refused(
    tiny: dict[str, Any], search: dict[str, Any], train: dict[str, Any], said: str
) -> None:
    tree = deepcopy(tiny)
    if train:
        tree["train"] = {"batch_size": 4, **train}
    tree["search"] |= {"trials": 24, "replicates": "auto", **search}
    with pytest.raises(ConfigError) as error:
        parse(SearchConfig, tree, "test")
    assert said in str(error.value)


def test_points_to_be_tried_leave_room_for_the_race(tiny: dict[str, Any]) -> None:
    tiny["enqueue"] = [{"loss.edge_weight": 0.1 + 0.1 * i} for i in range(23)]
    with pytest.raises(ConfigError, match=r"search\.trials: got 24, must be at least 25"):
        config_of(tiny, 24)


@pytest.mark.parametrize(
    "search",
    [
        {"constraints": ["miou >= 0.385"]},
        {"objectives": {"miou": "max", "gpu_seconds": "min"}, "scheduler": {"name": "none"}},
        {"sampler": {"name": "model"}, "scheduler": {"name": "model"}},
    ],
    ids=["constraint", "objectives", "model"],
)
def test_a_race_beside_everything_that_a_search_may_have(
    tiny: dict[str, Any], tmp_path: Path, search: dict[str, Any]
) -> None:
    engine = start(tmp_path / "e", config_of(tiny, 30, **search))
    drive(engine, curve=luck)
    engine.recorder.close()
    again = [trial for trial in engine.trials.values() if trial.origin == "replicate"]
    # Where the baselines break a constraint, they need not be beaten.
    expected = 4 if "constraints" in search else 6
    assert len(again) == expected and all(trial.state == "COMPLETE" for trial in again)
    assert replay(tmp_path / "e") == (34, [])
    race = Leaderboard(tmp_path / "e").race()
    leader = engine.trials[int(race["number"].iloc[0])]
    assert leader.feasible is not False and race["seeds"].sum() == expected
    if "constraints" in search:
        assert any(trial.feasible is False for trial in engine.trials.values())
