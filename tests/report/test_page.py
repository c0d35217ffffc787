"""The report: what it says and draws, that nothing of an experiment becomes markup, and a look in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import sys
import types
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from bpkd_search.errors import ExperimentError, ResourceError, UserError
from bpkd_search.pictures.panels import Panels, Picture
from bpkd_search.report.page import report_page, script_json, write_report
from bpkd_search.report.sections import headline, sections
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.show import dashboard as report_dashboard
from bpkd_search.show.confirmation import show_confirmation
from tests.experiments import make

plotly = pytest.importorskip("plotly", reason="the report needs plotly")

EVIL = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="


def experiment(folder: Path, count: int = 24, **config: Any) -> Path:
    """Baselines, full, stopped and failed trials whose scores follow from their numbers."""
    rng = np.random.default_rng(0)
    trials: list[dict[str, Any]] = [
        {"method": name, "origin": "baseline", "curve": [0.2, 0.3, 0.35, top], "class_iou": [top, 0.1, 0.0]}
        for name, top in (("ce", 0.40), ("kd", 0.42), ("cwd", 0.43), ("bpkd-paper", 0.38))
    ]
    for number in range(4, count):
        point = {"loss.edge_width": int(3 + 2 * (number % 5)), "loss.edge_weight": float(10 ** rng.uniform(-1, 1))}
        curve = (0.3 + 0.15 * rng.random(4)).cumsum() / np.arange(1, 5)
        stopped = number % 3 == 0
        trials.append(
            {"point": point, "curve": list(curve[:2] if stopped else curve), "class_iou": [0.5, 0.05, 0.0]}
            | ({"state": "PRUNED"} if stopped else {})
        )
    trials.append({"curve": [], "state": "FAILED", "reason": "nan", "point": {"loss.edge_width": 3}})
    return make(folder, trials, **config)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    scheduler = {"name": "asha", "grace": 1, "reduction": 2, "axis": "epochs"}
    config = {
        "search": {"metric": "miou", "scheduler": scheduler},
        "data": {"kind": "camvid", "crop": [96, 128]},
    }
    return Leaderboard(experiment(tmp_path_factory.mktemp("report") / "e", **config))


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def drawn(board: Leaderboard) -> dict[str, Any]:
    return {part.title: part for part in sections(board, shown(board))}


def shown(board: Leaderboard) -> pd.DataFrame:
    return board.with_estimates(board.trials())


def test_the_page_holds_every_trial_best_first(board: Leaderboard) -> None:
    table = data_of(report_page(board, Panels()))["table"]
    names = [column["name"] for column in table["columns"]]
    trials = board.trials()
    assert [row[names.index("number")] for row in table["rows"]] == trials["number"].tolist()
    expected = [None if v != v else float(f"{v:.6g}") for v in trials["miou"].astype(float)]
    assert [row[names.index("miou")] for row in table["rows"]] == expected
    assert "latency_ms" not in names  # nobody measured it


def test_what_came_of_it_is_said_honestly(board: Leaderboard) -> None:
    trials = shown(board)
    full = trials[trials["state"] == "COMPLETE"]
    best = full[full["origin"] != "baseline"].iloc[0]
    facts, said = headline(board, trials)
    lead = 100 * (best["miou"] - 0.43)
    assert f"trial {best['number']}, reaches miou {best['miou']:.4f}: {abs(lead):.1f} points" in said[0]
    assert ("above" in said[0]) == (lead > 0) and "(cwd, 0.4300)" in said[0]
    mean, low, high = best[["estimate", "estimate_low", "estimate_high"]]
    first = full[full["origin"] != "baseline"].sort_values("estimate", ascending=False).iloc[0]
    assert said[1].startswith(f"Its expected mean over seeds is {mean:.4f} [{low:.4f}, {high:.4f}] (95 % interval")
    assert said[1].endswith(
        "the best of all estimates."
        if first["number"] == best["number"]
        else f"that of trial {first['number']}, {first['estimate']:.4f} [{first['estimate_low']:.4f},"
        f" {first['estimate_high']:.4f}]."
    )
    assert "One seed each" in said[2] and "optimistic" in said[2]
    assert said[3].startswith("CamVid's validation frames")
    assert facts[1] == "camvid, crops of 96x128"
    assert facts[0] == "25 trials: " + ", ".join(
        f"{n} {s.lower()}" for s, n in trials["state"].astype(object).value_counts().items()
    )


def test_every_figure_is_one_that_plotly_takes(board: Leaderboard) -> None:
    import plotly.graph_objects as go

    parts = drawn(board)
    assert list(parts) == [
        "Estimates",
        "Best so far",
        "Gains over the baselines",
        "Gains by class",
        "Parallel coordinates",
        "Slices",
        "Importance",
        "Rank correlation at the rungs",
        "States and costs",
    ]
    for part in parts.values():
        assert part.figures and part.remarks, part.title
        for chart in part.figures:
            go.Figure(data=chart["data"], layout=chart["layout"])


def test_estimates_are_drawn_with_their_intervals_against_the_scores(board: Leaderboard) -> None:
    rows = shown(board).dropna(subset=["estimate"]).set_index("number")
    part = drawn(board)["Estimates"]
    full, others = part.figures[0]["data"]
    assert {n for trace in (full, others) for n, *_ in trace["customdata"]} == set(rows.index)
    assert set(rows.loc[[n for n, *_ in others["customdata"]], "state"]) == {"PRUNED"}
    for trace in (full, others):
        mine = rows.loc[[n for n, *_ in trace["customdata"]]]
        assert trace["x"] == mine["miou"].tolist() and trace["y"] == mine["estimate"].tolist()
        shown_ends = [(low, high) for *_, low, high in trace["customdata"]]
        assert shown_ends == list(zip(mine["estimate_low"], mine["estimate_high"], strict=True))
        assert "[%{customdata[3]:.4f}, %{customdata[4]:.4f}]" in trace["hovertemplate"]
        ends = trace["error_y"]
        assert [y + up for y, up in zip(trace["y"], ends["array"], strict=True)] == pytest.approx(
            mine["estimate_high"].tolist()
        )
        assert [y - down for y, down in zip(trace["y"], ends["arrayminus"], strict=True)] == pytest.approx(
            mine["estimate_low"].tolist()
        )
    assert part.remarks[0].startswith("estimate: expected mean over seeds")
    table = data_of(report_page(board, Panels()))["table"]
    place = [column["name"] for column in table["columns"]].index("estimate")
    numbers = [column["name"] for column in table["columns"]].index("number")
    cells = {row[numbers]: row[place] for row in table["rows"] if row[place] is not None}
    assert cells == pytest.approx(rows["estimate"].to_dict(), rel=1e-5)
    assert table["columns"][place]["bestFirst"] and table["columns"][place]["decimals"] == 4


def test_gains_are_differences_in_points(board: Leaderboard) -> None:
    best = board.trials().query("state == 'COMPLETE' and origin != 'baseline'").iloc[0]
    bars = {
        trace["name"]: dict(zip(trace["x"], trace["y"], strict=True))
        for trace in drawn(board)["Gains over the baselines"].figures[0]["data"]
    }
    assert bars["miou"]["kd"] == pytest.approx(100 * (best["miou"] - 0.42))
    assert bars["edge_miou"]["cwd"] == pytest.approx(100 * (best["edge_miou"] - 0.43 / 2))
    part = drawn(board)["Gains by class"]
    (trace,) = part.figures[0]["data"]
    assert dict(zip(trace["y"], trace["x"], strict=True)) == pytest.approx(
        {"class 0": 7.0, "class 1": -5.0, "class 2": 0.0}
    )
    assert "IoU 0 in both: class 2." in part.remarks


def test_rungs_are_drawn_beside_spearmans_correlation_with_the_end(board: Leaderboard) -> None:
    trials, reports = board.trials(), board.reports()
    full = trials[trials["state"] == "COMPLETE"]["number"].tolist()
    curve = {n: reports[reports["number"] == n]["miou"].tolist() for n in full}
    chart = drawn(board)["Rank correlation at the rungs"].figures[0]
    (line,) = chart["data"]
    assert line["x"] == [1, 2, 3, 4]
    expected = [spearmanr([curve[n][e] for n in full], [curve[n][3] for n in full]).statistic for e in range(4)]
    assert line["y"] == pytest.approx(expected)
    assert [shape["x0"] for shape in chart["layout"]["shapes"]] == [1, 2]


def test_parallel_coordinates_place_log_values_and_missing_ones(tmp_path: Path) -> None:
    space = {
        "loss.edge_weight": {"float": [0.1, 10.0], "log": True},
        "loss.method": {"choice": ["kd", "bpkd"]},
    }
    trials = [
        {"curve": [0.1], "point": {"loss.edge_weight": 1.0, "loss.method": "bpkd"}},
        {"curve": [0.2], "point": {"loss.method": "kd"}},
    ]
    board = Leaderboard(make(tmp_path / "e", trials, space=space))
    weight, method, score = drawn(board)["Parallel coordinates"].figures[0]["data"][0]["dimensions"]
    assert weight["values"] == [0.0, pytest.approx(-1.3)]  # by score: log10(1), and below the range
    assert weight["ticktext"] == ["none", "0.1", "1", "10"] and weight["range"] == [pytest.approx(-1.3), 1.0]
    assert method["values"] == [1.0, 0.0] and method["ticktext"] == ["kd", "bpkd"]
    assert score["values"] == [0.1, 0.2]


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    search = {"objectives": {"miou": "max", "parameters": "min"}}
    sizes = [({"parameters": 5}, 0.5), ({"parameters": 3}, 0.4), ({"parameters": 4}, 0.3)]
    trials = [{"curve": [score], **size, "point": {"loss.edge_width": 3}} for size, score in sizes]
    chart = drawn(Leaderboard(make(tmp_path / "e", trials, search=search)))["Pareto front"].figures[0]
    others, front = chart["data"]
    assert (front["x"], front["y"]) == ([5, 3], [0.5, 0.4]) and others["customdata"] == [2]


def test_a_trial_that_breaks_a_constraint_is_shown_and_does_not_win(tmp_path: Path) -> None:
    space = {"loss.method": {"choice": ["bpkd", "kd"]}, "loss.edge_width": {"int": [3, 11], "step": 2}}
    trials: list[dict[str, Any]] = [
        {"curve": [0.40], "method": "kd", "origin": "baseline", "latency_ms": 5.0, "feasible": True},
        {"curve": [0.45], "method": "cwd", "origin": "baseline", "latency_ms": 9.0, "feasible": False},
        {"curve": [0.90], "latency_ms": 9.0, "feasible": False, "point": {"loss.method": "bpkd"}},
        {"curve": [0.50], "latency_ms": 5.0, "feasible": True, "point": {"loss.method": "bpkd"}},
        {"curve": [0.95], "latency_ms": 9.0, "feasible": False, "point": {"loss.method": "bpkd"}},
    ]
    search = {"metric": "miou", "constraints": ["latency_ms <= 6"]}
    board = Leaderboard(make(tmp_path / "e", trials, space=space, search=search))
    table = data_of(report_page(board, Panels()))["table"]
    columns = {column["name"]: [row[n] for row in table["rows"]] for n, column in enumerate(table["columns"])}
    assert (columns["number"], columns["latency_ms"]) == ([3, 0, 4, 2, 1], [5, 5, 9, 9, 9])
    assert columns["feasible"] == ["True", "True", "False", "False", "False"]
    labels = [column["label"] for column in table["columns"]]
    assert len(labels) == len(set(labels)) and "method" in labels
    assert headline(board, shown(board))[1][0].startswith("The best searched setting, trial 3, reaches miou 0.5000")
    course = drawn(board)["Best so far"]
    chart = course.figures[0]
    (best,) = [trace for trace in chart["data"] if trace["name"] == "best so far"]
    assert best["y"] == [0.5, 0.5] and "Hollow: trials that violate a constraint." in course.remarks[0]
    assert [shape["y0"] for shape in chart["layout"]["shapes"]] == [0.40]
    symbols = {trace["name"]: trace["marker"]["symbol"] for trace in chart["data"] if trace["mode"] == "markers"}
    assert symbols["kd"] == ["circle"] and symbols["cwd"] == ["circle-open"]
    alone = Leaderboard(make(tmp_path / "none", [*trials[:3]], space=space, search=search))
    assert headline(alone, shown(alone))[1][0].startswith("No searched setting that meets the constraints")
    assert "best so far" not in [trace["name"] for trace in drawn(alone)["Best so far"].figures[0]["data"]]


def test_a_confirmation_is_on_the_page_with_its_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    board = Leaderboard(Path(__file__).parents[1] / "fixtures" / "searches" / "confirmed")
    winner = board.winner()
    page = report_page(board, Panels())
    assert headline(board, shown(board))[1][0] == winner.attrs["verdict"]
    part = drawn(board)["Confirmation"]
    assert winner.attrs["verdict"] in part.remarks
    assert part.tables[0][0] == board.metric
    text = re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", " ", page.partition("<script")[0])))
    assert text.count(winner.attrs["verdict"]) == 2
    # The page and the terminal show the same cells.
    show_confirmation(board)
    printed = " ".join(capsys.readouterr().out.split())
    for cells in part.tables[0][1].astype(str).to_numpy().tolist():
        assert " ".join(" ".join(cells).split()) in printed and all(cell in text for cell in cells)


def test_a_young_search_has_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    board = Leaderboard(make(tmp_path / "e", [{"curve": [0.1], "state": "RUNNING"}]))
    page = report_page(board, Panels(remarks=["There are no pictures: none were kept"]))
    assert "No trial has run its full budget yet." in page and "none were kept" in page
    assert data_of(page)["table"]["rows"]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def hostile(folder: Path) -> Leaderboard:
    space = {"loss.edge_width": {"int": [3, 11], "step": 2}, f"loss.{EVIL}": {"choice": [EVIL, "b"]}}
    trials: list[dict[str, Any]] = [{"curve": [0.4], "method": EVIL, "origin": "baseline", "class_iou": [0.1, 0.2]}]
    trials += [
        {
            "curve": [0.1 * n],
            "method": EVIL,
            "class_iou": [0.2, 0.3],
            "point": {"loss.edge_width": 3, f"loss.{EVIL}": EVIL},
        }
        for n in range(1, 6)
    ]
    trials.append({"curve": [0.1], "state": "FAILED", "reason": EVIL})
    data = {"kind": EVIL, "folder": {"class_names": [EVIL, "{{plotly}}"]}}
    return Leaderboard(
        make(folder, trials, name=EVIL, space=space, data=data, student={"encoder": EVIL}, teacher={"encoder": EVIL})
    )


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    panels = Panels([(EVIL, [Picture(EVIL, '"><script>1</script>')])], [(EVIL, '"><script>')], [EVIL])
    page = report_page(hostile(tmp_path / "e"), panels)
    tags = _Tags()
    tags.feed(page)
    assert [tag for tag, _ in tags.found].count("script") == 4  # data, table, plotly, charts
    assert [attributes.get("alt") for tag, attributes in tags.found if tag == "img"] == [EVIL]
    assert not any(name.startswith("on") for _, attributes in tags.found for name in attributes)
    data = data_of(page)
    assert EVIL[:200] in [cell for row in data["table"]["rows"] for cell in row]
    assert "<script>window" not in page
    figures = json.dumps(data["figures"])
    assert "<img" not in figures and "&lt;img" in figures  # plotly.js, too, reads markup
    # The page fetches nothing, and forbids itself to.
    assert not [
        a for _, a in tags.found for key in ("src", "href") if not (a.get(key) or "data:").startswith(("data:", '"'))
    ]
    assert "default-src 'none'" in page


def test_json_in_a_script_is_whole_and_closes_nothing() -> None:
    value = {"a": ["</script>", "<!--", float("nan"), float("inf"), 1 / 3, None, True, 7]}
    text = script_json(value)
    assert "<" not in text
    assert json.loads(text) == {"a": ["</script>", "<!--", None, None, 0.333333, None, True, 7]}


def test_the_page_is_small_and_replaces_nothing(board: Leaderboard, tmp_path: Path) -> None:
    out = write_report(board, tmp_path / "new" / "r.html", Panels())
    assert out.stat().st_size < 10 * 2**20
    with pytest.raises(ExperimentError, match="exists already"):
        write_report(board, out, Panels())
    (tmp_path / "file").write_text("")
    with pytest.raises(ExperimentError, match="cannot be written"):
        write_report(board, tmp_path / "file" / "r.html", Panels())


def test_without_plotly_the_extra_is_named(board: Leaderboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UserError, match=r"bpkd-search\[report\]"):
        write_report(board, tmp_path / "r.html", Panels())


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium of its own, or a skip that says what is missing."""
    selenium = pytest.importorskip("selenium", reason="looking at the page needs selenium")
    assert selenium
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("looking at the page needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


def look(browser: Any, page: Path, width: int) -> None:
    """Open a page at a width and draw all its figures."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    wait(
        browser, "return [...document.querySelectorAll('.chart')].every((c) => c.classList.contains('js-plotly-plot'))"
    )


def wait(browser: Any, condition: str, *arguments: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30).until(lambda b: b.execute_script(condition, *arguments))


def column(browser: Any, name: str) -> list[str]:
    """The texts of a column as the page shows them."""
    script = """
        const heads = [...document.querySelectorAll("#leaderboard th")].map((h) => h.textContent);
        const index = heads.indexOf(arguments[0]), rows = document.querySelectorAll("#leaderboard tbody tr");
        return [...rows].map((row) => row.children[index].textContent);
    """
    return list(browser.execute_script(script, name))


def test_a_browser_shows_sorts_and_hovers(board: Leaderboard, tmp_path: Path, browser: Any) -> None:
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    page = write_report(board, tmp_path / "r.html", Panels([("row", [Picture("pixel", PIXEL)])]))
    for width in (1280, 390):  # of a desk and of a telephone, on which the rest is done
        look(browser, page, width)
        severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert severe == []
        # Nothing but the table and the parallel coordinates is wider than the screen, and those scroll by themselves.
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert (
        browser.execute_script(
            "return performance.getEntriesByType('resource').filter((r) => !r.name.startsWith('data:')).length"
        )
        == 0
    )

    ranked = column(browser, "number")
    assert ranked == [str(n) for n in board.trials()["number"]]
    head = next(b for b in browser.find_elements("css selector", "#leaderboard th button") if b.text == "edge weight")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", head)
    head.click()
    weights = [float(text) for text in column(browser, "edge weight") if text]
    assert weights == sorted(weights) and column(browser, "number") != ranked
    head.click()
    assert [float(text) for text in column(browser, "edge weight") if text] == sorted(weights, reverse=True)
    assert column(browser, "edge weight")[-1] == ""  # trials without one stay last
    assert browser.find_element("css selector", "#leaderboard th[aria-sort]").get_attribute("aria-sort") == "descending"

    chart = browser.find_element("xpath", "//section[h2='Best so far']//div[starts-with(@class, 'chart')]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)

    def hovered(browser: Any) -> bool:
        ActionChains(browser).move_to_element(chart.find_element("css selector", "path.point")).perform()
        said = browser.execute_script("return arguments[0].querySelector('.hoverlayer').textContent", chart)
        return re.search(r"trial \d+, \S+miou 0\.\d{4}", said) is not None

    # A figure that fits itself to its place draws its points anew.
    WebDriverWait(browser, 30, ignored_exceptions=[StaleElementReferenceException]).until(hovered)


def test_a_browser_runs_nothing_of_a_hostile_experiment(tmp_path: Path, browser: Any) -> None:
    panels = Panels([(EVIL, [Picture(EVIL, PIXEL)])], [(EVIL, "#000000")], [EVIL])
    look(browser, write_report(hostile(tmp_path / "e"), tmp_path / "r.html", panels), 1280)
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.querySelectorAll('img').length") == 1
    assert browser.find_element("css selector", "h1").text == EVIL
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_dashboard_serves_the_experiments_study_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    from bpkd_search.search.history import journal

    optuna.create_study(storage=journal(tmp_path), study_name="mine")
    served: dict[str, Any] = {}

    def run_server(storage: Any, host: str, port: int) -> None:
        served.update(names=optuna.get_all_study_names(storage), host=host, port=port)

    monkeypatch.setitem(sys.modules, "optuna_dashboard", types.SimpleNamespace(run_server=run_server))
    said: list[str] = []
    report_dashboard.serve(tmp_path, 8123, said.append)
    assert served == {"names": ["mine"], "host": "127.0.0.1", "port": 8123}
    assert said == ["http://127.0.0.1:8123/ (stop with Ctrl-C)"]

    def taken(storage: Any, host: str, port: int) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setitem(sys.modules, "optuna_dashboard", types.SimpleNamespace(run_server=taken))
    with pytest.raises(ResourceError, match=r"port 8123: .*in use.*--port"):
        report_dashboard.serve(tmp_path, 8123, said.append)


def test_the_dashboard_names_its_extra_and_a_missing_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExperimentError, match=r"no study\.journal"):
        report_dashboard.serve(tmp_path, 8080, print)
    (tmp_path / "study.journal").write_text("")
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(UserError, match=r"bpkd-search\[dashboard\]"):
        report_dashboard.serve(tmp_path, 8080, print)
