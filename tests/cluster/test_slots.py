"""How a machine is divided among trials."""

from __future__ import annotations

import pytest

from bpkd_search.cluster.slots import Slots, divide
from bpkd_search.config.search import Search
from bpkd_search.errors import ResourceError

CASES = [
    ({}, {"CPU": 2}, Slots(2, 1, 0)),
    ({}, {"CPU": 16, "GPU": 1}, Slots(1, 16, 1)),
    ({}, {"CPU": 64, "GPU": 8}, Slots(8, 8, 1)),
    ({"resources": {"gpus": 0.25}}, {"CPU": 16, "GPU": 1}, Slots(4, 4, 0.25)),
    ({"resources": {"gpus": 0.1}}, {"CPU": 4, "GPU": 1}, Slots(4, 1, 0.1)),
    ({"resources": {"gpus": 2}}, {"CPU": 16, "GPU": 8}, Slots(4, 4, 2)),
    ({"resources": {"gpus": 0}}, {"CPU": 8, "GPU": 1}, Slots(8, 1, 0)),
    ({"resources": {"cpus": 4}}, {"CPU": 16}, Slots(4, 4, 0)),
    ({"concurrent": 1}, {"CPU": 16}, Slots(1, 1, 0)),
    ({"concurrent": 99}, {"CPU": 2}, Slots(2, 1, 0)),
]


@pytest.mark.parametrize(("search", "available", "slots"), CASES)
def test_slots(search: dict, available: dict[str, float], slots: Slots) -> None:
    assert divide(Search.model_validate(search), available) == slots


@pytest.mark.parametrize(
    ("resources", "said"),
    [({"gpus": 1}, r"resources\.gpus: got 1 a trial, there are 0 GPU"), ({"cpus": 9}, r"cpus: got 9 a trial")],
)
def test_more_than_there_is_is_refused_with_both_figures(resources: dict, said: str) -> None:
    with pytest.raises(ResourceError, match=said):
        divide(Search.model_validate({"resources": resources}), {"CPU": 2})
