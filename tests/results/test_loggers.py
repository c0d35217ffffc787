"""Loggers, read back with the readers of the packages that they write for."""

from __future__ import annotations

import csv
import json
import struct
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.models import Logging
from bpkd_search.errors import ConfigError, MissingPackageError
from bpkd_search.results.loggers import make_loggers
from bpkd_search.search.engine import Engine
from tests.driving import drive


def settings(config: SearchConfig, **switches: Any) -> SearchConfig:
    return config.model_copy(update={"logging": Logging(**switches)})


def searched(tiny: dict[str, Any], folder: Path, **switches: Any) -> Engine:
    """A finished search, stopped in the middle and resumed, with loggers listening to both halves; a trial fails."""
    config = parse(SearchConfig, tiny | {"search": {**tiny["search"], "trials": 6}}, "test")
    folder.mkdir(exist_ok=True)
    for stop_after in (9, None):
        loggers = make_loggers(settings(config, **switches), folder)

        def listen(event: str, trial: Any, loggers: list[Any] = loggers) -> None:
            for logger in loggers:
                logger(event, trial)

        engine = Engine(config, folder, "test", listen=listen)
        drive(engine, stop_after=stop_after)
        if stop_after is not None:
            engine.end(next(number for number in engine.trials if number not in engine.states), ("oom", "no memory"))
        engine.recorder.close()
        if switches.get("wandb"):
            sys.modules["wandb"].teardown()  # as the end of the process does
    assert set(engine.states.values()) == {"COMPLETE", "PRUNED", "FAILED"}
    return engine


def all_reports(engine: Engine) -> dict[tuple[int, int], float]:
    return {(n, epoch): r["miou"] for n, t in engine.trials.items() for epoch, r in t.reports.items()}


def test_every_logger_is_off_unless_asked_for(tiny: dict[str, Any], tmp_path: Path) -> None:
    assert make_loggers(settings(parse(SearchConfig, tiny, "test")), tmp_path) == []
    assert not any(tmp_path.iterdir())


