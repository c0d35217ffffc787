"""Sums of a round: means, the first term that is not finite, and the way through a checkpoint."""

from __future__ import annotations

import io

import pytest
import torch

from bpkd_search.training.round import Diverged, Round

CPU = torch.device("cpu")


def filled(*rows: tuple[float, float]) -> Round:
    found = Round()
    for ce, kd in rows:
        found.add({"ce": torch.tensor(ce), "kd": torch.tensor(kd)})
    return found


def test_means() -> None:
    assert filled((1.0, 0.5), (3.0, 0.25)).means(1) == {"ce": 2.0, "kd": 0.375}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(1.0, 1.0), (1.0, float("nan")), (float("inf"), 1.0)], "loss term kd is not finite at step 2 of epoch 4"),
        ([(float("inf"), 1.0), (float("nan"), float("nan"))], "loss term ce is not finite at step 1 of epoch 4"),
    ],
)
def test_the_first_term_that_is_not_finite_is_named(rows: list[tuple[float, float]], said: str) -> None:
    with pytest.raises(Diverged, match=said):
        filled(*rows).means(4)


def test_a_restored_round_goes_on_as_if_never_saved() -> None:
    torch.manual_seed(7)
    begun = filled((1.0, 0.5), (3.0, 0.1))
    begun.seconds = 12.5
    buffer = io.BytesIO()
    torch.save(begun.state(CPU), buffer)
    expected = torch.rand(3)
    torch.manual_seed(99)
    buffer.seek(0)
    found = Round.restore(torch.load(buffer, weights_only=True), CPU)
    assert torch.equal(torch.rand(3), expected)
    assert (found.done, found.seconds) == (2, 12.5)
    for each in (begun, found):
        each.add({"ce": torch.tensor(0.3), "kd": torch.tensor(0.7)})
    assert found.means(1) == begun.means(1)
    found.add({"ce": torch.tensor(0.3), "kd": torch.tensor(float("nan"))})
    with pytest.raises(Diverged, match="kd is not finite at step 4"):
        found.means(1)
