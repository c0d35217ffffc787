"""What a round of training has come to so far, which a checkpoint in the middle of it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Diverged(Exception):
    """A loss term is not finite; the message names the term, the epoch and the step, `step` counts from 0."""

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


class Round:
    """Iterations done, seconds inside training, and each loss term's sum and first iteration that is not finite.

    Terms stay on the device: reading one at every iteration would make the host wait for it.
    """

    def __init__(self) -> None:
        self.done, self.seconds = 0, 0.0
        self.names: list[str] = []
        self._sums = self._first_bad = torch.zeros(0)

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Add the loss terms of one iteration, scalars on one device."""
        values = torch.stack([value.detach() for value in losses.values()])
        if not self.names:
            self.names, self._sums = list(losses), torch.zeros_like(values)
            self._first_bad = torch.full_like(values, float("inf"))
        self._sums += values
        bad = torch.where(torch.isfinite(values), float("inf"), float(self.done))
        self._first_bad = torch.minimum(self._first_bad, bad)
        self.done += 1

    def means(self, epoch: int) -> dict[str, float]:
        """Return the mean of each loss term over the iterations; waits for the device.

        Raises `Diverged` if one was not finite; the message counts the round as `epoch`.
        """
        means, first_bad = (self._sums / self.done).tolist(), self._first_bad.tolist()
        at, name = min(zip(first_bad, self.names, strict=True), key=lambda pair: pair[0])
        if at < float("inf"):
            raise Diverged(f"loss term {name} is not finite at step {int(at) + 1} of epoch {epoch}", int(at))
        return dict(zip(self.names, means, strict=True))

    def state(self, device: torch.device) -> dict[str, Any]:
        """Return all of it and the state of the random numbers, to continue from."""
        return {
            "done": self.done,
            "seconds": self.seconds,
            "names": self.names,
            "sums": self._sums,
            "first_bad": self._first_bad,
            "random": torch.get_rng_state(),
            "random_gpu": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    @staticmethod
    def restore(state: Mapping[str, Any], device: torch.device) -> Round:
        """Return the round of a `state`, and set the random numbers to continue from there."""
        found = Round()
        found.done, found.seconds, found.names = int(state["done"]), float(state["seconds"]), list(state["names"])
        found._sums, found._first_bad = state["sums"].to(device), state["first_bad"].to(device)
        torch.set_rng_state(state["random"].cpu())
        if device.type == "cuda" and state["random_gpu"] is not None:
            torch.cuda.set_rng_state(state["random_gpu"].cpu(), device)
        return found