def test_csv_has_every_report_once_also_after_a_resume(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = searched(tiny, tmp_path / "e", csv=True)
    with (tmp_path / "e/logs/reports.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(all_reports(engine))
    assert {(int(r["number"]), int(r["epoch"])): float(r["miou"]) for r in rows} == all_reports(engine)
    weights = {int(r["number"]): r["loss.edge_weight"] for r in rows}
    assert weights[0] == ""  # ce has no such parameter
    assert float(weights[4]) == engine.trials[4].run.loss.edge_weight
    assert {r["loss"] for r in rows} == {""} and {r["gpu_seconds"] for r in rows if r["epoch"] == "2"} == {"4.0"}


def test_a_csv_begun_with_other_measures_keeps_its_columns(tiny: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "e/logs/reports.csv"
    file.parent.mkdir(parents=True)
    file.write_text("epoch,number,gpu_seconds,retired,miou\r\n")
    engine = searched(tiny, tmp_path / "e", csv=True)
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert {(int(r["number"]), int(r["epoch"])): float(r["miou"]) for r in rows} == all_reports(engine)
    assert {float(r["gpu_seconds"]) == 2.0 * int(r["epoch"]) for r in rows} == {True}
    assert {r["retired"] for r in rows} == {""} and {len(r) for r in rows} == {5}


def test_tensorboard_reads_scalars_and_points(tiny: dict[str, Any], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    engine = searched(tiny, tmp_path / "e", tensorboard=True)
    found = {}
    for number in engine.trials:
        reader = accumulator.EventAccumulator(str(tmp_path / f"e/logs/tensorboard/trial-{number:05d}"))
        reader.Reload()
        found |= {(number, e.step): e.value for e in reader.Scalars("miou")}
        assert reader.Scalars("loss_ce")[0].value == 1.0
        hparams = reader.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        assert b"edge_weight" in hparams or number in (0, 1, 2)
        assert engine.states[number].encode() in hparams
        end = HParamsPluginData.FromString(reader.SummaryMetadata("_hparams_/session_end_info").plugin_data.content)
        assert end.session_end_info.status == (2 if engine.states[number] == "FAILED" else 1)
    assert found == pytest.approx(all_reports(engine))


def mixture(tiny: dict[str, Any]) -> dict[str, Any]:
    """A search over one term of a mixture, whose path has the term's index."""
    return tiny | {
        "loss": {"terms": [{"method": "kd"}, {"method": "bpkd", "edge_width": 3}]},
        "space": {"loss.terms.1.edge_weight": {"float": [0.05, 50], "log": True}},
    }


def test_a_parameter_inside_a_list_reaches_the_csv_file(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine = searched(mixture(tiny), tmp_path / "e", csv=True)
    with (tmp_path / "e/logs/reports.csv").open(newline="") as file:
        written = {int(r["number"]): r["loss.terms.1.edge_weight"] for r in csv.DictReader(file)}
    assert {n: float(value) for n, value in written.items() if n >= 4} == {
        n: trial.run.loss.terms[1].edge_weight for n, trial in engine.trials.items() if n >= 4
    }
    assert [written[n] for n in range(4)] == [""] * 4  # the baselines are no mixtures


def test_a_parameter_inside_a_list_reaches_the_hparams_of_tensorboard(tiny: dict[str, Any], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    engine = searched(mixture(tiny), tmp_path / "e", tensorboard=True)
    for number, trial in engine.trials.items():
        reader = accumulator.EventAccumulator(str(tmp_path / f"e/logs/tensorboard/trial-{number:05d}"))
        reader.Reload()
        start = HParamsPluginData.FromString(reader.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
        point = start.session_start_info.hparams
        assert ("loss.terms.1.edge_weight" in point) == (number >= 4)
        if number >= 4:
            assert point["loss.terms.1.edge_weight"].number_value == trial.run.loss.terms[1].edge_weight


@pytest.mark.parametrize("elsewhere", [False, True])
def test_mlflow_file_store_has_a_run_a_trial(tiny: dict[str, Any], tmp_path: Path, elsewhere: bool) -> None:
    mlflow = pytest.importorskip("mlflow")
    store = tmp_path / ("mine" if elsewhere else "e/logs/mlruns")
    engine = searched(tiny, tmp_path / "e", mlflow=str(store) if elsewhere else True)
    client = mlflow.MlflowClient(tracking_uri=store.as_uri())
    experiment = client.get_experiment_by_name("tiny")
    runs = {int(run.data.tags["trial"]): run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == engine.trials.keys()
    found = {(n, m.step): m.value for n, r in runs.items() for m in client.get_metric_history(r.info.run_id, "miou")}
    assert found == pytest.approx(all_reports(engine))
    assert float(runs[4].data.params["loss.edge_weight"]) == engine.trials[4].run.loss.edge_weight
    status = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAILED": "FAILED"}
    assert {n: run.info.status for n, run in runs.items()} == {n: status[s] for n, s in engine.states.items()}
    assert {n: run.data.tags["state"] for n, run in runs.items()} == engine.states
    assert [run.data.tags["reason"] for run in runs.values() if "reason" in run.data.tags] == ["oom"]


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of an offline run: LevelDB's log format (blocks of 32 KiB) behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, waiting = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        waiting += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            yield Record.FromString(waiting)
            waiting = b""


def test_wandb_offline_keeps_every_report(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    engine = searched(tiny, tmp_path / "e", wandb=True)
    found, states, exits = {}, {}, {}
    for file in sorted((tmp_path / "e/logs/wandb").glob("offline-run-*/*.wandb")):
        number = int(file.stem[-5:])
        for record in wandb_records(file):
            for update in record.summary.update:
                if update.key == "state":
                    states[number] = json.loads(update.value_json)
            if record.WhichOneof("record_type") == "exit":
                exits[number] = record.exit.exit_code
            items = {"/".join([*i.nested_key, i.key]).strip("/"): i.value_json for i in record.history.item}
            if "miou" in items:
                found[number, int(record.history.step.num)] = float(items["miou"])
    assert found == pytest.approx(all_reports(engine))
    assert states == engine.states
    assert exits == {number: int(state == "FAILED") for number, state in engine.states.items()}


def test_a_package_that_is_missing_is_named_with_its_extra(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse(SearchConfig, tiny, "test")
    for switch, package in (("tensorboard", "tensorboardX"), ("mlflow", "mlflow"), ("wandb", "wandb")):
        for module in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, package, None)
        message = rf"logging\.{switch}: needs {package}, .* pip install 'bpkd-search\[{switch}\]'"
        with pytest.raises(MissingPackageError, match=message):
            make_loggers(settings(config, **{switch: True}), tmp_path)


def test_a_logger_that_fails_is_named_once_and_the_search_goes_on(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = parse(SearchConfig, tiny, "test")
    (logger,) = make_loggers(settings(config, csv=True), tmp_path)
    (tmp_path / "logs/reports.csv").unlink()
    (tmp_path / "logs").rmdir()
    (tmp_path / "logs").write_text("in the way")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        engine = Engine(config, tmp_path, "test", listen=logger)
        drive(engine)
    assert len(engine.states) == engine.total
    assert [str(w.message).partition(":")[0] for w in said] == ["logging.csv"]


def test_a_store_that_cannot_be_used_is_said_before_the_search(tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    with pytest.raises(ConfigError, match=r"logging\.csv: cannot be used"):
        make_loggers(settings(parse(SearchConfig, tiny, "test"), csv=True), tmp_path)
