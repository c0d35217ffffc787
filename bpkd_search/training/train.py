"""One run from a configuration to a directory with its weights, metrics and history."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from bpkd_search.config import RunConfig, dump
from bpkd_search.config.load import load_saved
from bpkd_search.config.points import to_tree
from bpkd_search.errors import ExperimentError, UserError
from bpkd_search.experiment.paths import CHECKPOINT, CONFIG, HISTORY, METRICS, STUDENT
from bpkd_search.files import write_text
from bpkd_search.models import save_weights
from bpkd_search.models.build import pick_device
from bpkd_search.training.distill import Distillation
from bpkd_search.training.evaluation import evaluate_run
from bpkd_search.training.inputs import Say
from bpkd_search.training.prepare import prepare
from bpkd_search.training.round import Diverged
from bpkd_search.training.teacher import open_teacher


def train(config: RunConfig, out: Path | str, say: Say = lambda line: None) -> dict[str, Any]:
    """Train one student into `out` and return its final metrics; `say` is called with one line per validation.

    Writes `config.yaml`, `history.csv` (one row per validation), `metrics.json` and `student.safetensors`. An
    unfinished run of the same configuration in `out` is resumed; any other content is an error.
    Raises `UserError` if an input is invalid, `out` is taken or the training diverges.
    """
    out = Path(out)
    if (out / METRICS).exists():
        raise ExperimentError(f"{out}: holds a finished run; choose another --out")
    if (out / CHECKPOINT).exists() and load_saved(RunConfig, out / CONFIG) != config:
        raise ExperimentError(f"{out}: holds a run of another configuration; choose another --out")
    if out.exists() and not (out / CONFIG).exists() and any(out.iterdir()):
        raise ExperimentError(f"{out}: is not empty; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / CONFIG, dump(config))
    except OSError as e:
        raise ExperimentError(f"{out}: cannot be written: {e.strerror}") from e
    prepared = prepare(config, say)
    store, device = prepared.open(), pick_device(config.train.device)
    teacher = None
    if prepared.mode == "online" and prepared.teacher:
        teacher = open_teacher(config, store.class_names, Path(prepared.teacher), device)
    run = Distillation(config.student, config.loss, config.train, store, teacher=teacher, device=device)
    history: list[dict[str, Any]] = []
    if (out / CHECKPOINT).is_file():
        saved = run.load(out / CHECKPOINT)
        history = json.loads((saved or {}).get("history", "[]"))
        say(f"train: resumes after epoch {run.epoch}")
    report: dict[str, Any] = history[-1] if history else {}
    while not run.finished:
        try:
            report = run.train_epoch(out / CHECKPOINT)
        except Diverged as e:
            raise UserError(f"training diverged: {e}; a lower train.lr or loss weight may help") from e
        report |= evaluate_run(run, config.data).as_dict()
        history.append(report)
        run.save(out / CHECKPOINT, {"history": json.dumps(history)})
        _write_history(out / HISTORY, history)
        say(
            f"train: epoch {run.schedule.shown(run.epoch)}, loss {report['loss']:.3f}, miou {report['miou']:.4f},"
            f" edge_miou {report['edge_miou']:.4f}, body_miou {report['body_miou']:.4f}"
        )
    metrics = {**report, "teacher_miou": (prepared.teacher_scores or {}).get("miou"), "parameters": run.parameters}
    about = {"config": to_tree(config), "miou": report["miou"]}
    about |= {"class_names": store.class_names, "palette": store.palette}
    save_weights(out / STUDENT, run.student, about)
    write_text(out / METRICS, json.dumps(metrics, indent=1))
    (out / CHECKPOINT).unlink(missing_ok=True)
    return metrics


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    table = io.StringIO()
    # A run that an earlier version began has rows with fewer columns.
    writer = csv.DictWriter(table, fieldnames=list(history[-1]))
    writer.writeheader()
    writer.writerows(history)
    write_text(path, table.getvalue())
