"""Latencies measured anew at the end of a search: during it, other trials compute on the same device."""

from __future__ import annotations

from bpkd_search.cluster.apart import on_ray
from bpkd_search.cluster.slots import Slots
from bpkd_search.cluster.trial import TrialTask
from bpkd_search.config.points import to_tree
from bpkd_search.errors import ResourceError
from bpkd_search.experiment.schema import COMPLETE
from bpkd_search.search.engine import Engine
from bpkd_search.training.inputs import Say
from bpkd_search.training.latency import LATENCY, latencies
from bpkd_search.training.workers import Apart


def measure_alone(engine: Engine, task: TrialTask, slots: Slots, say: Say, apart: Apart | None = None) -> None:
    """Measure the students of the trials that ran in full, if the search goes by latency and trials ran side by side.

    Called when no trial runs. Each kind of student is measured once, in a process (`apart`) with a whole GPU or the
    CPUs of a trial; constraints are judged again. Where no process can be had, a line says so.
    """
    search = engine.config.search
    used = {*search.goals, *(metric for metric, _, _ in search.limits())}
    trials = [trial for trial in engine.trials.values() if trial.state == COMPLETE and not trial.alone]
    if LATENCY not in used or slots.count == 1 or not trials:
        return
    kinds = {trial.number: trial.run.student.model_dump_json() for trial in trials}
    runs = {kinds[trial.number]: to_tree(trial.run) for trial in trials}
    say(f"latency: measuring {len(runs)} kind(s) of student, with nothing else on the device")
    call = apart or on_ray({"num_cpus": slots.cpus, "num_gpus": 1.0 if slots.gpus else 0.0})
    try:
        found = dict(zip(runs, call(latencies, list(runs.values()), task.prepared, say=say), strict=True))
    except ResourceError as e:
        say(f"warning: {LATENCY} is that of trials side by side: {e}")
        return
    for trial in trials:
        engine.measured_alone(trial.number, found[kinds[trial.number]])
