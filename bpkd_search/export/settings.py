"""The best settings as text: run configurations, JSON, an OpenMMLab-style loss, a model card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from bpkd_search.config import RunConfig, terms_of
from bpkd_search.config.load import parse
from bpkd_search.config.paths import set_path
from bpkd_search.config.points import to_tree
from bpkd_search.config.yaml_text import to_text
from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.paths import CONFIG, METRICS, STUDENT, student_file
from bpkd_search.experiment.schema import BASELINE, COMPLETE
from bpkd_search.export.card import model_card
from bpkd_search.export.claimed_score import confirmations, confirmed_words
from bpkd_search.metrics.table import SCORES
from bpkd_search.results.estimates import with_interval
from bpkd_search.results.leaderboard import Leaderboard


@dataclass(frozen=True)
class Setting:
    """A setting to export: its run including `provenance`, its scores, and the path of its student.

    `name` is the stem of its files. `student` need not exist: a search keeps the weights of few trials. `estimate` is
    the expected mean over seeds as a text, empty if unknown.
    """

    name: str
    config: dict[str, Any]
    metrics: dict[str, float]
    student: Path
    baselines: dict[str, float] = field(default_factory=dict)
    class_iou: dict[str, float] = field(default_factory=dict)
    estimate: str = ""


# A function that writes one file of a setting.
Writer = Callable[[Setting, Path], None]


def export_settings(settings: Sequence[Setting], out: Path, writers: Mapping[str, tuple[str, Writer]]) -> list[Path]:
    """Write every setting with every writer (suffix, function) into `out`, all files or none; returns the paths.

    Raises `ExperimentError` if a file exists or cannot be written, and what the writers raise.
    """
    plan = [(setting, f"{setting.name}{suffix}", write) for setting in settings for suffix, write in writers.values()]
    for _, file, _ in plan:
        if Path(file).name != file or "\0" in file:
            # Its name has the method of a table, which somebody else may have written.
            raise ExperimentError(f"{file!r} is no file name: the tables of this experiment are not those of a search")
        if (out / file).exists():
            raise ExperimentError(f"{out / file}: exists already; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as folder:
            for setting, file, write in plan:
                write(setting, Path(folder) / file)
            for _, file, _ in plan:
                (Path(folder) / file).rename(out / file)
    except OSError as e:
        raise ExperimentError(f"{out}: cannot be written: {e.strerror or e}") from e
    return [out / file for _, file, _ in plan]


def best_settings(
    board: Leaderboard, top: int, trial: int | None = None, confirmed_only: bool = False
) -> list[Setting]:
    """Return the `top` full-budget trials of an experiment, best first, or the one of number `trial`.

    With `confirmed_only`, those of `confirm` that never failed there, by their mean over its seeds. Baselines are
    included: if plain distillation is best, that is the result.
    Raises `ExperimentError` if no such trial ran its full budget.
    """
    trials = board.trials()
    best = _chosen(board, trials, trial) if trial is not None else board.best(top)
    if confirmed_only:
        best = _confirmed(board, trials, top)
    if best.empty:
        raise ExperimentError(f"{board.directory}: no trial has run its full budget yet")
    plain = trials[(trials["origin"] == BASELINE) & (trials["state"] == COMPLETE)]
    baselines = {f"{row['method']} ({board.metric})": float(row[board.metric]) for _, row in plain.iterrows()}
    best = board.with_estimates(best)
    last = board.reports(["class_iou"], best["number"].tolist()).groupby("number")["class_iou"].last()
    confirmed = confirmations(board)
    settings = []
    for rank, row in best.iterrows():
        config: dict[str, Any] = json.loads(row["config"])
        for path, value in board.crops.items():
            # What `auto` chose for the search, where a single run might get something else.
            set_path(config, path, value)
        config["provenance"] = {
            "experiment": str(row["experiment"]),
            "trial": int(row["number"]),
            "rank": int(str(rank)),
            "method": str(row["method"]),
            "metric": board.metric,
            board.metric: round(float(row[board.metric]), 6),
            "epochs": int(row["epochs"]),
            "seed": int(row["seed"]),
            "version": str(row["version"]),
        }
        if board.commit:
            config["provenance"]["commit"] = board.commit
        if (found := confirmed.get(int(row["number"]))) is not None:
            config["provenance"]["confirmed"] = found.model_dump(mode="json")
        metrics = {name: float(row[name]) for name in SCORES if row[name] == row[name]}
        student = student_file(board.directory, int(row["number"]))
        classes = _by_class(board.class_names, last.get(row["number"]))
        name = f"{rank}-{row['method']}-trial{row['number']}"
        settings.append(Setting(name, config, metrics, student, baselines, classes, _expected(board, row)))
    return settings


def _expected(board: Leaderboard, row: pd.Series) -> str:
    known = with_interval(row)
    return known and (
        f"Expected mean {board.metric} over seeds: {known} (95 % interval, by the search's model of all its trials)."
    )


def _chosen(board: Leaderboard, trials: pd.DataFrame, number: int) -> pd.DataFrame:
    """Return the row of a trial that ran its full budget."""
    found = trials[trials["number"] == number]
    if found.empty or str(found["state"].iloc[0]) != COMPLETE:
        what = "there is none" if found.empty else f"it is {found['state'].iloc[0]}"
        full = ", ".join(map(str, sorted(board.best(len(trials))["number"]))) or "none yet"
        raise ExperimentError(
            f"{board.directory}: --trial: got {number}, but {what}; valid are trials that ran their full budget: {full}"
        )
    return found


def _confirmed(board: Leaderboard, trials: pd.DataFrame, top: int) -> pd.DataFrame:
    """Return the rows of confirmed trials in the order of their means, ranked anew."""
    if not board.confirmed:
        raise ExperimentError(f"{board.directory}: is not confirmed yet; run `bpkd-search confirm`")
    means = board.winner()
    order = means.loc[means["mean"].notna() & (means["failed"] == 0), "number"].head(top)
    if order.empty:
        raise ExperimentError(f"{board.directory}: no confirmed setting ran with every seed")
    rows = trials.set_index("number", drop=False).loc[order]
    rows.index = pd.RangeIndex(1, len(rows) + 1, name="rank")
    return rows


def _by_class(names: Sequence[str] | None, values: Any) -> dict[str, float]:
    """Return IoU by class name without absent classes; empty if the experiment has no class names."""
    if names is None or values is None:
        return {}
    return {name: float(iou) for name, iou in zip(names, values, strict=True) if iou is not None and iou == iou}


def trained_setting(folder: Path) -> Setting:
    """Return the setting of a directory of `bpkd-search train`. Raises `ExperimentError` if it is unfinished."""
    try:
        config: dict[str, Any] = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        metrics: dict[str, Any] = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise ExperimentError(f"{folder}: is not a finished run of `bpkd-search train`: {e}") from e
    scores = {name: float(metrics[name]) for name in SCORES if metrics.get(name) is not None}
    return Setting("trained", config, scores, folder / STUDENT)


def to_yaml(setting: Setting) -> str:
    """Return the run as YAML that `bpkd-search train` accepts, with its scores in a comment above."""
    return _scores(setting) + to_text(setting.config)


def to_json(setting: Setting) -> str:
    """Return the run as JSON."""
    return json.dumps(setting.config, indent=1, ensure_ascii=False) + "\n"


def to_mmseg(setting: Setting) -> str:
    """Return the loss as an OpenMMLab-style Python config: plain data, one `dict(type=...)`.

    `type` and keys are those of `bpkd_search.losses.Criterion`.
    """
    terms = [to_tree(term) for term in terms_of(parse(RunConfig, setting.config, setting.name).loss)]
    return _scores(setting) + "\n".join(
        [
            "#",
            "# With `MODELS.register_module(module=bpkd_search.losses.Criterion)`, a registry of mmengine builds it;",
            "# called with student logits, teacher logits and labels, it returns its weighted terms by name.",
            f"distill_loss = dict(type='Criterion', ignore_index=255, terms={_python(terms, 0)})",
            "",
        ]
    )


def _scores(setting: Setting) -> str:
    """Return a comment with the scores of the setting and their confirmation."""
    scored = ", ".join(f"{name} {value:.4f}" for name, value in setting.metrics.items())
    confirmed = confirmed_words(setting.config.get("provenance"), setting.name)
    lines = [f"{json.dumps(setting.name)}: {scored} (validation split, one seed).", setting.estimate, confirmed]
    return "".join(f"# {line}\n" for line in lines if line)


def _python(value: Any, depth: int) -> str:
    """Return a JSON value as Python source, with mappings as `dict(key=value)` as in OpenMMLab."""
    inner, outer = "    " * (depth + 1), "    " * depth
    if isinstance(value, dict):
        return "dict(" + ", ".join(f"{key}={_python(item, depth)}" for key, item in value.items()) + ")"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + "".join(f"{inner}{_python(item, depth + 1)},\n" for item in value) + f"{outer}]"
    return repr(value)


def to_card(setting: Setting) -> str:
    """Return the model card as Markdown."""
    return model_card(
        setting.name, setting.config, setting.metrics, setting.baselines, setting.class_iou, setting.estimate
    )


def _as_text(text: Callable[[Setting], str]) -> Writer:
    def write(setting: Setting, path: Path) -> None:
        path.write_text(text(setting), encoding="utf-8")

    return write


# Format -> (suffix, writer).
TEXTS: dict[str, tuple[str, Writer]] = {
    "yaml": (".yaml", _as_text(to_yaml)),
    "json": (".json", _as_text(to_json)),
    "mmseg": (".mmseg.py", _as_text(to_mmseg)),
    "card": (".md", _as_text(to_card)),
}
