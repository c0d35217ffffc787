"""The `loss:` block: every method alone and in a mixture."""

from __future__ import annotations

from typing import Any

import pytest

from bpkd_search.config import RunConfig, label_of, terms_of
from bpkd_search.config.checks import run_faults
from bpkd_search.config.loss import terms_by_path
from bpkd_search.losses.methods import METHODS


def loss_of(tree: dict[str, Any]) -> Any:
    return RunConfig.model_validate({"loss": tree}).loss


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_chosen(method: str) -> None:
    entry = METHODS[method]
    loss = loss_of({"method": method})
    assert loss == entry(method=method)
    assert label_of(loss) == method
    assert terms_of(loss) == ((loss,) if method != "ce" else ())


def test_a_mixture_sums_every_method_but_ce() -> None:
    names = [name for name in METHODS if name != "ce"]
    loss = loss_of({"terms": [{"method": name} for name in names]})
    assert label_of(loss) == "+".join(names)
    assert terms_of(loss) == tuple(METHODS[name](method=name) for name in names)
    assert list(terms_by_path(loss)) == [f"loss.terms.{position}" for position in range(len(names))]
    with pytest.raises(ValueError, match="does not match any of the expected tags"):
        loss_of({"terms": [{"method": "ce"}]})


def test_a_block_without_a_method_is_bpkd() -> None:
    assert loss_of({"edge_width": 5}) == loss_of({"method": "bpkd", "edge_width": 5})


def test_a_term_that_needs_features_is_named_by_its_path() -> None:
    run = RunConfig.model_validate(
        {"loss": {"terms": [{"method": "kd"}, {"method": "cirkd"}]}, "teacher": {"mode": "stored"}}
    )
    assert run_faults(run) == [
        "loss.terms.1.method: got cirkd, needs the teacher's features: set teacher.mode to online or auto (got stored)"
    ]
