"""What an exported setting claims: intervals against SciPy and by simulation, and where they come from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from bpkd_search import Leaderboard
from bpkd_search.cluster.confirm import Confirmation
from bpkd_search.errors import ConfigError
from bpkd_search.export.claimed_score import TOLERANCE, claim_of, confirmations
from bpkd_search.export.write import export
from bpkd_search.report.sections import headline
from bpkd_search.results.confirm import prediction
from tests.cluster.test_confirm import confirmed as confirm_settings
from tests.cluster.test_confirm import search
from tests.driving import drive


@pytest.fixture
def confirmed(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """A search whose two best settings and baselines ran again with seeds 1, 2 and 3."""
    folder = search(tmp_path / "exp", tiny)
    confirm_settings(folder, 2, 3)
    (folder / "experiment.json").write_text(json.dumps({"commit": "abc123+changes"}))
    return folder


def test_the_prediction_interval_is_students() -> None:
    # By hand: mean 2, standard deviation 1, t of 2 degrees of freedom 4.302653, sqrt(1 + 1/3).
    half = 4.302653 * (4 / 3) ** 0.5
    assert prediction(np.array([1.0, 2, 3])) == pytest.approx((2 - half, 2 + half), abs=1e-6)
    assert np.isnan(prediction(np.array([0.4]))).all()


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_the_prediction_interval_holds_the_next_run_in_95_of_100_cases(seeds: int) -> None:
    runs = np.random.default_rng(0).normal(0.4, 0.02, (4000, seeds + 1))
    ends = np.array([prediction(row[:-1]) for row in runs])
    assert np.mean((ends[:, 0] <= runs[:, -1]) & (runs[:, -1] <= ends[:, 1])) == pytest.approx(0.95, abs=0.012)


def test_a_confirmed_setting_carries_its_mean_its_intervals_and_the_commit(confirmed: Path, tmp_path: Path) -> None:
    files = export(confirmed, tmp_path / "out", 12, ["yaml", "json", "card", "mmseg"])
    rows = Leaderboard(confirmed).confirm()
    stated = 0
    for path in (path for path in files if path.suffix == ".yaml"):
        about = yaml.safe_load(path.read_text())["provenance"]
        assert about == json.loads(path.with_suffix(".json").read_text())["provenance"]
        assert (about["metric"], about["commit"]) == ("miou", "abc123+changes")
        texts = [path.read_text(), *(path.with_suffix(suffix).read_text() for suffix in (".md", ".mmseg.py"))]
        assert "| commit | abc123+changes |" in texts[1]
        scores = rows[rows["number"] == about["trial"]]["miou"].to_numpy()
        if not len(scores):
            assert "confirmed" not in about
            assert all("Confirmed over" not in text and "one seed" in text for text in texts)
            continue
        stated += 1
        low, high = stats.t.interval(0.95, 2, loc=scores.mean(), scale=stats.sem(scores))
        half = stats.t.ppf(0.975, 2) * scores.std(ddof=1) * np.sqrt(1 + 1 / 3)
        found = about["confirmed"]
        assert (found.pop("seeds"), found.pop("failed")) == ([1, 2, 3], 0)
        assert list(found) == ["mean", "low", "high", "run_low", "run_high"]
        expected = (scores.mean(), low, high, scores.mean() - half, scores.mean() + half)
        assert tuple(found.values()) == pytest.approx(expected, abs=1e-6)
        said = f"Confirmed over 3 fresh seeds: mean miou {scores.mean():.4f}, 95 % interval [{low:.4f}, {high:.4f}]"
        assert all(said in text.replace("\\", "") for text in texts)
    assert stated == 6  # two settings and four baselines


def test_one_trial_and_the_report_show_the_commit(call, confirmed: Path) -> None:
    assert re.search(r"\n  commit +abc123\+changes\n", call("show", confirmed)[1])
    board = Leaderboard(confirmed)
    facts, _ = headline(board, board.with_estimates(board.trials()))
    assert facts[-1] == "commit abc123+changes"
    (confirmed / "experiment.json").unlink()
    assert "commit" not in call("show", confirmed)[1]


def test_a_failed_run_is_counted_and_one_seed_proves_nothing(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = search(tmp_path / "exp", tiny)
    for seeds, expected in ((2, None), (3, 1)):
        confirmation = Confirmation(folder, 1, seeds)
        if seeds == 2:
            trial = confirmation.engine.ask()
            assert trial is not None
            confirmation.engine.end(trial.number, ("nan", "loss is not finite"))
        drive(confirmation.engine)
        confirmation.engine.recorder.close()
        found = confirmations(Leaderboard(folder)).get(0)
        assert (found and found.failed) == expected
        assert len(confirmations(Leaderboard(folder))) == (4 if seeds == 2 else 5)


def test_the_claim_is_the_prediction_interval_with_a_fresh_seed_or_the_score_with_its_own() -> None:
    about: dict[str, Any] = {"metric": "edge_miou", "edge_miou": 0.4, "seed": 0}
    claim = claim_of(about, "f")
    assert (claim.metric, claim.seed) == ("edge_miou", 0)
    assert (claim.low, claim.high) == pytest.approx((0.4 - TOLERANCE, 0.4 + TOLERANCE))
    ends = {"mean": 0.42, "low": 0.41, "high": 0.43, "run_low": 0.35, "run_high": 0.49}
    claim = claim_of({**about, "confirmed": {"seeds": [1, 2, 4], "failed": 0, **ends}}, "f")
    assert (claim.low, claim.high, claim.seed) == (0.35, 0.49, 3)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (None, "provenance: holds no score to verify"),
        ({"metric": "miou", "seed": 0}, "holds no score"),
        ({"metric": "miou", "miou": "high", "seed": 0}, "holds no score"),
        ({"metric": "x\nimport os", "x\nimport os": 0.5, "seed": 0}, "holds no score"),
        (
            {"metric": "miou", "miou": 0.4, "seed": 0, "confirmed": {"mean": 0.4}},
            r"provenance.confirmed: got .* must hold",
        ),
        (
            {"metric": "miou", "miou": 0.4, "seed": 0, "confirmed": []},
            r"provenance.confirmed: got \[\], must hold seeds",
        ),
    ],
)
def test_a_damaged_claim_says_what_belongs_there(about: dict[str, Any] | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        claim_of(about, "f")
