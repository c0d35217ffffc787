"""What is checked once the data are known."""

from __future__ import annotations

from typing import Any

import pytest

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.points import run_at
from bpkd_search.errors import ConfigError
from bpkd_search.training.prepare import prepare


def test_what_is_given_per_class_must_fit_the_data_in_every_term(tiny: dict[str, Any]) -> None:
    terms = [{"method": "bpkd", "alpha": alpha} for alpha in ([2.0] * 8, [2.0] * 3, [2.0])]
    run = run_at(parse(SearchConfig, tiny, "test").run(), {"loss": {"method": "mix", "terms": terms}})
    with pytest.raises(ConfigError) as error:
        prepare(run, lambda line: None)
    assert error.value.faults == ["loss.terms.1.alpha: got 3 numbers, must be one, or one for each of 8 classes"]
