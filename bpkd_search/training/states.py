"""The file of an unfinished run's state."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bpkd_search.errors import CheckpointError
from bpkd_search.files import write_bytes


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state atomically. Raises `FullDiskError`."""
    # Through memory: PyTorch's own writer does not tell a full disk from other errors.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


@contextmanager
def read_state(path: Path, device: torch.device) -> Iterator[dict[str, Any]]:
    """Give a state, its tensors on a device. Raises `CheckpointError` if it is damaged or its use fails."""
    try:
        yield torch.load(path, map_location=device, weights_only=True)
    except torch.OutOfMemoryError:
        raise  # no fault of the file
    except Exception as e:
        raise CheckpointError(f"{path}: is not a checkpoint of this configuration: {e}") from e
