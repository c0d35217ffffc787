"""Importance of each searched parameter, from the tables alone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bpkd_search.config.points import from_column
from bpkd_search.config.space import Distribution
from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.schema import BASELINE

if TYPE_CHECKING:
    import optuna

    from bpkd_search.results.estimates import Searched

# With fewer, there is no model, and the best tenth of PED-ANOVA is one trial.
FEWEST, ENOUGH = 4, 50


def importance(full: pd.DataFrame, metric: str, searched: Searched, seed: int = 0) -> pd.DataFrame:
    """Return how much each parameter (the index) matters, the most important first.

    Columns: `fanova`, the share of the variance over the space that a parameter explains by itself (functional
    ANOVA), and `fanova_total`, with its interactions, both of the means that the model of the space expects (Sobol's
    indices; `surrogate.shares`); `ped_anova`, what separates the best tenth of the trials from the rest (arXiv
    2304.10255), shares that sum to 1; `trials`, the number of full-budget trials with the parameter. A conditional
    parameter counts where the space has it. The model is that of `searched`, and learns from stopped trials, too;
    `ped_anova` is of the searched trials in `full` alone. `attrs` holds `trials`, their number, `known`, the number of
    trials that the model knows, `deviation` over the space and `noise` between seeds. `seed` is that of the points at
    which the model is asked.

    Raises `ExperimentError` for fewer than 4 trials. Where all scores are equal, `fanova` is empty, with a warning.
    """
    drawn = full[full["origin"] != BASELINE].sort_values("number")
    study = rebuild(drawn, metric, searched.space, searched.sign)
    trials = study.get_trials(deepcopy=False)
    if len(trials) < FEWEST:
        raise ExperimentError(
            f"{len(trials)} trial(s) of the space ran their full budget, importance needs {FEWEST} and means"
            f" little below {ENOUGH}"
        )
    table = pd.DataFrame(index=pd.Index(list(searched.space), name="parameter"))
    found, facts = _of_model(searched, seed)
    for name, shares in {**found, "ped_anova": _of_the_best(study)}.items():
        table[name] = pd.Series(shares, dtype=float)
    table["trials"] = [sum(path in trial.params for trial in trials) for path in searched.space]
    table.attrs |= {"trials": len(trials), **facts}
    return table.sort_values(["fanova_total", "ped_anova"], ascending=False)


def scope(table: pd.DataFrame, metric: str) -> list[str]:
    """Return sentences on what the shares of `importance` are of, and on how far to trust them."""
    count, known = table.attrs["trials"], table.attrs["known"]
    few = f"; below {ENOUGH} trials it means little" if count < ENOUGH else ""
    lines = [
        f"fanova: share of what varies in the expected {metric} over the space, by the model of {known} trials that the"
        " estimates are of; fanova_total: with all interactions with other parameters.",
        f"ped_anova: what separates the best tenth from the rest of {count} searched trials that ran their full"
        f" budget{few}. Trials stopped early are not among them.",
    ]
    if np.isfinite(table.attrs["deviation"]):
        lines.append(
            f"The standard deviation of the expected {metric} over the space is {table.attrs['deviation']:.4f}, that"
            f" between seeds of one setting {table.attrs['noise']:.4f}."
        )
    return lines


def rebuild(drawn: pd.DataFrame, metric: str, space: Mapping[str, Distribution], sign: float = 1.0) -> optuna.Study:
    """Return the trials as a study in memory that maximises the metric; those outside the space are omitted."""
    import optuna

    from bpkd_search.config.distributions import to_optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    distributions = {path: to_optuna(distribution) for path, distribution in space.items()}
    for _, row in drawn.iterrows():
        params = {path: from_column(space[path], row[path]) for path in space if not pd.isna(row[path])}
        here = {path: distributions[path] for path in params}
        # An enqueued point may be outside the space, and Optuna rejects such trials.
        with suppress(ValueError):
            value = sign * float(row[metric])
            study.add_trial(optuna.trial.create_trial(params=params, distributions=here, value=value))
    return study


def _of_model(searched: Searched, seed: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Return shares by column, and what `attrs` says of the model."""
    from bpkd_search.results.estimates import fitted
    from bpkd_search.surrogate.shares import variance_shares

    model, notes = fitted(searched)
    if model is None:
        warnings.warn(f"fANOVA cannot be computed: {' '.join(notes)}", stacklevel=3)
        return {"fanova": {}, "fanova_total": {}}, {"known": 0, "deviation": np.nan, "noise": np.nan}
    shares = variance_shares(lambda points: model.predict(points).mean, searched.space, searched.base, seed)
    if all(np.isnan(share) for share in shares.total.values()):
        warnings.warn("fANOVA cannot be computed: the model expects the same everywhere", stacklevel=3)
    facts = {"known": len(model.evidence), "deviation": shares.deviation, "noise": model.noise}
    return {"fanova": shares.alone, "fanova_total": shares.total}, facts


def _of_the_best(study: optuna.Study) -> dict[str, float]:
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)
        return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))


def pooled(searched: Sequence[Searched]) -> Searched:
    """Return the trials of several searches of one space as those of one, numbered anew."""
    from dataclasses import replace

    trials = [trial for one in searched for trial in one.trials]
    return replace(searched[0], trials=[replace(trial, number=number) for number, trial in enumerate(trials)])
