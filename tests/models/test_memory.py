"""Bytes of live tensors, counted where they are made and freed."""

from __future__ import annotations

import torch

from bpkd_search.models.memory import LiveBytes


def test_storages_count_from_their_making_to_their_end() -> None:
    before = torch.zeros(10)
    with LiveBytes() as memory:
        a = torch.zeros(1000)
        assert (memory.live, memory.peak) == (4000, 4000)
        b = a.view(10, 100)[:2]  # the same storage
        c = (a + 1).half()  # 4000 until it is converted, then 2000
        assert (memory.live, memory.peak) == (6000, 10_000)
        before.add_(1)
        del a
        assert memory.live == 6000
        del b
        assert memory.live == 2000
        del c
    assert (memory.live, memory.peak) == (0, 10_000)


def test_what_a_backward_pass_needs_is_held_until_then() -> None:
    weight = torch.zeros(1000, requires_grad=True, device="meta")
    with LiveBytes() as memory:
        loss = weight.exp().sum()
        assert memory.live == 4004
        loss.backward()
        del loss
    # The result of exp is gone, the gradient is there.
    assert memory.live == 4000
