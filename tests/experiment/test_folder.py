"""An experiment folder belongs to one driver: of two that start together, the other one leaves it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bpkd_search.cluster import driver
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.errors import ExperimentError, HeldError, ResourceError
from bpkd_search.experiment import folder


def test_of_two_that_start_together_one_makes_the_folder(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = parse(SearchConfig, tiny, "test")
    folder.create(tmp_path / "exp", config)
    with pytest.raises(ExperimentError, match=r"exists already; continue it with `bpkd-search resume .*exp`"):
        folder.create(tmp_path / "exp", config)
    (tmp_path / "empty").mkdir()
    folder.create(tmp_path / "empty", config)
    assert folder.read_config(tmp_path / "empty") == config


@pytest.mark.parametrize(("error", "kept"), [(HeldError, True), (ResourceError, False)])
def test_a_search_that_could_not_start_removes_only_its_own_folder(
    error: type[Exception], kept: bool, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drive(*_: Any) -> None:
        raise error("no")

    monkeypatch.setattr(driver, "_drive", drive)
    with pytest.raises(error, match="no"):
        driver.run_search(parse(SearchConfig, tiny, "test"), tmp_path / "exp")
    assert (tmp_path / "exp" / "config.yaml").is_file() is kept
