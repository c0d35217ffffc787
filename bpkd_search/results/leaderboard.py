"""Reading an experiment: trials and reports as pandas frames, ranked honestly. No torch, no Ray."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import yaml

from bpkd_search.errors import ExperimentError
from bpkd_search.results.schema import COMPLETE, FAILED, METRIC_COLUMNS, PRUNED, RUNNING

METRICS = tuple(name for name, _, _ in METRIC_COLUMNS)
_ORDER = {COMPLETE: 0, RUNNING: 1, PRUNED: 1, FAILED: 2}


class Leaderboard:
    """The results of one experiment folder, readable while its search runs.

        board = Leaderboard("runs/camvid")
        board.best(5)[["method", "loss.edge_width", "miou"]]

    Errors: `ExperimentError` for a folder that is no experiment or whose tables cannot be read.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        if not (self.directory / "config.yaml").is_file():
            raise ExperimentError(f"{self.directory}: is no experiment folder (it has no config.yaml)")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The search's resolved configuration as a plain mapping."""
        config: dict[str, Any] = yaml.safe_load((self.directory / "config.yaml").read_text())
        return config

    @property
    def metric(self) -> str:
        """What the search maximised."""
        return str(self.config["search"]["metric"])

    @property
    def parameters(self) -> list[str]:
        """The searched parameters, as columns are named."""
        return list(self.config["space"])

    def trials(self) -> pd.DataFrame:
        """One row a trial, best first, with `rank` as the index.

        Trials that ran their full budget come first by the search's metric; those that are running or were
        stopped follow by epochs and metric, failed ones last: a partial result never outranks a full one.
        """
        frame = self._read("trials")
        if self.metric not in METRICS or frame.empty:
            return frame
        order = frame.assign(
            _group=frame["state"].map(_ORDER),
            _epochs=frame["epochs"].where(frame["state"] != COMPLETE, 0),
        ).sort_values(
            ["_group", "_epochs", self.metric, "number"],
            ascending=[True, False, False, True],
            na_position="last",
        )
        ranked = frame.loc[order.index].reset_index(drop=True)
        ranked.index = pd.RangeIndex(1, len(ranked) + 1, name="rank")
        return ranked

    def reports(self) -> pd.DataFrame:
        """One row a validated epoch, by trial and epoch."""
        frame = self._read("reports")
        # A trial continued from a checkpoint reports an epoch twice if it died between report and checkpoint.
        frame = frame.drop_duplicates(["number", "epoch"], keep="last")
        return frame.sort_values(["number", "epoch"], ignore_index=True)

    def best(self, n: int = 1) -> pd.DataFrame:
        """The n best of the trials that ran their full budget, baselines among them."""
        trials = self.trials()
        return trials[trials["state"] == COMPLETE].head(n)

    def _read(self, table: str) -> pd.DataFrame:
        folder = self.directory / table
        if not folder.is_dir():
            raise ExperimentError(f"{self.directory}: has no {table} yet; has its search started?")
        try:
            frame: pd.DataFrame = ds.dataset(folder, format="parquet").to_table().to_pandas()
        except (OSError, pa.ArrowInvalid) as e:
            raise ExperimentError(f"{folder}: cannot be read: {e}") from e
        return frame

    def __repr__(self) -> str:
        states = self.trials()["state"].value_counts()
        counts = ", ".join(f"{n} {state}" for state, n in states.items())
        return f"Leaderboard({str(self.directory)!r}: {counts}; by {self.metric})"
