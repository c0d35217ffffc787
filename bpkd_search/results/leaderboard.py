"""The leaderboard of experiments as pandas frames. Imports neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bpkd_search.errors import ConfigError, ExperimentError
from bpkd_search.experiment.paths import CONFIRM, REPORTS, TRIALS
from bpkd_search.experiment.reading import to_pandas
from bpkd_search.experiment.schema import COMPLETE, FAILED, PRUNED, RUNNING
from bpkd_search.metrics.table import HEADLINE, SCORES, held_out
from bpkd_search.results.analysis import KEY, is_replicate, violates_constraint
from bpkd_search.results.estimates import ESTIMATES, Searched
from bpkd_search.results.experiments import Experiments

_ORDER = {COMPLETE: 0, RUNNING: 1, PRUNED: 1, FAILED: 2}


class Leaderboard(Experiments):
    """The results of one or several experiment directories, readable while their searches run.

        board = Leaderboard("runs/camvid")
        board.best(5)[["method", "loss.edge_width", "miou"]]
        both = Leaderboard(["runs/camvid", "s3://bucket/runs/camvid-wide"])

    A directory is a path, or a URL of any filesystem that pyarrow opens. For several, the frames hold the union
    of the searched parameters, and `experiment` distinguishes them. Every call reads the files again. Raises
    `ExperimentError` if a directory is not an experiment or cannot be read, or if the experiments
    maximised different metrics. A damaged part file is omitted with a `DamagedFileWarning`.
    """

    def trials(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return one row per trial, best first, with `rank` as the index; `columns` selects some, plus those that rank.

        `estimate`, `estimate_low` and `estimate_high` are there if `columns` names them, see `estimates`, whose notes
        are then in `attrs`.
        Trials that ran their full budget come first, ordered by the search's metric, those that violate a constraint
        after the others, and then replicates, which are further seeds of other trials' settings. Running and stopped
        trials follow, ordered by epochs and metric; failed ones are last. A partial result never outranks a full one.
        """
        needed = ("experiment", "number", "state", "origin", "epochs", "feasible", self.metric)
        estimated = [name for name in ESTIMATES if name in (columns or ())]
        stored = [name for name in columns or () if name not in ESTIMATES]
        frame = to_pandas(self._table(TRIALS, None if columns is None else [*dict.fromkeys([*needed, *stored])]))
        states = frame["state"].astype(object)
        order = frame.assign(
            _group=(states.map(_ORDER).fillna(max(_ORDER.values())) + 0.5 * violates_constraint(frame)).mask(
                (states == COMPLETE) & is_replicate(frame), 0.75
            ),
            _epochs=frame["epochs"].where(states != COMPLETE, 0),
        ).sort_values(
            ["_group", "_epochs", self.metric, "experiment", "number"],
            ascending=[True, False, False, True, True],
            na_position="last",
        )
        ranked = frame.loc[order.index].reset_index(drop=True)
        ranked.index = pd.RangeIndex(1, len(ranked) + 1, name="rank")
        return self.with_estimates(ranked, estimated) if estimated else ranked

    def estimates(self) -> pd.DataFrame:
        """Return what each trial's setting is expected to reach: one row per trial that the model can say something of.

        Columns: experiment, number, `estimate` (the mean over seeds at full budget of the metric that ranks), and
        `estimate_low` and `estimate_high`, its 95 % interval. A model of the space learns them from all that the trials
        of the experiment reported, so running and stopped trials have one, too; trials outside the space, as most
        baselines are, and those that diverged have none. Empty before 4 trials ran their full budget. `attrs["notes"]`
        are sentences on how far to trust them.
        """
        from bpkd_search.results.estimates import estimated

        frames, notes = [], list[str]()
        for name, searched in self._searched():
            frame, said = estimated(searched)
            frames.append(frame.astype({"number": int}).assign(experiment=name)[[*KEY, *ESTIMATES]])
            notes += said if len(self.folders) == 1 else [f"{name}: {line}" for line in said]
        table = pd.concat(frames, ignore_index=True)
        table.attrs["notes"] = notes
        return table

    def with_estimates(self, trials: pd.DataFrame, columns: Sequence[str] = tuple(ESTIMATES)) -> pd.DataFrame:
        """Return rows of `trials` with these columns of `estimates` added, NaN where there is no estimate."""
        known = self.estimates()
        keys = pd.MultiIndex.from_arrays([trials["experiment"].astype(str), trials["number"].astype(int)])
        found = known.set_index(KEY)[list(columns)].reindex(keys)
        added = trials.assign(**{name: found[name].to_numpy(dtype=float) for name in columns})
        added.attrs |= known.attrs
        return added

    def _searched(self) -> Iterator[tuple[str, Searched]]:
        """Yield what the model of the space is made of, by experiment."""
        from bpkd_search.results.estimates import read_searched

        for folder, name, config in zip(self.folders, self.experiments, self.configs, strict=True):
            yield name, read_searched(folder, config, self.metric, self.direction)

    def reports(self, columns: Sequence[str] | None = None, numbers: Sequence[int] | None = None) -> pd.DataFrame:
        """Return one row per validated epoch, by experiment, trial and epoch, of all trials or those in `numbers`."""
        key = ["experiment", "number", "epoch"]
        rows = self._table(REPORTS, None if columns is None else [*dict.fromkeys([*key, *columns])])
        if numbers is not None:
            rows = rows.filter(pc.is_in(rows["number"], pa.array(numbers, pa.int64())))
        frame = to_pandas(rows)
        # A trial resumed from a checkpoint reports an epoch twice if it died between report and checkpoint.
        return frame.drop_duplicates(key, keep="last").sort_values(key, ignore_index=True)

    def best(self, n: int = 1) -> pd.DataFrame:
        """Return the n best of the trials that ran their full budget, including baselines, without replicates."""
        return self._full().head(n)

    def front(self, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the Pareto-optimal full-budget trials for `metrics` that violate no constraint, by rank.

        Without `metrics`, the objectives of the search are used, or edge_miou and body_miou if it had one.
        Scores and speed are better when higher, costs when lower. Trials without a value of a measure are
        omitted. Raises `ConfigError` if a column is not a measure.
        """
        from bpkd_search.results.analysis import front

        objectives = self.objectives if len(self.objectives) > 1 else ["edge_miou", "body_miou"]
        full = self._full()
        return front(full[~violates_constraint(full)], objectives if metrics is None else metrics)

    def compare(self, methods: Sequence[str] | None = None) -> pd.DataFrame:
        """Return a comparison of the methods at equal epochs and at equal GPU-seconds; see `compare.compare`."""
        from bpkd_search.results.compare import compare

        several = len(self.folders) > 1
        measures = [self.metric, "gpu_seconds", "calibrated_seconds"]
        trials, reports = (
            rows.assign(seconds=self.comparable_seconds(rows))
            for rows in (self.trials([*measures, "method", "origin"]), self.reports(measures))
        )
        trials = trials[~is_replicate(trials)]
        return compare(trials, reports, self.metric, methods, ["experiment", "method"] if several else ["method"])

    def expected_best(self) -> pd.DataFrame:
        """Return the expected best score after k trials of each method, with intervals; see `expected_best`."""
        from bpkd_search.results.expected_best import expected_best

        trials = self.trials([self.metric, "gpu_seconds", "calibrated_seconds", "method", "origin"])
        by = ["experiment", "method"] if len(self.folders) > 1 else ["method"]
        return expected_best(trials.assign(seconds=self.comparable_seconds(trials)), self.metric, by)

    def importance(self, seed: int = 0) -> pd.DataFrame:
        """Return the importance of each parameter, by the model and by PED-ANOVA; see `importance.importance`."""
        from bpkd_search.results.importance import importance, pooled

        spaces = [config["space"] for config in self.configs]
        if any(space != spaces[0] for space in spaces):
            raise ExperimentError(f"{', '.join(self.names)}: search different spaces; ask for importance one by one")
        return importance(self._full(), self.metric, pooled([searched for _, searched in self._searched()]), seed)

    def curves(self) -> pd.DataFrame:
        """Return the best score so far against the GPU-seconds spent; see `analysis.best_so_far`."""
        from bpkd_search.results.analysis import best_so_far

        trials = self.trials(["method", "ended"])
        return best_so_far(
            trials[~is_replicate(trials)], self.reports([self.metric, "gpu_seconds", "time"]), self.metric
        )

    def per_class(self) -> pd.DataFrame:
        """Return the IoU of each class (rows) in the best full-budget trial of each method (columns, best first).

        For several experiments, the columns are (experiment, method). Raises `ExperimentError` if their
        classes differ, or if no trial has run its full budget.
        """
        from bpkd_search.results.analysis import per_class

        several = len(self.folders) > 1
        by = ["experiment", "method"] if several else ["method"]
        best = self._full().groupby(by, observed=True, sort=False).head(1)
        reports = self.reports(["class_iou"], best["number"].tolist())
        return per_class(best, reports, by, self.class_names)

    def confirm(self) -> pd.DataFrame:
        """Return one row per confirmed setting and seed of `bpkd-search confirm`, by experiment, seed and trial."""
        return to_pandas(self._table(CONFIRM)).sort_values(["experiment", "seed", "number"], ignore_index=True)

    def winner(self, metric: str | None = None) -> pd.DataFrame:
        """Return the statistics of the confirmation, one row per setting, verdict in `attrs`; see `confirm.summarise`.

        `metric` is by default the metric that ranks the search; `test_miou` and similar are those of the held-out
        split, on which nothing is chosen. Raises `ExperimentError` for several experiments or if one has no such
        scores, `ConfigError` if the metric is unknown.
        """
        from bpkd_search.results.confirm import summarise

        if len(self.folders) > 1:
            raise ExperimentError(f"{', '.join(self.names)}: have different settings; ask for the winner one by one")
        metric = metric or self.metric
        if metric not in (valid := [*SCORES, *map(held_out, SCORES)]):
            raise ConfigError([f"got {metric!r}, valid: {', '.join(valid)}"], "metric")
        rows = self.confirm()
        if rows[metric].isna().all():
            raise ExperimentError(f"{self.names[0]}: has no confirmed {metric} yet")
        return summarise(rows, metric, self.metric if metric not in SCORES else metric)

    @property
    def raced(self) -> bool:
        """Whether the only, or first, search runs settings again with further seeds (`search.replicates`)."""
        return self._searches[0].replicates is not None

    def race(self) -> pd.DataFrame:
        """Return how the settings of a raced search stand, one row each, verdict in `attrs`; see `race.summarise`.

        Raises `ExperimentError` for several experiments and for a search without `search.replicates`.
        """
        from bpkd_search.results.race import summarise

        if len(self.folders) > 1:
            raise ExperimentError(f"{', '.join(self.names)}: have different settings; ask for the race one by one")
        if not self.raced:
            raise ExperimentError(f"{self.names[0]}: ran each setting once, as search.replicates is not auto")
        _, searched = next(self._searched())
        return summarise(self.trials(), self.metric, self.direction, searched)

    @property
    def main_columns(self) -> list[str]:
        """The main columns of `trials`: the parameters, the measures that the search optimised or limited, and costs.

        They include `feasible` if the search has constraints.
        """
        before = ["experiment"] * (len(self.folders) > 1) + ["number", "state"] + ["feasible"] * bool(self.limited)
        measures = [*HEADLINE, *self.objectives, *self.limited, "epochs", "gpu_seconds"]
        return list(dict.fromkeys([*before, "method", *self.parameters, *measures, "reason"]))

    @property
    def summary_columns(self) -> list[str]:
        """The main columns without `loss.method`, which `method` shows: those of a table for reading."""
        return [name for name in self.main_columns if name != "loss.method"]

    def _full(self) -> pd.DataFrame:
        trials = self.trials()
        return trials[(trials["state"] == COMPLETE) & ~is_replicate(trials)]

    def __repr__(self) -> str:
        names = self.names[0] if len(self.names) == 1 else self.names
        return f"Leaderboard({names!r}: {self._counts()}; by {self.metric})"

    def _repr_html_(self) -> str:
        shown = [name for name in self.summary_columns if name != "reason"]
        table = self.trials(shown).head(10)[shown].to_html(na_rep="", float_format="{:.4g}".format)
        notes = [f"{self._counts()}; ranked by {self.metric} on the validation split.", *self.caveats]
        return table + "".join(f"<p>{escape(note)}</p>" for note in notes)

    def _counts(self) -> str:
        states = self.trials(["state"])["state"].astype(object).value_counts()
        return ", ".join(f"{n} {state}" for state, n in states.items()) or "no trials"
