"""Own losses that only the space of a search names are checked before anything is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.points import needs_features
from bpkd_search.errors import CheckpointError, ConfigError
from bpkd_search.training.own import check_functions
from bpkd_search.training.prepare import prepare
from bpkd_search.training.teacher import FrozenTeacher

CUSTOM = {"loss.method": "custom"}


def test_a_loss_that_only_the_space_names_is_checked_before_its_trial(
    call: Callable[..., tuple[int, str, str]],
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "lossy.py").write_text("def some(student, teacher, labels, *, ignore_index, gamma): return 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    tiny["space"] = {
        "loss.method": {"choice": ["bpkd", "custom"]},
        "loss.function": {"choice": ["lossy:some", "lossy:smoe"], "when": CUSTOM},
        "loss.arguments.gama": {"float": [0, 4], "when": CUSTOM},
    }
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(tiny))
    code, _, err = call("validate", tmp_path / "space.yaml")
    assert code == 2 and "Traceback" not in err
    assert "space.loss.function: got 'lossy:smoe', but module 'lossy' has no attribute 'smoe'" in err
    assert "loss.arguments.gama: lossy:some has no such argument; did you mean gamma?" in err


def test_a_sound_one_passes_and_its_needs_are_known(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lossy2.py").write_text("def some(student, teacher, labels, *, ignore_index, gamma): return 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    tiny["space"] = {
        "loss.method": {"choice": ["bpkd", "custom"]},
        "loss.function": {"choice": ["lossy2:some"], "when": CUSTOM},
        "loss.arguments.gamma": {"float": [0, 4], "when": CUSTOM},
    }
    search = parse(SearchConfig, tiny, "test")
    check_functions(search)
    assert not needs_features(search)
    tiny["space"]["loss.needs"] = {"choice": ["teacher logits", "teacher features"], "when": CUSTOM}
    assert needs_features(parse(SearchConfig, tiny, "test"))
    del tiny["space"]["loss.arguments.gamma"]
    with pytest.raises(ConfigError, match="gamma"):
        check_functions(parse(SearchConfig, tiny, "test"))


def test_a_loss_that_is_not_finite_at_once_is_said_before_the_teacher_is_trained(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lossy3.py").write_text(
        "def nan(student, teacher, labels, *, ignore_index): return student.mean() / 0 * 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    tiny["data"]["views_dir"] = str(tmp_path / "cache")
    tiny["loss"], lines = {"method": "custom", "function": "lossy3:nan"}, []
    del tiny["space"]["loss.edge_weight"], tiny["space"]["loss.edge_width"]
    tiny["space"]["loss.weight"] = {"float": [1, 2]}
    with pytest.raises(ConfigError, match="loss: custom is nan on the first batch"):
        prepare(parse(SearchConfig, tiny, "test").run(), lines.append)
    assert not any("teacher" in line for line in lines)


def test_a_teacher_whose_logits_are_not_finite_is_refused(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["from torch import nn", "def net():", "    net = nn.Conv2d(3, 8, 3)", "    net.weight.data.fill_(1e38)"]
    (tmp_path / "endless.py").write_text("\n".join([*lines, "    return net"]))
    monkeypatch.syspath_prepend(tmp_path)
    tiny["teacher"] = {"factory": "endless:net"}
    teacher = FrozenTeacher(parse(SearchConfig, tiny, "test").run(), [str(number) for number in range(8)], Path())
    with pytest.raises(CheckpointError, match=r"teacher: gives logits that are not finite"):
        teacher(torch.full((1, 3, 32, 48), 255, dtype=torch.uint8))
