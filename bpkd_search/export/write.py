"""Exports settings as text and students as weights, from an experiment or a single training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bpkd_search.errors import ConfigError
from bpkd_search.experiment.paths import METRICS
from bpkd_search.export.claimed_score import claim_of
from bpkd_search.export.settings import TEXTS, best_settings, export_settings, trained_setting
from bpkd_search.results.leaderboard import Leaderboard

WEIGHTS = ("safetensors", "onnx", "torch")
FORMATS = (*TEXTS, *WEIGHTS)


def export(
    source: Path | str,
    out: Path | str,
    top: int = 1,
    formats: Sequence[str] = ("yaml",),
    *,
    claimed: bool = False,
    trial: int | None = None,
    confirmed: bool = False,
) -> list[Path]:
    """Write the `top` settings of an experiment, or the setting of a `train` directory, to `out`; returns the paths.

    By default the best ones are written; with `confirmed`, those with the best mean over the seeds of `confirm`; with
    `trial`, that trial alone, by its number. `formats` are names of `FORMATS`, or `all`. Only formats with weights
    import torch. With `claimed`, the files must be valid input of `verify`. Raises `ConfigError` if a format is unknown
    or a setting lacks a required claim; `ExperimentError` if a file exists, the experiment has no such results or a
    student was not kept; `UserError` if a package is missing or an export differs from the model. After an error, no
    file is left behind.
    """
    source, out = Path(source), Path(out)
    if unknown := [name for name in formats if name not in (*FORMATS, "all")]:
        raise ConfigError([f"got {name!r}, valid: {', '.join(FORMATS)}, all" for name in unknown], "--format")
    chosen = [name for name in FORMATS if name in formats or "all" in formats]
    trained = (source / METRICS).is_file()
    if trained and (trial is not None or confirmed):
        option = "--confirmed" if confirmed else f"--trial {trial}"
        raise ConfigError([f"got {option} for a directory of `train`, valid for an experiment"], str(source))
    settings = [trained_setting(source)] if trained else best_settings(Leaderboard(source), top, trial, confirmed)
    if claimed:
        if "yaml" not in chosen:
            raise ConfigError([f"got {', '.join(chosen)}, must have yaml with --verify, which trains it"], "--format")
        for setting in settings:
            claim_of(setting.config.get("provenance"), str(source))
    writers = dict(TEXTS)
    if any(name in WEIGHTS for name in chosen):
        from bpkd_search.export.weights import WRITERS, require_packages, require_student

        require_packages(chosen)
        for setting in settings:
            require_student(setting)
        writers |= WRITERS
    return export_settings(settings, out, {name: writers[name] for name in chosen})
