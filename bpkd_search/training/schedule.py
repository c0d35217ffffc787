"""The schedule of a run: its rounds, its learning rate, and its end. Without networks and data.

A round is what is trained between two validations. Searches compare trials by rounds; a report calls them epochs, as
they are passes over the images unless `train.validate_every` says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from bpkd_search.config.optimisation import Optimisation


@dataclass(frozen=True)
class Schedule:
    """The schedule of a `train` block for training images that make `steps` iterations a pass."""

    settings: Optimisation
    steps: int

    @property
    def total(self) -> int:
        """Iterations of the whole run, unless it is one of `gpu_seconds`."""
        return self.settings.iterations or (self.settings.epochs or 0) * self.steps

    @property
    def rounds(self) -> int:
        """Number of rounds of the whole run, unless it is one of `gpu_seconds`."""
        return self.settings.rounds(self.steps)

    def round(self, number: int) -> range:
        """Return the iterations of a round, both counted from 0; the last round may be shorter than the others."""
        length = self.settings.validate_every or self.steps
        first, after = number * length, (number + 1) * length
        return range(first, after if self.settings.gpu_seconds is not None else min(after, self.total))

    def shown(self, rounds: int) -> str:
        """Return a number of rounds in words, with that of the whole run unless its time decides."""
        return str(rounds) if self.settings.gpu_seconds is not None else f"{rounds}/{self.rounds}"

    def finished(self, rounds: int, seconds: float) -> bool:
        """Return whether a run is over after that many rounds, which took `seconds` inside training.

        A run of `gpu_seconds` is over if another round would not bring it nearer to that time.
        """
        if self.settings.gpu_seconds is None:
            return rounds >= self.rounds
        return rounds > 0 and seconds * (1 + 0.5 / rounds) >= self.settings.gpu_seconds

    def progress(self, iteration: int, seconds: float) -> float:
        """Return the completed fraction of the run before an iteration, after `seconds` inside training."""
        if self.settings.gpu_seconds is not None:
            return min(1.0, seconds / self.settings.gpu_seconds)
        return iteration / self.total

    def learning_rate(self, iteration: int, progress: float) -> float:
        """Return the learning rate: a linear rise to `lr`, then `(1 - t)^power` of what is above `min_lr`.

        t goes from 0 at the end of the rise to 1 at the end of the run.
        """
        settings = self.settings
        rise = settings.warmup * self.steps or settings.warmup_iterations
        if iteration < rise:
            return settings.lr * (iteration + 1) / (rise + 1)
        begin = 0.0
        if settings.gpu_seconds is None:
            # In epochs, where both are: then no rounding depends on the number of images.
            begin = settings.warmup / settings.epochs if settings.epochs and settings.warmup else rise / self.total
        left = (1 - progress) / max(1 - begin, 1e-9)
        return settings.min_lr + (settings.lr - settings.min_lr) * float(min(1.0, left) ** settings.power)
