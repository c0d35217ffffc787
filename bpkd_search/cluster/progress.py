"""What a person sees while a search runs: one live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bpkd_search.cluster.failures import describe_failure
from bpkd_search.config import SearchConfig
from bpkd_search.experiment.schema import BASELINE, COMPLETE, FAILED, PRUNED
from bpkd_search.search.rungs import milestones, rung_correlation

if TYPE_CHECKING:
    from bpkd_search.experiment.trial import Trial
    from bpkd_search.search.engine import Engine

RECENT = 6
# A first rung whose ranks agree less than this with the final ones, over `ENOUGH` trials, stops trials on noise.
WEAK, ENOUGH = 0.3, 8


class Progress:
    """Follows an engine's events and prints a line for each that matters."""

    def __init__(self, config: SearchConfig, console: Console) -> None:
        self.config, self.console = config, console
        self.metric = config.search.ranked_by
        self.engine: Engine | None = None
        self.teacher_scores: dict[str, float] = {}
        self._warned = self._asked = False
        self._judged = 0
        self._started = time.monotonic()
        self._ended_before = 0
        self._noted = 0

    def say(self, line: str) -> None:
        """Print a line."""
        self.console.print(line, highlight=False, markup=False)

    def begin(self, engine: Engine) -> None:
        """Start to follow an engine; what it did before a resume is only counted."""
        self.engine = engine
        self._started = time.monotonic()
        self._ended_before = len(engine.states)
        if self._ended_before or engine.trials:
            self.say(f"resume: {self._ended_before} of {engine.total} trials have ended")

    def notes(self) -> None:
        """Print what the engine noted since the last time."""
        if self.engine is not None:
            new = self.engine.notes[self._noted :]
            self._noted += len(new)
            for note in new:
                self.say(note)

    def event(self, event: str, trial: Trial) -> None:
        """Show an `ask`, `report`, `lost` or `end`."""
        self.notes()
        if event == "ask" and not self._asked:
            # The pace is that of trials; preparation has ended.
            self._asked, self._started = True, time.monotonic()
        if event == "lost" and self.engine is not None:
            why = self.engine.recorder.trials[trial.number]["message"]
            self.say(f"trial {trial.number} {trial.method}: {why}; it continues from epoch {trial.epoch}")
        if event == "end":
            self.ended(trial)
            self._judge_grace()
            score, teacher = trial.last().get(self.metric), self.teacher_scores.get(self.metric)
            if trial.method == "ce" and score is not None and teacher is not None and teacher < score:
                self.say(
                    f"warning: the teacher's {self.metric} {teacher:.4f} is below {score:.4f}, what the student"
                    " reaches without it; distillation from it can only be noise. Train the teacher longer."
                )

    def _judge_grace(self) -> None:
        """Say how well each rung knows the end, and warn once when the first one knows little."""
        engine, scheduler = self.engine, self.config.search.scheduler
        if engine is None or scheduler.name in ("none", "model"):  # neither has rungs
            return
        trials = list(engine.trials.values())
        known = {rung: rung_correlation(scheduler, trials, self.metric, rung) for rung in milestones(scheduler, trials)}
        if not known:
            return
        rho, count = known[scheduler.grace]
        if count >= ENOUGH and count != self._judged:
            self._judged = count
            rungs = ", ".join(f"{there:.2f} after {rung:g} {scheduler.axis}" for rung, (there, _) in known.items())
            self.say(f"rungs: rank correlation of {self.metric} with the end over {count} full trials: {rungs}")
        if count >= ENOUGH and rho < WEAK and not self._warned:
            self._warned = True
            self.say(
                "warning: the first rung knows little of the end, so trials are stopped on noise; a longer"
                " search.scheduler.grace may help"
            )

    def ended(self, trial: Trial) -> None:
        """Print a line for a trial that ended."""
        if self.engine is not None:
            self.say(self._line(trial, self.engine))

    def _line(self, trial: Trial, engine: Engine) -> str:
        last, state = trial.last(), engine.states[trial.number]
        parts = [f"failed ({describe_failure(engine, trial)})" if state == FAILED else state.lower()]
        if last:
            parts += [f"{self.metric} {last[self.metric]:.4f}", f"{trial.epoch} epochs"]
            parts += [f"{last.get('gpu_seconds', 0.0):.0f} s"]
        return (
            f"[{len(engine.states)}/{engine.total}] trial {trial.number} {trial.method}: {', '.join(parts)};"
            f" {self.standing(engine)}; {self.time_left(engine)}"
        )

    def standing(self, engine: Engine) -> str:
        """The best searched trial against the best baseline, full budgets only."""
        full = engine.ranked()
        searched = [trial for trial in full if trial.origin != BASELINE]
        baselines = [trial for trial in full if trial.origin == BASELINE]
        best = [self._scored(trial) for trial in searched[:1] + baselines[:1]]
        return "best " + " vs ".join(best) if best else "nothing complete yet"

    def _scored(self, trial: Trial) -> str:
        name = trial.method if trial.origin == BASELINE else f"trial {trial.number}"
        note = " (breaks a constraint)" if trial.feasible is False else ""
        return f"{name} {trial.last()[self.metric]:.4f}{note}"

    def time_left(self, engine: Engine) -> str:
        """A guess from the pace so far."""
        ended = len(engine.states) - self._ended_before
        if ended < 1:  # a request may take ends back
            return "time left unknown"
        left = (engine.total - len(engine.states)) * (time.monotonic() - self._started) / ended
        return f"about {left / 60:.0f} min left" if left >= 90 else f"about {left:.0f} s left"


class LiveProgress(Progress):
    """The same as one live table."""

    def __init__(self, config: SearchConfig, console: Console) -> None:
        super().__init__(config, console)
        self.live = Live(get_renderable=self.render, console=console, refresh_per_second=2, transient=True)

    def ended(self, trial: Trial) -> None:
        """Print a line for a failure; everything else is in the table, drawn from the engine's state."""
        if trial.state == FAILED:
            super().ended(trial)

    def render(self) -> RenderableType:
        """The table in its present state."""
        engine = self.engine
        if engine is None or not engine.trials:
            return Text("preparing ...", style="dim")
        states = list(engine.states.values())
        running = [t for n, t in list(engine.trials.items()) if n not in engine.states]
        head = Text(
            f"{self.config.name}: {len(running)} running, {states.count(COMPLETE)} done,"
            f" {states.count(PRUNED)} stopped, {states.count(FAILED)} failed, {engine.total} in all;"
            f" {self.time_left(engine)}"
        )
        table = Table(box=None, header_style="bold")
        for column in ("trial", "method", "state", "epochs", self.metric, "seconds"):
            table.add_column(column, justify="left" if column in ("method", "state") else "right")
        ended = sorted(engine.states)[-RECENT:]
        for trial in [engine.trials[n] for n in ended] + running:
            last = trial.last()
            table.add_row(
                str(trial.number),
                trial.method,
                engine.states.get(trial.number, "RUNNING").lower(),
                f"{trial.epoch}/{engine.max_epochs}",
                f"{last[self.metric]:.4f}" if last else "",
                f"{last['gpu_seconds']:.0f}" if last else "",
            )
        return Group(head, table, Text(self.standing(engine), style="bold green"))


@contextmanager
def make_progress(config: SearchConfig) -> Iterator[Progress]:
    """A live table on a terminal, lines elsewhere; both on standard error, so that output can be piped."""
    console = Console(file=sys.stderr, soft_wrap=True)
    if not console.is_terminal:
        yield Progress(config, console)
        return
    live = LiveProgress(config, console)
    with live.live:
        yield live
