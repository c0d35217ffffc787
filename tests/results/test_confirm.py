"""What a confirmation proves, against SciPy and against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bpkd_search import Leaderboard
from bpkd_search.errors import ConfigError, ExperimentError
from bpkd_search.experiment.schema import confirm_schema
from bpkd_search.experiment.tables import ChunkedTable
from bpkd_search.results.confirm import interval, summarise
from bpkd_search.show.confirmation import show_confirmation
from tests.experiments import make

Scores = Mapping[str, Sequence[float | None]]
METHODS = {"ce": 0, "kd": 1, "cwd": 2, "bpkd-paper": 3}


def rows_of(scores: Scores, test: float | None = None) -> pd.DataFrame:
    """Rows of `confirm`: scores of a setting by seed, None for a run that failed; other names are searched trials."""
    rows = []
    for name, values in scores.items():
        number = METHODS.get(name, 0) if name in METHODS else int(name)
        for seed, value in enumerate(values, 1):
            row = {"experiment": "exp", "number": number, "seed": seed, "run": len(rows), "origin": "baseline"}
            row |= {"method": name, "state": "COMPLETE", "miou": value, "epochs": 4, "gpu_seconds": 8.0}
            row |= {} if name in METHODS else {"method": "bpkd", "origin": "sampled", "loss.edge_width": 5}
            row |= {"state": "FAILED", "reason": "nan"} if value is None else {}
            row |= {} if test is None or value is None else {"test_miou": value - test}
            rows.append(row)
    return pd.DataFrame(rows).assign(miou=lambda f: f["miou"].astype(float))


def write(folder: Path, rows: pd.DataFrame) -> Leaderboard:
    make(folder, [{"curve": [0.3]}] * 6)
    table = ChunkedTable(folder / "confirm", confirm_schema({"loss.edge_width": "int", "loss.edge_weight": "float"}), 9)
    records = rows.astype(object).where(rows.notna(), None).to_dict("records")
    for number, row in enumerate(records):
        table.put(number, {str(key): value for key, value in row.items()})
    table.flush()
    return Leaderboard(folder)


CLEAR: Scores = {
    "ce": [0.30, 0.31, 0.29], "kd": [0.33, 0.35, 0.32], "cwd": [0.32, 0.33, 0.33], "bpkd-paper": [0.28, 0.30, 0.265],
    "4": [0.40, 0.415, 0.39], "5": [0.34, 0.33, 0.36],
}  # fmt: skip


def test_the_interval_is_students() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.02, 5)
    expected = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert interval(values) == pytest.approx((values.mean(), *expected), abs=1e-12)
    # By hand: mean 2, standard deviation 1, t of 2 degrees of freedom 4.302653.
    assert interval(np.array([1.0, 2, 3])) == pytest.approx((2, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)
    assert np.isnan(interval(np.array([0.4]))[1:]).all()


def test_means_and_paired_differences_are_those_of_scipy() -> None:
    table = summarise(rows_of(CLEAR), "miou").set_index("number")
    assert table.index.tolist() == [4, 5, 1, 2, 0, 3]  # by mean
    for number, name in enumerate(CLEAR):
        mine = CLEAR[name]
        low, high = stats.t.interval(0.95, 2, loc=np.mean(mine), scale=stats.sem(mine))
        assert table.loc[number, ["mean", "low", "high"]].tolist() == pytest.approx([np.mean(mine), low, high])
        for reference, column in (("bpkd-paper", "vs_paper"), ("kd", "vs_plain")):
            found = table.loc[number, [column, f"{column}_low", f"{column}_high"]].tolist()
            if name == reference:
                assert np.isnan(found).all()
                continue
            paired = stats.ttest_rel(mine, CLEAR[reference])
            ends = paired.confidence_interval(0.95)
            gain = np.mean(np.subtract(mine, CLEAR[reference]))
            assert found == pytest.approx([gain, ends.low, ends.high])


def test_a_clear_winner_is_named() -> None:
    table = summarise(rows_of(CLEAR), "miou")
    assert table.attrs["winner"] == 4
    assert (table.attrs["paper"], table.attrs["plain"]) == (3, 1)
    verdict = table.attrs["verdict"]
    assert verdict.startswith("Winner: trial 4 (bpkd), miou 0.4017 [0.3704, 0.4329] over 3 seeds, is better than")
    assert "is better than bpkd-paper (+0.1200 [" in verdict
    assert "is better than kd, the best plain baseline (+0.0683 [" in verdict


def test_the_verdict_is_wider_the_more_settings_compete() -> None:
    """A lead that one setting shows beyond noise is no proof in the best of twelve."""
    rng = np.random.default_rng(3)
    kd, lead = np.array([0.33, 0.35, 0.32, 0.34]), np.array([0.012, 0.02, 0.009, 0.015])
    alone = {"kd": kd.tolist(), "bpkd-paper": (kd - 0.1).tolist(), "4": (kd + lead).tolist()}
    others = {str(n): (kd + rng.normal(-0.02, 0.01, 4)).tolist() for n in range(5, 16)}
    assert summarise(rows_of(alone), "miou").attrs["winner"] == 4
    crowded = summarise(rows_of({**alone, **others}), "miou")
    assert crowded.attrs["winner"] is None
    assert "trial 4 (bpkd)" in crowded.attrs["verdict"]


@pytest.mark.parametrize(
    ("searched", "said"),
    [
        ([0.36, 0.34, 0.33], "cannot be told from kd"),  # a little better by mean
        ([0.23, 0.25, 0.22], "is worse than kd"),  # always 0.1 below
    ],
)
def test_without_a_lead_beyond_noise_there_is_no_winner(searched: list[float], said: str) -> None:
    table = summarise(rows_of({**CLEAR, "4": searched, "5": [0.2, 0.2, 0.2]}), "miou")
    assert table.attrs["winner"] is None
    assert table.attrs["verdict"].startswith("No winner beyond noise: trial 4 (bpkd), miou")
    assert said in table.attrs["verdict"]


def test_the_plain_baseline_to_beat_is_the_best_of_all_three() -> None:
    """Ahead of kd and cwd without ambiguity, and yet no better than no distillation at all."""
    table = summarise(rows_of({**CLEAR, "ce": [0.41, 0.42, 0.40]}), "miou")
    assert table.attrs["plain"] == 0
    assert table.attrs["winner"] is None


def test_a_setting_that_failed_once_is_no_winner_and_a_failed_run_is_the_worst() -> None:
    table = summarise(rows_of({**CLEAR, "4": [0.40, None, 0.385]}), "miou").set_index("number")
    assert table.loc[4, ["seeds", "failed"]].tolist() == [2, 1]
    assert table.loc[4, "mean"] == pytest.approx(0.3925)
    # Differences over the seeds that both have.
    ends = stats.ttest_rel([0.40, 0.385], [0.33, 0.32]).confidence_interval(0.95)
    assert table.loc[4, ["vs_plain_low", "vs_plain_high"]].tolist() == pytest.approx([ends.low, ends.high])
    assert table.attrs["verdict"].startswith("No winner beyond noise: trial 5")
    assert table.loc[4, "p_best"] == 0


def test_settings_that_cannot_be_compared() -> None:
    alone = summarise(rows_of({"4": [0.4, 0.4]}), "miou")
    assert alone.attrs["verdict"].startswith("No winner: no baseline ran in full to compare trial 4 (bpkd)")
    failed = summarise(rows_of({"kd": [0.4, 0.4], "4": [None, None]}), "miou")
    assert failed.attrs["verdict"] == "No winner: no searched setting ran in full with every seed."
    one = summarise(rows_of({"kd": [0.3, 0.4], "4": [0.9]}), "miou")
    assert one.attrs["winner"] is None  # a single shared seed has no interval


def test_the_best_of_twenty_equal_settings_is_seldom_named_a_winner() -> None:
    """The leader of many is ahead by luck, which intervals for one setting do not know."""
    rng, named = np.random.default_rng(1), 0
    for _ in range(15):
        draw = {name: rng.normal(0.5, 0.02, 10).tolist() for name in ("bpkd-paper", *map(str, range(4, 24)))}
        table = summarise(rows_of({"kd": [0.1] * 10, **draw}), "miou")
        named += table.attrs["winner"] is not None
    assert named <= 2


def test_rows_are_read_and_summed_up_from_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(CLEAR, test=0.05)
    board = write(tmp_path / "exp", rows)
    frame = board.confirm()
    assert frame["seed"].is_monotonic_increasing and len(frame) == 18
    plain = pd.read_parquet(tmp_path / "exp" / "confirm")
    assert plain["miou"].tolist() == rows["miou"].tolist()
    assert plain["loss.edge_width"].dropna().tolist() == [5.0] * 6
    assert board.columns("confirm").loc["seed", "meaning"].startswith("training seed")
    pd.testing.assert_frame_equal(board.winner(), summarise(rows, "miou"))
    show_confirmation(board)
    out = capsys.readouterr().out
    for said in ("trial 4 (bpkd)", "[+0.0612, +0.0755]", "Winner: trial 4", "test_miou:", "nothing was chosen on it"):
        assert said in out
    assert "0.3000" in out  # what each scored in the search


def test_on_the_held_out_split_nothing_is_chosen(tmp_path: Path) -> None:
    """There trial 5 and cwd are best, but trial 4 and kd were chosen before."""
    rows = rows_of(CLEAR, test=0.0)
    rows.loc[rows["number"].isin([2, 5]), "test_miou"] += 0.5
    board = write(tmp_path / "exp", rows)
    held_out = board.winner("test_miou")
    assert held_out["number"].tolist() == board.winner()["number"].tolist()
    assert held_out.attrs["plain"] == 1
    assert held_out.attrs["verdict"].startswith("Winner: trial 4 (bpkd), test_miou 0.4017")
    assert held_out.set_index("number").loc[5, "mean"] == pytest.approx(0.5 + np.mean(CLEAR["5"]))


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    unconfirmed = make(tmp_path / "new", [{"curve": [0.3]}])
    with pytest.raises(ExperimentError, match="is not confirmed yet; run `bpkd-search confirm`"):
        Leaderboard(unconfirmed).winner()
    board = write(tmp_path / "exp", rows_of(CLEAR))
    with pytest.raises(ExperimentError, match="has no confirmed test_miou yet"):
        board.winner("test_miou")
    with pytest.raises(ConfigError, match="got 'mious', valid: miou"):
        board.winner("mious")
    both = Leaderboard([tmp_path / "exp", unconfirmed])
    assert len(both.confirm()) == 18
    with pytest.raises(ExperimentError, match="one by one"):
        both.winner()
