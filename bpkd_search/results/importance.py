"""Importance of each searched parameter, from the tables alone: Optuna's evaluators on a study rebuilt in memory."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import TypeAdapter

from bpkd_search.config.space import Distribution
from bpkd_search.errors import ExperimentError, MissingPackageError
from bpkd_search.experiment.schema import BASELINE
from bpkd_search.imports import require

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

# With fewer, the best tenth of PED-ANOVA is one trial and the forest of fANOVA fits noise.
FEWEST, ENOUGH = 4, 50
# The time of fANOVA grows with the square of the trials and with the trees. Optuna's 64 trees give the same shares.
FOREST, TREES = 500, 16


def importance(full: pd.DataFrame, metric: str, space: Mapping[str, Any], seed: int = 0) -> pd.DataFrame:
    """Return shares that sum to 1 over the parameters (the index), most important first by PED-ANOVA.

    Columns: `ped_anova` (what separates the best tenth from the rest; arXiv 2304.10255, conditional parameters
    included), `fanova` (share of the variance, Hutter et al. 2014; empty for parameters that some trials
    lack), `trials` (number with the parameter). Only sampled and enqueued trials that ran their full budget
    count: baselines were not drawn from the space. With early stopping those are the survivors, so a parameter
    that decides which trials are stopped looks less important than it is. `attrs` holds `trials`, the number that
    count, and `forest`, the number used by fANOVA: at most 500, sampled with `seed`, which also seeds the forest.

    Raises `ExperimentError` for fewer than 4 trials. Without scikit-learn, `fanova` is empty, with a warning.
    """
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)
        study = rebuild(full[full["origin"] != BASELINE].sort_values("number"), metric, space)
        trials = study.get_trials(deepcopy=False)
        if len(trials) < FEWEST:
            raise ExperimentError(
                f"{len(trials)} trial(s) of the space ran their full budget, importance needs {FEWEST} and means"
                f" little below {ENOUGH}"
            )
        columns = {"ped_anova": get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())}
        always = [path for path in space if all(path in trial.params for trial in trials)]
        forest, remark = None, ""
        try:
            require("sklearn", "importance", "fANOVA")
            forest = FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
        except MissingPackageError as e:
            remark = str(e)
        some = study
        if len(trials) > FOREST:
            some = optuna.create_study(direction="maximize")
            some.add_trials(random.Random(seed).sample(trials, FOREST))
        if forest is not None and always:
            try:
                columns["fanova"] = get_param_importances(some, evaluator=forest, params=always)
            except RuntimeError as e:  # all points or all scores are equal
                remark = f"fANOVA cannot be computed: {e}"
    if remark:
        warnings.warn(remark, stacklevel=2)
    table = pd.DataFrame(columns, index=pd.Index(list(space), name="parameter"), dtype=float)
    table = table.reindex(columns=["ped_anova", "fanova"])
    table["trials"] = [sum(path in trial.params for trial in trials) for path in space]
    table.attrs |= {"trials": len(trials), "forest": min(len(trials), FOREST)}
    return table.sort_values(["ped_anova", "fanova"], ascending=False)


def scope(table: pd.DataFrame, metric: str) -> list[str]:
    """Return sentences on which trials the shares of `importance` cover and which they omit."""
    count, forest = table.attrs["trials"], table.attrs["forest"]
    part = forest < count and table["fanova"].notna().any()
    some = f"; fANOVA over {forest} of them, drawn at random" if part else ""
    few = f"; below {ENOUGH} they mean little" if count < ENOUGH else ""
    return [
        f"Shares for {metric} over {count} searched trials that ran their full budget{some}{few}."
        " PED-ANOVA: what separates the best tenth from the rest; fANOVA: share of the variance.",
        "Trials stopped early are not among them: a parameter that decides which are stopped looks less important than"
        " it is.",
    ]


def rebuild(drawn: pd.DataFrame, metric: str, space: Mapping[str, Any]) -> optuna.Study:
    """Return the trials as a study in memory that maximises the metric; those outside the space are omitted."""
    import optuna

    from bpkd_search.config.distributions import to_optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    parsed = TypeAdapter(dict[str, Distribution]).validate_python(dict(space))
    distributions = {path: to_optuna(distribution) for path, distribution in parsed.items()}
    for _, row in drawn.iterrows():
        params = {path: _plain(row[path], distributions[path]) for path in space if not pd.isna(row[path])}
        here = {path: distributions[path] for path in params}
        # An enqueued point may be outside the space, and Optuna rejects such trials.
        with suppress(ValueError):
            study.add_trial(optuna.trial.create_trial(params=params, distributions=here, value=float(row[metric])))
    return study


def _plain(value: Any, within: BaseDistribution) -> Any:
    """Return the sampled value of a cell: a column of mixed choices stores them as text or floats."""
    value = value.item() if hasattr(value, "item") else value
    choices = getattr(within, "choices", ())
    same = [c for c in choices if c == value and type(c) is type(value)]
    close = [c for c in choices if c == value or str(c) == str(value)]
    return (same or close or [value])[0]
