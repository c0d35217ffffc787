"""The comparison of strategies on recorded tables: kept searches are not run again; rivals keep to the space."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from bpkd_search.config.points import active_part, to_tree
from bpkd_search.search.simulate import with_strategy

BENCH = Path(__file__).resolve().parents[2] / "runners" / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a benchmark as its neighbours do."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


def test_searches_are_kept_and_not_run_again(
    bench: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    compare, kept = bench("compare"), tmp_path / "kept.json"
    line = ["--tables", "scenes", "--strategies", "random + none", "model + model", "--trials", "10", "--seeds", "2"]
    compare.main([*line, "--json", str(kept)])
    first = capsys.readouterr().out
    assert [(row["strategy"], row["seed"]) for row in json.loads(kept.read_text())["searches"]] == [
        ("random + none", 0), ("model + model", 0), ("random + none", 1), ("model + model", 1),
    ]  # fmt: skip
    monkeypatch.setattr(compare.Table, "search", lambda *_: pytest.fail("a kept search was run again"))
    compare.main([*line, "--json", str(kept)])
    assert capsys.readouterr().out == first


def test_ratios_are_to_the_median_of_random_trials_in_full(bench: Callable[[str], ModuleType]) -> None:
    compare = bench("compare")
    found = pd.DataFrame(
        [
            {
                "table": "t",
                "strategy": strategy,
                "seconds_to_target": seconds,
                "regret": 0.01,
                "regret_of_best_score": 0.02,
            }
            for strategy, times in (
                ("random + none", (10, 15, 20, 30, 40)),
                ("model + model", (5, 10, 15, np.inf, np.inf)),
            )
            for seconds in times
        ]
    )
    random, model = compare.summary(found).to_dict("records")
    assert (random["ratio"], random["reached"], random["searches"]) == (1.0, 1.0, 5)
    assert (model["ratio"], model["ratio_q1"], model["ratio_q3"]) == (0.75, 0.5, np.inf)
    assert model["reached"] == pytest.approx(0.6) and model["regret"] == pytest.approx(1.0)
    (alone,) = compare.summary(found[found["strategy"] == "model + model"]).to_dict("records")
    assert np.isnan(alone["ratio"]) and alone["reached"] == pytest.approx(0.6)


def test_rays_search_takes_a_conditional_space(bench: Callable[[str], ModuleType]) -> None:
    compare, rivals = bench("compare"), bench("rivals")
    table = compare.Table("methods", 6)
    rays = rivals.Rays(with_strategy(table.config, "random", "asha", 0), table.backend.epochs, 0)
    points = [rays.ask(number) for number in range(12)]
    base = to_tree(table.config.run())
    for point in points:
        assert point == active_part(table.config.space, base, {**dict.fromkeys(table.config.space, 1), **point})
    assert len({point["loss.method"] for point in points}) > 1


def test_a_made_up_table_has_the_spreads_that_it_states_and_its_early_scores_say_less(
    bench: Callable[[str], ModuleType],
) -> None:
    compare, made_up = bench("compare"), bench("made_up")
    table = compare.Table("made up 1", 6)
    assert table.backend.epochs == made_up.EPOCHS and len(table.backend.curves) == made_up.SETTINGS
    frame = made_up.made_up(table.config.space, 1)
    scores = frame.pivot(index=["setting", "seed"], columns="epoch", values="miou")
    ends = scores[made_up.EPOCHS].unstack()
    assert ends.std(axis=1).pow(2).mean() ** 0.5 == pytest.approx(made_up.NOISE, rel=0.1)
    between = ends.mean(axis=1).var() - made_up.NOISE**2 / made_up.SEEDS
    assert between**0.5 == pytest.approx(made_up.SPREAD, rel=0.1)
    ranks = [scores[epoch].corr(scores[made_up.EPOCHS], method="spearman") for epoch in (1, 3, 6)]
    assert ranks == sorted(ranks) and ranks[0] < 0.8 < 0.9 < ranks[2]
    accuracy = frame.pivot(index=["setting", "seed"], columns="epoch", values="accuracy")
    assert accuracy[1].corr(scores[made_up.EPOCHS], method="spearman") > ranks[0] + 0.1
    assert not made_up.made_up(table.config.space, 2)["miou"].equals(frame["miou"])
    pd.testing.assert_frame_equal(made_up.made_up(table.config.space, 1), frame)
