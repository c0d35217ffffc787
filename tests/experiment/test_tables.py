"""Tables: typed, whole at every moment, a function of the log, readable with plain tools."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from bpkd_search import Leaderboard
from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.events import EventLog, read_events
from bpkd_search.experiment.recorder import Recorder
from bpkd_search.experiment.schema import SCHEMA_VERSION
from bpkd_search.experiment.tables import ChunkedTable

PARAMETERS = {"loss.edge_width": "int", "loss.edge_weight": "float", "loss.method": "string", "loss.pre_mask": "bool"}


def recorder(folder: Path) -> Recorder:
    folder.mkdir(exist_ok=True)
    config = {"search": {"metric": "miou"}, "space": dict.fromkeys(PARAMETERS)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return Recorder(folder, "exp", PARAMETERS, "1.2.3")


def ask(table: Recorder, number: int, **point: Any) -> None:
    table.record(
        "ask", number, trial_id=f"exp-{number}", method="bpkd", origin="sampled", point=point, seed=0, config={"a": 1}
    )


def report(table: Recorder, number: int, epoch: int, miou: float) -> None:
    table.record(
        "report", number, epoch=epoch, miou=miou, edge_miou=miou / 2, gpu_seconds=float(epoch), loss_ce=0.5, node="n1",
        class_iou=[miou, None], parameters=12,
    )  # fmt: skip


def test_columns_are_typed_and_stay_so_when_empty(tmp_path: Path) -> None:
    table = recorder(tmp_path / "e")
    ask(table, 0)
    table.flush()
    schema = pq.read_schema(tmp_path / "e" / "trials" / "part-000000.parquet")
    assert schema.field("loss.edge_width").type == pa.int64()
    assert schema.field("loss.edge_weight").type == pa.float64()
    assert schema.field("loss.pre_mask").type == pa.bool_()
    assert schema.field("miou").type == pa.float64()
    assert pa.types.is_timestamp(schema.field("ended").type)
    assert schema.metadata[b"bpkd_search.schema"] == str(SCHEMA_VERSION).encode()
    assert schema.field("gpu_seconds").metadata[b"doc"].startswith(b"seconds inside training")


def test_a_row_follows_its_trial_from_ask_to_end(tmp_path: Path) -> None:
    table = recorder(tmp_path / "e")
    ask(table, 0, **{"loss.edge_width": 7, "loss.method": "bpkd"})
    board = Leaderboard(tmp_path / "e")
    table.flush()
    assert board.trials().iloc[0][["state", "loss.edge_width"]].tolist() == ["RUNNING", 7]
    report(table, 0, 1, 0.25)
    report(table, 0, 2, 0.5)
    table.flush()
    row = board.trials().iloc[0]
    assert (row["state"], row["epochs"], row["miou"], row["gpu_seconds"], row["node"]) == ("RUNNING", 2, 0.5, 2.0, "n1")
    table.record("end", 0, state="FAILED", reason="oom", message="too big")
    table.flush()
    row = board.trials().iloc[0]
    assert (row["state"], row["reason"], row["message"]) == ("FAILED", "oom", "too big")
    assert row["ended"] >= row["started"]
    assert json.loads(row["config"]) == {"a": 1}
    reports = board.reports()
    assert reports[["number", "epoch", "miou"]].to_numpy().tolist() == [[0, 1, 0.25], [0, 2, 0.5]]
    assert json.loads(reports["loss_terms"][0]) == {"ce": 0.5}


def test_plain_pandas_reads_both_tables(tmp_path: Path) -> None:
    table = recorder(tmp_path / "e")
    for number in range(3):
        ask(table, number)
        report(table, number, 1, 0.1 * number)
    table.close()
    assert pd.read_parquet(tmp_path / "e" / "trials")["number"].tolist() == [0, 1, 2]
    assert pd.read_parquet(tmp_path / "e" / "reports")["miou"].tolist() == pytest.approx([0, 0.1, 0.2])


def test_what_was_logged_is_in_the_tables_after_reopening_whatever_was_flushed(tmp_path: Path) -> None:
    table = recorder(tmp_path / "e")
    ask(table, 0)
    for epoch in range(1, 30):
        report(table, 0, epoch, epoch / 100)
    # Killed before any flush that was due: nothing is closed.
    reopened = recorder(tmp_path / "e")
    assert Leaderboard(tmp_path / "e").reports()["epoch"].tolist() == list(range(1, 30))
    report(reopened, 0, 30, 0.3)
    reopened.close()
    assert Leaderboard(tmp_path / "e").reports()["epoch"].tolist() == list(range(1, 31))


def test_a_folder_can_be_moved(tmp_path: Path) -> None:
    table = recorder(tmp_path / "e")
    ask(table, 0)
    table.close()
    (tmp_path / "e").rename(tmp_path / "elsewhere")
    assert len(Leaderboard(tmp_path / "elsewhere").trials()) == 1
    reopened = recorder(tmp_path / "elsewhere")
    assert reopened.trials[0]["trial_id"] == "exp-0"


def test_files_stay_few_and_only_changed_chunks_are_rewritten(tmp_path: Path) -> None:
    table = ChunkedTable(tmp_path / "t", pa.schema([("n", pa.int64())]), chunk=10)
    for n in range(95):
        table.put(n, {"n": n})
    table.flush()
    files = sorted((tmp_path / "t").iterdir())
    assert len(files) == 10
    before = {f: f.stat().st_mtime_ns for f in files}
    table.put(42, {"n": -42})
    table.flush()
    assert [f.name for f in files if f.stat().st_mtime_ns != before[f]] == ["part-000004.parquet"]
    assert sorted(pd.read_parquet(tmp_path / "t")["n"])[:2] == [-42, 0]


@pytest.mark.parametrize("cut", range(0, 80, 7))
def test_a_log_cut_at_any_byte_keeps_every_whole_event(tmp_path: Path, cut: int) -> None:
    log = EventLog(tmp_path)
    for number in range(5):
        log.append({"event": "report", "number": number})
    log.close()
    path = tmp_path / "events.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - cut])
    whole = data[: len(data) - cut].count(b"\n")
    assert [e["number"] for e in read_events(tmp_path)] == list(range(whole))
    log = EventLog(tmp_path)
    log.append({"event": "report", "number": 99})
    log.close()
    assert [e["number"] for e in read_events(tmp_path)] == [*range(whole), 99]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event":"ask","number":0}\nnot json\n{"event":"ask","number":1}\n')
    with pytest.raises(ExperimentError, match=r"events\.jsonl:2: is not an event"):
        list(read_events(tmp_path))


def test_a_disk_that_fills_up_is_said_and_leaves_the_old_table_whole(tmp_path: Path) -> None:
    import resource

    table = recorder(tmp_path / "e")
    for number in range(3):
        ask(table, number)
    table.flush()
    pid = os.fork()
    if pid == 0:  # a child that may write 2 kB a file, as on a disk that is about to be full
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
        try:
            for number in range(3, 40):
                ask(table, number)
                table.flush()
        except ExperimentError as e:
            os._exit(7 if "free some space and resume" in str(e) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert len(Leaderboard(tmp_path / "e").trials()) == 3
    assert [p.name for p in (tmp_path / "e" / "trials").iterdir()] == ["part-000000.parquet"]


def test_a_folder_that_is_no_experiment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="is not an experiment directory"):
        Leaderboard(tmp_path)
