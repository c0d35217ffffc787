"""The Triton kernels of the edge masks against the PyTorch form, in Triton's interpreter: no GPU is needed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from bpkd_search.losses import edges

pytest.importorskip("triton")

# (classes, shape, grid, width): one and several words, cells that overlap, windows beyond the image.
COMPARE = """
import torch
from bpkd_search.losses import edges, edges_triton
assert edges.fastest_form(torch.device("cpu")) is edges_triton.edge_shares
generator = torch.Generator().manual_seed(0)
for classes, shape, grid, width in (
    (33, (6, 8), (2, 3), 3), (31, (5, 6), (2, 4), 5), (3, (4, 5), None, 9)
):
    ids = torch.randint(0, classes, (2, 4, 4), generator=generator).repeat_interleave(3, 1).repeat_interleave(3, 2)
    ids = ids[:, : shape[0], : shape[1]].to(torch.uint8)
    ids[0, :1, :2], ids[1, -1:] = 255, classes
    expected = edges.edge_shares(ids, classes, width, grid)
    assert torch.equal(edges_triton.edge_shares(ids, classes, width, grid), expected), classes
print("equal")
"""


def test_the_kernels_equal_the_pytorch_form_bit_for_bit() -> None:
    run = subprocess.run(
        [sys.executable, "-c", COMPARE], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert run.stdout == "equal\n", run.stderr


def test_where_the_kernels_cannot_run_the_pytorch_form_is_used() -> None:
    """Without its interpreter, Triton has no driver for a CPU."""
    if "TRITON_INTERPRET" in os.environ:
        pytest.skip("Triton runs on the CPU")
    assert edges.fastest_form(torch.device("cpu")) is edges.edge_shares
