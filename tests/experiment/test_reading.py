"""The tables in other hands: DuckDB, Polars, plain pandas, and an object store."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pandas as pd
import pytest

from bpkd_search import Leaderboard
from bpkd_search.errors import ExperimentError
from tests.experiments import make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    trials = [{"curve": [0.1 * n, 0.2 * n], "point": {"loss.edge_width": 3 + 2 * n}} for n in range(3)]
    folder = make(tmp_path / "exp", trials)
    # What a killed writer leaves must disturb nobody.
    (folder / "trials" / ".part-000000.parquet.1.partial").write_bytes(b"PAR1")
    return folder


def test_plain_pandas(folder: Path) -> None:
    frame = pd.read_parquet(folder / "trials")
    assert frame["loss.edge_width"].tolist() == [3, 5, 7]
    assert frame["state"].tolist() == ["COMPLETE"] * 3


def test_duckdb(folder: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    query = f"""
        select t.number, t.state, t."loss.edge_width", max(r.miou)
        from '{folder}/trials/*.parquet' t join '{folder}/reports/*.parquet' r using (experiment, number)
        group by all order by 1
    """
    rows = duckdb.sql(query).fetchall()
    assert [row[:3] for row in rows] == [(n, "COMPLETE", 3 + 2 * n) for n in range(3)]
    assert [row[3] for row in rows] == pytest.approx([0, 0.2, 0.4])


def test_polars(folder: Path) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(folder / "trials" / "*.parquet")
    assert frame["loss.edge_width"].to_list() == [3, 5, 7]
    assert frame["experiment"].cast(polars.String).to_list() == ["exp"] * 3
    lists = polars.scan_parquet(folder / "reports" / "*.parquet").select("epoch", "miou").collect()
    assert lists["epoch"].to_list() == [1, 2] * 3


def test_a_file_url(folder: Path) -> None:
    board = Leaderboard(folder.as_uri())
    pd.testing.assert_frame_equal(board.trials(), Leaderboard(folder).trials())
    with pytest.raises(ExperimentError, match="must be one experiment directory on this machine"):
        _ = board.directory


@pytest.fixture
def store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket that holds the experiment, behind as much of the S3 protocol as reading takes."""
    root = folder.parent

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", headers.pop("length", str(len(body))))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            key = unquote(url.path).removeprefix("/bucket").strip("/")
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            if "list-type" in query:
                return self.answer(200, self.listing(query.get("prefix", ""), query.get("delimiter")))
            path = root / key
            if not path.is_file():
                return self.answer(404)
            data = path.read_bytes()
            dated = {"Last_Modified": "Sun, 01 Nov 2026 00:00:00 GMT", "ETag": '"0"', "Accept_Ranges": "bytes"}
            if found := re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                begin, end = int(found[1]), min(int(found[2]), len(data) - 1)
                dated["Content_Range"] = f"bytes {begin}-{end}/{len(data)}"
                return self.answer(206, data[begin : end + 1], **dated)
            return self.answer(200, data, **dated)

        def listing(self, prefix: str, delimiter: str | None) -> bytes:
            keys = [str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file()]
            keys = [key for key in keys if key.startswith(prefix)]
            rest = {key: key[len(prefix) :].split("/", 1) for key in keys}
            folders = sorted({prefix + p[0] + "/" for p in rest.values() if delimiter and len(p) > 1})
            files = [key for key, p in rest.items() if not delimiter or len(p) == 1]
            items = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{(root / key).stat().st_size}</Size>"
                "<LastModified>2026-11-01T00:00:00.000Z</LastModified></Contents>"
                for key in files
            ) + "".join(f"<CommonPrefixes><Prefix>{escape(p)}</Prefix></CommonPrefixes>" for p in folders)
            return f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield f"endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
    server.shutdown()
    server.server_close()


def test_an_object_store(folder: Path, store: str) -> None:
    board = Leaderboard(f"s3://key:secret@bucket/exp?{store}")
    pd.testing.assert_frame_equal(board.trials(), Leaderboard(folder).trials())
    pd.testing.assert_frame_equal(board.reports(), Leaderboard(folder).reports())
    assert board.metric == "miou"
    # Keys of the store are in no message.
    assert board.names == ["s3://bucket/exp"]
    with pytest.raises(ExperimentError, match=r"^s3://bucket/other: is not an experiment directory"):
        Leaderboard(f"s3://key:secret@bucket/other?{store}")


@pytest.mark.parametrize("url", ["nothing://a/b", "s3://", "gs://"])
def test_a_url_that_opens_nothing_is_said(url: str) -> None:
    with pytest.raises(ExperimentError, match=f"{url}: cannot be opened"):
        Leaderboard(url)
