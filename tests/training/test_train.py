"""One run in a folder: which unfinished runs are continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bpkd_search.config import RunConfig
from bpkd_search.config.load import parse
from bpkd_search.errors import ExperimentError
from bpkd_search.training.distill import Distillation
from bpkd_search.training.train import train


def test_an_unfinished_run_is_continued_however_its_configuration_was_written(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {key: tiny[key] for key in ("data", "teacher", "student", "loss")}
    tree["train"] = {**tiny["train"], "epochs": 2}
    run = parse(RunConfig, tree, "test")
    whole = train(run, tmp_path / "whole", lambda line: None)
    original = Distillation.train_epoch

    def cut(self: Distillation, *arguments: Any) -> dict[str, Any]:
        if self.epoch == 1:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "train_epoch", cut)
        with pytest.raises(KeyboardInterrupt):
            train(run, tmp_path / "cut", lambda line: None)
    # As earlier versions wrote it: with the blocks that are not given, in another order.
    path = tmp_path / "cut" / "config.yaml"
    written = yaml.safe_load(path.read_text())
    written["data"] = {"folder": None, **written["data"]}
    path.write_text(yaml.safe_dump(written))
    other = run.model_copy(update={"train": run.train.model_copy(update={"lr": 0.01})})
    with pytest.raises(ExperimentError, match="holds a run of another configuration"):
        train(other, tmp_path / "cut", lambda line: None)
    said: list[str] = []
    continued = train(run, tmp_path / "cut", said.append)
    assert any("resumes after epoch 1" in line for line in said)
    assert continued["miou"] == whole["miou"]
    weights = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
