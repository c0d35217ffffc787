"""Searches on Ray whose teacher is of other software."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bpkd_search.cluster.driver import run_search
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from tests.models.teachers.foreign_networks import save_segformer
from tests.training.test_finished_teachers import GIVEN, NAMES, save_logits

FUNCTION = "import torch\n\n\ndef finished(classes):\n    return torch.nn.Conv2d(3, classes, 3, stride=4, padding=1)\n"


@pytest.mark.parametrize("kind", ["huggingface", "function", "logits"])
def test_a_search_with_a_finished_teacher_ends(
    kind: str, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny["train"]["epochs"], tiny["search"] = 1, {"trials": 1, "concurrent": 1, "scheduler": {"name": "none"}}
    tiny["data"]["views_dir"] = str(tmp_path / "cache")
    if kind == "huggingface":
        pytest.importorskip("transformers")
        # Other classes in another order; the trials open it themselves, from a copy.
        save_segformer(tmp_path / "teacher", ["person", *NAMES[::-1]])
        tiny["teacher"] = {"checkpoint": "teacher", "mode": "online"}
        tiny["data"]["local_dir"] = str(tmp_path / "local")
    elif kind == "function":
        (tmp_path / "my_own_networks.py").write_text(FUNCTION)
        tiny["teacher"] = {"factory": "my_own_networks:finished", "arguments": {"classes": 8}, "mode": "maps"}
        tiny["data"]["views"] = "auto"
    else:
        save_logits(tmp_path / "teacher", tiny)
        tiny["teacher"] = {"checkpoint": "teacher"}
        tiny["data"] |= GIVEN
    board = run_search(parse(SearchConfig, tiny, "test"), tmp_path / "runs")
    trials = board.trials()
    assert set(trials["state"]) == {"COMPLETE"} and {"sampled"} < set(trials["origin"])
    assert trials["miou"].notna().all()
    # How well maps stand for the teacher is in the search's record, if there is a teacher to compare them with.
    maps = json.loads((tmp_path / "runs" / "experiment.json").read_text())["maps"]
    assert (maps is not None) == (kind == "function")
    if maps is not None:
        assert maps["crops"] >= 128 and 0 < maps["same_class"] <= 1
