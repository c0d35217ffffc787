"""The model of a space: encoding, forecasts from early reports, predictions, proposals, stops, resume and replay."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from bpkd_search.config import SearchConfig
from bpkd_search.config.distributions import distance, quantile
from bpkd_search.config.load import parse
from bpkd_search.config.points import to_tree
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.backends import CurveBackend, TableBackend
from bpkd_search.search.engine import Engine
from bpkd_search.search.proposals import Candidates
from bpkd_search.search.replay import replay
from bpkd_search.search.simulate import simulate, simulate_search
from bpkd_search.surrogate.encoding import Encoding
from bpkd_search.surrogate.forecast import Ended, Forecast, Forecasts
from bpkd_search.surrogate.gaussian_process import Surrogate, fit_kernel, prior_kernel
from bpkd_search.surrogate.model import Model
from tests.driving import drive

TABLES = Path(__file__).parents[2] / "runners" / "bench" / "tables"


def config_of(tiny: dict[str, Any], trials: int = 16, **search: Any) -> SearchConfig:
    tree = deepcopy(tiny)
    model = {"sampler": {"name": "model"}, "scheduler": {"name": "model"}, "trials": trials}
    tree["search"] = {**tree["search"], **model, **search}
    tree["train"]["epochs"] = 8
    return parse(SearchConfig, tree, "test")


def space_of(space: dict[str, Any], tiny: dict[str, Any]) -> Any:
    return parse(SearchConfig, {**deepcopy(tiny), "space": space}, "test").space


def test_an_encoded_range_is_a_share_and_a_choice_has_a_place_for_each_option(tiny: dict[str, Any]) -> None:
    space = space_of(
        {
            "loss.method": {"choice": ["bpkd", "kd"]},
            "loss.edge_weight": {"float": [0.01, 100], "log": True, "when": {"loss.method": "bpkd"}},
            "loss.weight": {"float": [1, 3], "when": {"loss.method": "kd"}},
        },
        tiny,
    )
    points = [{"loss.method": "bpkd", "loss.edge_weight": 10.0}, {"loss.method": "kd", "loss.weight": 1.0}]
    encoding = Encoding(space)
    half = 0.5**0.5
    np.testing.assert_allclose(encoding.vectors(points), [[half, 0, 0.25, 0], [0, half, 0, -0.5]])
    assert encoding.width == 4


def test_a_forecast_is_as_sure_as_its_leave_one_out_error() -> None:
    random = np.random.default_rng(0)
    early = random.normal(size=(12, 3))
    final = 0.3 + 0.02 * early[:, 0] + 0.001 * random.normal(size=12)
    forecast = Forecast(early, final, np.zeros(12))
    scaled = (early - early.mean(0)) / early.std(0)
    errors = []
    for strength in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0):
        held_out = cross_val_predict(Ridge(strength), scaled, final, cv=LeaveOneOut())
        errors.append(np.sqrt(np.mean((held_out - final) ** 2)))
    assert forecast.error == pytest.approx(min(errors), rel=1e-6)
    message = forecast.message(np.array([1.0, 0.0, 0.0]))
    assert message is not None
    assert message.value == pytest.approx(0.32, abs=0.004)
    assert message.variance < np.var(final)


def test_reports_that_say_nothing_give_no_message() -> None:
    random = np.random.default_rng(1)
    forecast = Forecast(np.ones((10, 2)), random.normal(size=10), np.zeros(10))
    assert forecast.message(np.ones(2)) is None


def test_forecasts_count_stopped_trials_so_that_they_are_not_those_of_survivors() -> None:
    """Half of what is seen at epoch 1 lasts to epoch 2, and all of that to the end; the worse half is stopped at 2."""
    random = np.random.default_rng(4)
    first = random.normal(size=400)
    second = 0.5 * first + random.normal(size=400)
    ended = [Ended({1: {"miou": a}, 2: {"miou": b}}, b if b > 0 else None) for a, b in zip(first, second, strict=True)]
    survivors = [trial for trial in ended if trial.value is not None]

    def slope(trials: list[Ended]) -> float:
        forecasts = Forecasts(trials, ["miou"])
        high, low = (forecasts.at({1: {"miou": value}}) for value in (1.0, -1.0))
        assert high is not None and low is not None
        return (high.value - low.value) / 2

    assert slope(ended) == pytest.approx(0.5, abs=0.1)
    assert slope(survivors) < 0.35


def test_forecasts_of_one_epoch_are_wrong_together() -> None:
    """The posterior is that of a process over points and epochs whose early values correlate with the ends by `rho`."""
    random = np.random.default_rng(5)
    vectors, rho = random.random((7, 2)) - 0.5, 0.6
    values = random.normal(size=7)
    early = np.arange(7) < 4
    kernel = prior_kernel(2)
    signal, noise = kernel.k1, float(kernel.k2.noise_level)
    total = float(signal.k1.constant_value) + noise
    scale = np.array([-1.0, 1.0])  # mean 0, deviation 1
    variance = np.where(early, total * (1 / rho**2 - 1), 0.0)
    points = random.random((3, 2)) - 0.5
    found = Surrogate(kernel, vectors, values / np.where(early, rho, 1.0), variance, scale).predict(points)
    epochs = np.where(early[:, None] == early[None], 1.0, rho)
    covariance = signal(vectors) * epochs + noise * np.eye(7)
    across = signal(points, vectors) * np.where(early, rho, 1.0)
    np.testing.assert_allclose(found.mean, across @ np.linalg.solve(covariance, values), atol=1e-6)
    known = np.einsum("ij,ji->i", across, np.linalg.solve(covariance, across.T))
    np.testing.assert_allclose(found.deviation, np.sqrt(signal.diag(points) - known), atol=1e-6)


def test_the_lead_of_a_trial_is_the_share_of_joint_draws_in_which_it_is_ahead(tiny: dict[str, Any]) -> None:
    model = Model(config_of(tiny).space)
    random = np.random.default_rng(6)
    for number in range(8):
        model.asked(
            number, {"loss.edge_width": 3, "loss.edge_weight": 10 ** random.uniform(-1, 1), "loss.body_weight": 1.0}
        )
        model.ended(number, 0.3 + 0.02 * random.normal() if number else None)
    numbers = list(range(8))
    means, covariance = model.together(numbers)
    leader = 1 + int(np.argmax(means[1:]))
    draws = random.multivariate_normal(means, covariance, size=200_000, method="eigh")
    assert model.lead(0) == pytest.approx(float((draws[:, 0] > draws[:, leader]).mean()), abs=0.005)


def test_candidates_are_the_third_of_random_points_that_is_farthest_from_all_that_was_tried(
    tiny: dict[str, Any],
) -> None:
    config = config_of(tiny)
    space = config.space
    model, random = Model(space), np.random.default_rng(7)
    candidates = Candidates(space, to_tree(config.run()))
    for number in range(12):
        model.asked(number, candidates.anywhere(random))
        model.ended(number, 0.3 + 0.01 * random.normal())
    drawn = candidates.drawn(model, np.random.default_rng(8))
    again = np.random.default_rng(8)
    points = [candidates.anywhere(again) for _ in range(3 * len(drawn))]

    def away(point: dict[str, Any]) -> float:
        return min(
            sum(distance(space[path], point[path], evidence.point[path]) ** 2 for path in space)
            for evidence in model.evidence.values()
        )

    farthest = sorted(points, key=away)[-len(drawn) :]
    assert len(drawn) == candidates.count(model) > 2
    assert sorted(point["loss.edge_weight"] for point in drawn) == sorted(p["loss.edge_weight"] for p in farthest)


def test_points_are_compared_at_the_last_epoch_that_enough_trials_have_come_to(tiny: dict[str, Any]) -> None:
    space = config_of(tiny).space
    model, weight = Model(space, early="miou", rounds=8), space["loss.edge_weight"]
    points = [{"loss.edge_weight": quantile(weight, number / 6)} for number in range(6)]
    for number, point in enumerate(points):
        model.asked(number, point)
        for epoch in range(1, 5 if number < 4 else 3):
            model.reported(number, epoch, {"miou": 0.1 * number + 0.01 * epoch})
    assert (model.horizon(), model.known(), model.ready, model.can_propose) == (4, [0, 1, 2, 3], False, True)
    assert (np.diff(model.predict(points[:4]).mean) > 0).all()
    for number in range(4):
        model.ended(number, 0.3 - 0.1 * number)
    assert (model.horizon(), model.known(), model.ready) == (None, [0, 1, 2, 3], True)


def test_a_model_that_cannot_be_fitted_proposes_at_random_and_says_so_once(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def impossible(*_: Any) -> Any:
        raise np.linalg.LinAlgError("not positive definite")

    monkeypatch.setattr("bpkd_search.surrogate.model.Surrogate", impossible)
    config = config_of(tiny, 16)
    outcome = simulate_search(config, CurveBackend(config), slots=3)
    assert set(outcome.engine.states.values()) == {"COMPLETE"} and len(outcome.engine.states) == 16
    assert [note for note in outcome.engine.notes if "cannot be fitted" in note] == [
        "the model cannot be fitted (not positive definite): points are random and no trial is stopped while that lasts"
    ]


def test_held_out_predictions_are_those_of_processes_without_the_trial() -> None:
    random = np.random.default_rng(2)
    vectors = random.random((9, 2)) - 0.5
    values = 0.4 - vectors[:, 0] ** 2 + 0.01 * random.normal(size=9)
    kernel = fit_kernel(vectors, values, np.zeros(9), values)
    whole = Surrogate(kernel, vectors, values, np.zeros(9), values)
    for left_out in range(9):
        rest = np.arange(9) != left_out
        without = Surrogate(kernel, vectors[rest], values[rest], np.zeros(8), values)
        mean, deviation = without.predict(vectors[[left_out]])
        assert whole.held_out.mean[left_out] == pytest.approx(mean[0], abs=1e-8)
        assert whole.held_out.deviation[left_out] == pytest.approx(np.hypot(deviation[0], whole.noise), abs=1e-8)


def test_replicates_tell_noise_from_signal() -> None:
    random = np.random.default_rng(3)
    vectors = np.repeat(random.random((10, 2)) - 0.5, 3, axis=0)
    values = vectors[:, 0] + 0.1 * random.normal(size=30)
    kernel = fit_kernel(vectors, values, np.zeros(30), values)
    surrogate = Surrogate(kernel, vectors, values, np.zeros(30), values)
    assert surrogate.noise == pytest.approx(0.1, rel=0.5)


@pytest.mark.parametrize("values", [[0.3, 0.3, 0.3, 0.3, 0.3], [0.3, float("nan"), 0.4, 0.35, 0.31, 0.2]])
def test_equal_and_undefined_values_end_nothing(tiny: dict[str, Any], values: list[float]) -> None:
    model = Model(config_of(tiny).space)
    for number, value in enumerate(values):
        model.asked(number, {"loss.edge_width": 3, "loss.edge_weight": 1.0 + number, "loss.body_weight": 1.0})
        model.ended(number, value)
    assert model.ready
    assert np.isfinite(model.estimate(model.full())).all()


def test_the_model_ranks_recorded_settings_that_it_was_not_told_of() -> None:
    table = pd.read_parquet(TABLES / "scenes.parquet")
    config = parse(SearchConfig, experiment_of("scenes"), "scenes")
    last = table[table["epoch"] == table["epoch"].max()]
    means = last.groupby("setting")["miou"].mean()
    points = last.groupby("setting")[list(config.space)].first().to_dict("index")
    model = Model(config.space)
    for setting in range(0, 64, 2):
        model.asked(setting, {str(k): v for k, v in points[setting].items()})
        model.ended(setting, float(last[(last["setting"] == setting) & (last["seed"] == 0)]["miou"].iloc[0]))
    others = range(1, 64, 2)
    predicted = model.predict([{str(k): v for k, v in points[s].items()} for s in others]).mean
    assert pd.Series(predicted).corr(pd.Series(means.loc[list(others)].to_numpy()), method="spearman") > 0.5


def experiment_of(name: str) -> dict[str, Any]:
    from bpkd_search.config.load import read_yaml

    return dict(read_yaml(TABLES / f"{name}.yaml"))


def test_a_modelled_search_stops_trials_replays_and_resumes_exactly(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny, 20)
    experiment.create(tmp_path / "e", config)
    engine = Engine(config, tmp_path / "e", "test")
    drive(engine)
    assert engine.done
    assert "PRUNED" in engine.states.values()
    count, differences = replay(tmp_path / "e")
    assert (count, differences) == (24, [])
    again = Engine(config, tmp_path / "e", "test")
    assert again.learned is not None and engine.learned is not None
    numbers = engine.learned.models[0].full()
    assert again.learned.models[0].full() == numbers
    np.testing.assert_array_equal(
        again.learned.models[0].estimate(numbers).mean, engine.learned.models[0].estimate(numbers).mean
    )


def test_a_driver_that_died_before_it_could_end_a_stopped_trial_ends_it(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny, 20)
    experiment.create(tmp_path / "whole", config)
    stops: list[bool] = []
    whole = Engine(
        config, tmp_path / "whole", "test", lambda event, trial: stops.append(trial.stop) if event == "report" else None
    )
    drive(whole, slots=1)
    cuts = [count for count, stop in enumerate(stops, 1) if stop]
    assert len(cuts) >= 3
    for cut in cuts[:3]:
        experiment.create(tmp_path / str(cut), config)
        engine = Engine(config, tmp_path / str(cut), "test")
        drive(engine, slots=1, stop_after=cut)
        engine.recorder.close()
        again = Engine(config, tmp_path / str(cut), "test")
        drive(again, slots=1)
        again.recorder.close()
        assert again.states == whole.states
        assert [t.reports.keys() for t in again.trials.values()] == [t.reports.keys() for t in whole.trials.values()]
        assert replay(tmp_path / str(cut)) == (24, [])


def test_what_the_model_has_heard_of_does_not_depend_on_when_it_was_asked_before(tiny: dict[str, Any]) -> None:
    def told(asked_early: bool) -> Model:
        model = Model(config_of(tiny).space, ("miou",), early="miou", rounds=4)
        for number in range(6):
            model.asked(number, {"loss.edge_width": 3, "loss.edge_weight": 1.0 + number, "loss.body_weight": 1.0})
            if number < 5:
                model.reported(number, 1, {"miou": 0.3 + 0.01 * number})
            if asked_early and model.can_propose:
                model.silent()
        model.reported(5, 1, {"miou": 0.3})
        return model

    # Without a fit before, as after a restart, and with one from before the last report.
    assert told(False).can_propose
    assert len(told(False).silent()) == len(told(True).silent()) == 0


def test_no_trial_is_stopped_in_its_first_half_or_before_eight_have_run_in_full(tiny: dict[str, Any]) -> None:
    config = config_of(tiny, 32)
    ended: list[tuple[str, int]] = []

    def listen(event: str, trial: Trial) -> None:
        if event == "end":
            ended.append((trial.state, trial.epoch))

    simulate_search(config, CurveBackend(config), slots=3, listen=listen)
    states = [state for state, _ in ended]
    first = states.index("PRUNED")
    assert states[:first].count("COMPLETE") >= 8
    assert min(epoch for _, epoch in ended) >= 4


def test_several_objectives_constraints_and_conditions_run_to_the_end(tiny: dict[str, Any]) -> None:
    tree = {
        "space": {
            "loss.method": {"choice": ["bpkd", "kd"]},
            "loss.edge_weight": {"float": [0.01, 100], "log": True, "when": {"loss.method": "bpkd"}},
            "loss.weight": {"float": [0.1, 30], "log": True, "when": {"loss.method": "kd"}},
        }
    }
    several = config_of({**deepcopy(tiny), **tree}, 14, objectives={"miou": "max", "gpu_seconds": "min"})
    limited = config_of({**deepcopy(tiny), **tree}, 14, constraints=["edge_miou >= 0.1"])
    for config in (several, limited):
        outcome = simulate_search(config, CurveBackend(config), slots=3)
        assert len(outcome.engine.states) == 14
        assert set(outcome.engine.states.values()) <= {"COMPLETE", "PRUNED"}


def test_a_table_of_several_seeds_knows_the_mean_and_gives_replicates_another_seed() -> None:
    table = pd.read_parquet(TABLES / "methods.parquet")
    config = parse(SearchConfig, experiment_of("methods"), "methods")
    backend = TableBackend(table, config)
    last = table[table["epoch"] == table["epoch"].max()]
    assert backend.best("miou") == pytest.approx(last.groupby("setting")["miou"].mean().max())
    outcome = simulate_search(config_with_trials(config, 4), backend, slots=2)
    trial = outcome.engine.trials[0]
    drawn = []
    for seed in range(3):
        run = trial.run.model_copy(update={"train": trial.run.train.model_copy(update={"seed": seed})})
        trial.run = run
        drawn.append(backend.report(trial, 8)["miou"])
        others = 3 * backend.mean(backend.nearest(trial), "miou") - drawn[-1]
        assert backend.unseen(trial, "miou") == pytest.approx(others / 2)
    assert sorted(drawn) == sorted(last[last["setting"] == backend.nearest(trial)]["miou"])


def test_simulated_strategies_report_regret_in_true_mean() -> None:
    config = config_with_trials(parse(SearchConfig, experiment_of("scenes"), "scenes"), 12)
    rows, _ = simulate(config, TABLES / "scenes.parquet", [("model", "model")], seeds=2, slots=4)
    assert (rows["regret"] >= 0).all() and (rows["regret_of_best_score"] >= 0).all()
    assert rows["gpu_seconds"].iloc[0] > 0


def config_with_trials(config: SearchConfig, trials: int) -> SearchConfig:
    return config.model_copy(update={"search": config.search.model_copy(update={"trials": trials})})
