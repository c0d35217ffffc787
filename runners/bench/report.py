"""What the report page of a large experiment costs: 10,000 trials with 50 reports each.

    python runners/bench/report.py [--trials 10000] [--reports 50] [--json FILE]

Writes an experiment with made-up scores and its page, and opens the page in a headless Chromium where there is
one: milliseconds until the table is there and sorts, until all scripts have run, and until a click has sorted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

from results import write

from bpkd_search import Leaderboard
from bpkd_search.pictures.panels import Panels
from bpkd_search.report.page import write_report

FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync",
)  # fmt: skip
SORT = """
    const start = performance.now();
    document.querySelectorAll("#leaderboard th button")[4].click();
    document.body.offsetHeight;
    return performance.now() - start;
"""
MARKS = "return {...document.documentElement.dataset}"


def opened(page: Path, profile: Path) -> dict[str, float]:
    """Milliseconds in the browser, least of three; empty without Chromium and selenium."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
        from selenium.webdriver.support.ui import WebDriverWait
    except ImportError:
        return {}
    if chromium is None or driver is None:
        return {}
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=Service(driver))
    rounds = []
    try:
        for _ in range(3):
            browser.get(page.as_uri())
            # A page of megabytes can still be read when the browser says that it is there.
            WebDriverWait(browser, 60).until(lambda b: b.execute_script(MARKS).keys() >= {"table", "charts"})
            marks = browser.execute_script(MARKS)
            rounds.append(
                {
                    "table is there, ms": float(marks["table"]),
                    "scripts have run, ms": float(marks["charts"]),
                    "a click sorts, ms": float(browser.execute_script(SORT)),
                }
            )
    finally:
        browser.quit()
    return {name: min(one[name] for one in rounds) for name in rounds[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--reports", type=int, default=50)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(folder / "bench", arguments.trials, arguments.reports)
        start = time.perf_counter()
        page = write_report(Leaderboard(folder / "bench"), folder / "report.html", Panels())
        figures = {"written, s": time.perf_counter() - start, "size, MB": page.stat().st_size / 1e6}
        figures |= opened(page, folder / "profile")
    for name, value in figures.items():
        print(f"{name:24}{value:10.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
