"""Own losses that only the space of a search names are checked before anything is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.errors import ConfigError
from bpkd_search.training.forms import needs_features
from bpkd_search.training.own import check_functions

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
