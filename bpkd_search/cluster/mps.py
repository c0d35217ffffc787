"""NVIDIA's Multi-Process Service: where its daemon runs, processes on one GPU compute at the same time.

CUDA joins a running daemon by itself, so nothing here starts or sets anything; without one, processes take turns.
Source: https://docs.nvidia.com/deploy/mps/
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

DIRECTORY = "CUDA_MPS_PIPE_DIRECTORY"
DEFAULT = Path("/tmp/nvidia-mps")


def mps_runs(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a daemon listens where a CUDA program of this process would look for it."""
    pipe = Path(environment.get(DIRECTORY) or DEFAULT) / "control"
    try:
        if not pipe.is_fifo():
            return False
        # The pipe outlives a daemon that was killed; without somebody who reads it, opening fails.
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
