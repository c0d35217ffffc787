"""The columns of the result tables: typed, documented, versioned.

`trials` has one row per trial, `reports` one row per validated epoch, `confirm` one row per confirmed setting and seed;
`memory`, outside the experiment directory, has one row per trial of a finished search for others to learn from.
Each searched parameter has its own column, named by its config path. New versions only add columns; files of
older versions remain readable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from bpkd_search.experiment.paths import CONFIRM, MEMORY, REPORTS, TRIALS
from bpkd_search.metrics.table import MEASURES, REPORTED, SCORES, Measure, held_out

# Version 4 added `retries`, version 5 that of `confirm` and `iteration`, version 6 `replicate_of`.
SCHEMA_VERSION = max(6, *(measure.since for measure in MEASURES))

# Trial states. Only COMPLETE ran its full budget and competes for "best".
RUNNING, COMPLETE, PRUNED, FAILED = "RUNNING", "COMPLETE", "PRUNED", "FAILED"
# The reason of a trial that ran out of memory, on its device or its node.
OOM = "oom"
# That of one whose node cannot run trials; it is no end, the trial runs elsewhere.
NODE = "node"
# Where a trial's settings come from.
BASELINE, ENQUEUED, REMEMBERED, SAMPLED = "baseline", "enqueued", "memory", "sampled"
# That of a trial that runs another one's setting again with a further seed.
REPLICATE = "replicate"

Column = tuple[str, pa.DataType, str]
_NAME = pa.dictionary(pa.int32(), pa.string())

PARAMETER_TYPES: dict[str, pa.DataType] = {
    "float": pa.float64(),
    "int": pa.int64(),
    "bool": pa.bool_(),
    "string": _NAME,
}


def _column(measure: Measure) -> Column:
    return measure.name, PARAMETER_TYPES[measure.kind], measure.meaning


_SCORES = tuple(_column(measure) for measure in MEASURES if measure.role == "score")
_COSTS = tuple(_column(measure) for measure in MEASURES if measure.role != "score")

_RETRIES: Column = (
    "retries",
    pa.int64(),
    "times the trial was lost with its process or node, or ran out of memory, and continued from its checkpoint, or was"
    " run again by `retry`",
)
_DEVICE: Column = ("device", _NAME, "kind of GPU, or model of the CPU; empty in older searches")

TRIAL_COLUMNS: tuple[Column, ...] = (
    ("experiment", _NAME, "name of the search"),
    ("number", pa.int64(), "the trial's number in its experiment, from 0"),
    ("trial_id", pa.string(), "experiment and number in one word"),
    ("state", _NAME, "RUNNING, COMPLETE, PRUNED or FAILED"),
    ("reason", _NAME, "why it FAILED: nan, oom, error or lost"),
    ("message", pa.string(), "the message of the failure, or why the trial was last retried"),
    ("feasible", pa.bool_(), "whether the trial meets the constraints; empty without constraints"),
    ("method", _NAME, "a baseline's name, or the loss method"),
    ("origin", _NAME, "baseline, enqueued, memory (a best point of another search), sampled or replicate"),
    ("replicate_of", pa.int64(), "the trial whose setting a replicate runs again with a further seed; else empty"),
    *_SCORES,
    ("epochs", pa.int64(), "epochs trained"),
    *_COSTS,
    ("seed", pa.int64(), "training seed"),
    _RETRIES,
    ("node", _NAME, "host the trial ran on"),
    _DEVICE,
    ("started", pa.timestamp("ms", tz="UTC"), "start of the trial"),
    ("ended", pa.timestamp("ms", tz="UTC"), "end of the trial; empty while it runs"),
    ("config", pa.string(), "the whole run as JSON"),
    ("version", pa.string(), "version of bpkd-search"),
)
REPORT_COLUMNS: tuple[Column, ...] = (
    ("experiment", _NAME, "name of the search"),
    ("number", pa.int64(), "the trial's number"),
    ("epoch", pa.int64(), "epochs trained so far; validations, where `train.validate_every` says when they are"),
    ("iteration", pa.int64(), "updates of the weights so far"),
    *_SCORES,
    *(column for column in _COSTS if column[0] in REPORTED),
    ("loss", pa.float64(), "mean training loss of the epoch, all terms"),
    ("loss_terms", pa.string(), "mean of each weighted loss term, as JSON"),
    ("class_iou", pa.list_(pa.float64()), "IoU of each class in the order of the data set; empty where absent"),
    ("time", pa.timestamp("ms", tz="UTC"), "time of the report"),
)
CONFIRM_COLUMNS: tuple[Column, ...] = (
    ("experiment", _NAME, "name of the search"),
    ("number", pa.int64(), "the search's trial whose setting was run again"),
    ("seed", pa.int64(), "training seed; every setting has the same seeds, none of them used in the search"),
    ("run", pa.int64(), "number of the run in `confirmation/`, and of its student file"),
    ("state", _NAME, "COMPLETE or FAILED; a failed run has no measures"),
    ("reason", _NAME, "why it FAILED: nan, oom, error or lost"),
    ("message", pa.string(), "the message of the failure, or why the run was last retried"),
    ("method", _NAME, "a baseline's name, or the loss method"),
    ("origin", _NAME, "how the search came to the setting: baseline, enqueued, memory or sampled"),
    *_SCORES,
    *((held_out(name), kind, f"{doc}; on the held-out split") for name, kind, doc in _SCORES),
    ("epochs", pa.int64(), "epochs trained"),
    (
        "gpu_seconds",
        pa.float64(),
        "seconds inside training, without validation and start-up, times the share of a GPU held",
    ),
    _RETRIES,
    _DEVICE,
    ("ended", pa.timestamp("ms", tz="UTC"), "end of the run"),
    ("version", pa.string(), "version of bpkd-search"),
)
MEMORY_COLUMNS: tuple[Column, ...] = (
    ("number", pa.int64(), "the trial's number in its search"),
    ("state", _NAME, "COMPLETE, PRUNED or FAILED"),
    ("feasible", pa.bool_(), "whether the trial meets the constraints of its search; empty without constraints"),
    ("method", _NAME, "a baseline's name, or the loss method"),
    ("origin", _NAME, "baseline, enqueued, memory or sampled"),
    *_SCORES,
    ("epochs", pa.int64(), "epochs trained"),
    *_COSTS,
    ("seed", pa.int64(), "training seed"),
    ("config", pa.string(), "loss, training and student of the run as JSON, without files and devices"),
)


def trials_schema(parameters: Mapping[str, str]) -> pa.Schema:
    """Schema of `trials`; `parameters` maps each searched path to float, int, bool or string."""
    return _schema(TRIALS, TRIAL_COLUMNS, parameters)


def reports_schema() -> pa.Schema:
    """Schema of `reports`."""
    return _schema(REPORTS, REPORT_COLUMNS, {})


def confirm_schema(parameters: Mapping[str, str]) -> pa.Schema:
    """Schema of `confirm`; `parameters` as in `trials_schema`."""
    return _schema(CONFIRM, CONFIRM_COLUMNS, parameters)


def memory_schema(parameters: Mapping[str, str]) -> pa.Schema:
    """Schema of the table that a finished search leaves in a memory; `parameters` as in `trials_schema`."""
    return _schema(MEMORY, MEMORY_COLUMNS, parameters)


def _schema(table: str, columns: Sequence[Column], parameters: Mapping[str, str]) -> pa.Schema:
    searched = [pa.field(path, PARAMETER_TYPES[kind]) for path, kind in parameters.items()]
    fixed = [pa.field(name, kind, metadata={"doc": doc}) for name, kind, doc in columns]
    # Parameters come after the method and before the measures.
    split = next(i for i, field in enumerate(fixed) if field.name == SCORES[0])
    metadata = {"bpkd_search.table": table, "bpkd_search.schema": str(SCHEMA_VERSION)}
    return pa.schema([*fixed[:split], *searched, *fixed[split:]], metadata=metadata)
