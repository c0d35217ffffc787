"""Experiments with numbers chosen by hand, written by the recorder as a search would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bpkd_search.experiment.recorder import Recorder

SPACE = {"loss.edge_width": {"int": [3, 11], "step": 2}, "loss.edge_weight": {"float": [0.1, 10.0], "log": True}}


def make(
    folder: Path,
    trials: Sequence[dict[str, Any]],
    name: str = "exp",
    metric: str = "miou",
    calibrated: Sequence[float] = (),
    **config: Any,
) -> Path:
    """An experiment of finished trials.

    A trial is a mapping: `curve`, the metric of each epoch; `seconds`, GPU-seconds of each epoch; and any of
    method, origin, state, point, feasible, and what its reports hold beside. `calibrated` are the calibrated seconds of
    an epoch of each trial.
    """
    tree = {"name": name, "search": {"metric": metric}, "space": SPACE, "train": {"epochs": 4}, **config}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    kinds = {path: next(k for k in ("int", "float", "choice") if k in rule) for path, rule in tree["space"].items()}
    kinds = {path: "string" if kind == "choice" else kind for path, kind in kinds.items()}
    recorder = Recorder(folder, name, kinds, "0")
    for number, trial in enumerate(trials):
        given = {"method": "bpkd", "origin": "sampled", "state": "COMPLETE", "point": {}, "seconds": 10.0, **trial}
        curve, seconds = given.pop("curve"), given.pop("seconds")
        recorder.record(
            "ask", number, trial_id=f"{name}-{number:05d}", method=given.pop("method"), origin=given.pop("origin"),
            point=given.pop("point"), seed=0, config={"loss": {"method": "bpkd"}},
        )  # fmt: skip
        state, reason, feasible = given.pop("state"), given.pop("reason", None), given.pop("feasible", None)
        for epoch, value in enumerate(curve, 1):
            scores = {metric: value, "edge_miou": value / 2, "body_miou": value} | given
            if calibrated:
                scores["calibrated_seconds"] = calibrated[number] * epoch
            recorder.record(
                "report", number, epoch=epoch, gpu_seconds=seconds * epoch, loss=1.0, loss_kd=0.25, **scores
            )
        if state != "RUNNING":
            message = "a <b>message</b> \x1b[2J" * bool(reason)
            recorder.record("end", number, state=state, reason=reason, message=message, feasible=feasible)
    recorder.close()
    return folder
