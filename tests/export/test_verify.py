"""`export --verify` on the command line: trains what was exported and says whether the claim stands."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from bpkd_search import Leaderboard
from bpkd_search.export.claimed_score import claim_of
from tests.cli.test_cli import write
from tests.cluster.test_confirm import Confirmation, Trial, confirmed, search
from tests.driving import curve, drive


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def test_a_confirmed_setting_is_trained_with_a_fresh_seed_as_train_does(
    call, tiny: dict[str, Any], tmp_path: Path, scratch: Path
) -> None:
    tiny["train"]["epochs"] = 1
    folder = search(tmp_path / "exp", tiny)
    confirmed(folder, 1, 2)  # made-up scores, far above what this student learns
    code, out, err = call(
        "export", folder, "--out", tmp_path / "best", "--format", "json", "--format", "yaml", "--verify"
    )
    path, _, verdict = out.splitlines()
    claim = claim_of(yaml.safe_load(Path(path).read_text())["provenance"], "test")
    assert set(Leaderboard(folder).confirm()["seed"]) == {1, 2} and claim.seed == 3
    assert f"{path}: claimed miou {claim.low:.4f} to {claim.high:.4f} (95 % prediction interval" in verdict
    call("train", path, "--out", tmp_path / "again", "--set", "train.seed=3")
    got = yaml.safe_load((tmp_path / "again" / "metrics.json").read_text())["miou"]
    inside = claim.low <= got <= claim.high
    assert verdict.endswith(f"from 2 seeds), got {got:.4f} with seed 3: {'inside' if inside else 'outside'}")
    assert code == (0 if inside else 1)
    assert f"verify: {path} with seed 3\n" in err and "train: epoch 1/1" in err
    assert sorted(p.suffix for p in (tmp_path / "best").iterdir()) == [".json", ".yaml"]
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(("spread", "code"), [(0.0001, 1), (0.3, 0)])
def test_the_code_says_whether_the_score_lies_in_the_claimed_interval(
    call, tiny: dict[str, Any], tmp_path: Path, spread: float, code: int
) -> None:
    tiny["train"]["epochs"] = 1
    folder = search(tmp_path / "exp", tiny)

    def scattered(trial: Trial, epoch: int) -> float:
        return curve(trial, epoch) + 0.3 + spread * (trial.run.train.seed - 1.5)

    confirmation = Confirmation(folder, 1, 2)
    drive(confirmation.engine, curve=scattered)
    confirmation.engine.recorder.close()
    assert call("export", folder, "--out", tmp_path / "best")[0] == 0
    [path] = (tmp_path / "best").iterdir()
    found, out, _ = call("export", path, "--verify")
    assert (found, out.endswith("inside\n")) == (code, code == 0)


def test_a_training_that_diverges_is_outside(call, tiny: dict[str, Any], tmp_path: Path) -> None:
    run = {key: tiny[key] for key in ("data", "teacher", "student", "loss", "train")}
    run["train"]["lr"] = 1e30
    run["provenance"] = {"metric": "miou", "miou": 0.4, "seed": 0}
    code, out, _ = call("export", write(tmp_path / "run.yaml", run), "--verify")
    assert (code, out.endswith("got training that diverged with seed 0: outside\n")) == (1, True)


def test_what_cannot_be_verified_is_said_before_anything_is_written_or_trained(
    call, tiny: dict[str, Any], tmp_path: Path
) -> None:
    folder, out = search(tmp_path / "exp", tiny), tmp_path / "best"
    run = {key: tiny[key] for key in ("data", "teacher", "student", "loss", "train")}
    plain = write(tmp_path / "plain.yaml", run)
    claims = write(tmp_path / "claims.yaml", {**run, "provenance": {"metric": "miou", "miou": 0.4, "seed": 0}})
    trained = tmp_path / "trained"
    trained.mkdir()
    write(trained / "config.yaml", run)
    (trained / "metrics.json").write_text('{"miou": 0.4}')
    for arguments, said in (
        ([plain, "--verify"], f"{plain}: 1 error(s)\n  provenance: holds no score to verify"),
        ([claims], f"{claims}: is a file, which can only be verified"),
        ([claims, "--verify", "--out", out], "use --verify without --out"),
        ([folder, "--verify"], f"{folder}: needs --out, the output directory"),
        ([tmp_path / "none.yaml", "--verify"], "none.yaml: no such file or directory"),
        ([folder, "--verify", "--out", out, "--format", "json"], "--format: 1 error(s)\n  got json, must have yaml"),
        ([trained, "--verify", "--out", out], f"{trained}: 1 error(s)\n  provenance: holds no score"),
    ):
        code, told, err = call("export", *arguments)
        assert (code, told, said in err) == (2, "", True), err
        assert err.startswith("error: ") and not out.exists()
