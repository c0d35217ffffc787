"""Early stopping: asynchronous successive halving as plain arithmetic, without Ray."""

from __future__ import annotations

from bpkd_search.config.models import Scheduler


class Asha:
    """Asynchronous successive halving (Li et al., arXiv 1810.05934), stopping variant.

    Rungs stand at grace, grace * reduction, ... epochs below the full budget. A trial that reaches a rung
    goes on if it is among the best 1/reduction of those that have reached it so far, itself counted; the
    first ones always are. The state is a function of the reports, so replaying them restores it.
    """

    def __init__(self, grace: int, reduction: int, max_epochs: int) -> None:
        self.reduction = reduction
        self.rungs: dict[int, dict[int, float]] = {}
        epoch = grace
        while epoch < max_epochs:
            self.rungs[epoch] = {}
            epoch *= reduction

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Whether trial `number` goes on after `epoch`; a report seen before counts once."""
        rung = self.rungs.get(epoch)
        if rung is None:
            return True
        rung[number] = value
        better = sum(other > value for other in rung.values())
        return better < max(1, len(rung) // self.reduction)


class Never:
    """No early stopping."""

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Always go on."""
        return True


def make_rungs(scheduler: Scheduler, max_epochs: int) -> Asha | Never:
    """The rung logic that a `scheduler` block names."""
    if scheduler.name == "asha":
        return Asha(scheduler.grace, scheduler.reduction, max_epochs)
    return Never()
