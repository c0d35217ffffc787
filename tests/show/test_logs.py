"""What `logs` prints of a trial: its events in order, the tracebacks between them, and nothing that moves a cursor."""

from __future__ import annotations

from pathlib import Path

from bpkd_search.experiment.paths import trial_log
from tests.experiments import make


def test_following_a_trial_ends_when_nobody_runs_the_search(call, tmp_path: Path) -> None:
    folder = make(tmp_path / "e", [{"curve": [0.1, 0.2], "state": "RUNNING", "point": {"loss.edge_width": 5}}])
    code, printed, _ = call("logs", folder, "0", "--follow")
    *events, last = printed.splitlines()
    assert code == 0 and last == f"nobody runs this search now; the trial goes on with: bpkd-search resume {folder}"
    assert [line[20:] for line in events] == [
        "bpkd (sampled), seed 0: loss.edge_width=5",
        "epoch 1: miou 0.1000, loss 1.0000, 10 s",
        "epoch 2: miou 0.2000, loss 1.0000, 20 s",
    ]
    assert call("logs", folder, "0")[1].splitlines() == events


def test_failures_are_told_in_full_and_codes_are_not_printed(call, tmp_path: Path) -> None:
    folder = make(tmp_path / "e", [{"curve": [0.1], "state": "FAILED", "reason": "nan"}])
    log = trial_log(folder, 0)
    log.parent.mkdir(parents=True)
    log.write_text("2020-01-01T00:00:00.000+00:00 trial 0 on a, process 1\nTraceback:\n  \x1b]0;x\x07Diverged: loss\n")
    code, printed, _ = call("logs", folder, "0", "--follow")
    first, *traceback, asked, report, end = printed.splitlines()
    assert code == 0 and first == "2020-01-01 00:00:00 trial 0 on a, process 1"
    assert traceback[0] == "Traceback:" and traceback[1].endswith("Diverged: loss")
    assert end[20:].startswith("FAILED (nan): a <b>message</b> ") and "epoch 1" in report and "seed 0" in asked
    assert "\x1b" not in printed and "\x07" not in printed


def test_a_trial_that_is_not_there_is_refused(call, tmp_path: Path) -> None:
    folder = make(tmp_path / "e", [{"curve": [0.1]}])
    assert call("logs", folder, "7", "--follow")[::2] == (2, f"error: {folder}: has no trial 7; valid: 0 to 0\n")
