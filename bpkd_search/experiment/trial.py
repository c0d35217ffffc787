"""A trial as search, display and loggers use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bpkd_search.config.models import RunConfig


@dataclass
class Trial:
    """A trial that the engine has started: its run, its reports so far, and how it ended.

    `retried_seconds` are the GPU-seconds of its failed attempts, if it was run again by request; with `in_full`, the
    scheduler does not stop it; `alone` says whether its latency was measured when no trial ran; `replicate_of` is the
    trial whose setting a replicate runs again.
    """

    number: int
    method: str
    origin: str
    run: RunConfig
    reports: dict[int, dict[str, Any]] = field(default_factory=dict)
    stop: bool = False
    losses: list[str] = field(default_factory=list)
    state: str | None = None
    reason: str | None = None
    feasible: bool | None = None
    retried_seconds: float = 0.0
    alone: bool = False
    in_full: bool = False
    replicate_of: int | None = None

    @property
    def retries(self) -> int:
        """Times it was lost and asked again; `losses` has the cause of each."""
        return len(self.losses)

    @property
    def epoch(self) -> int:
        """Epochs reported so far."""
        return max(self.reports, default=0)

    def restart(self) -> None:
        """Go back to before the first report, as a request to run it again asks."""
        self.retried_seconds += float(self.last().get("gpu_seconds", 0.0))
        self.reports, self.stop, self.alone = {}, False, False
        self.state = self.reason = self.feasible = None

    def measured_alone(self, latency: float) -> None:
        """Put a latency, in milliseconds, in the place of that of the newest report."""
        self.reports[self.epoch] = {**self.last(), "latency_ms": latency}
        self.alone = True

    def last(self) -> dict[str, Any]:
        """Return the newest report; empty before the first."""
        return self.reports.get(self.epoch, {})
