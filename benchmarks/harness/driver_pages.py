"""Bytes and seconds of the pages of a search of thousands of trials."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.harness.browser import browser, chromium
from benchmarks.harness.large_run import write_running_run


def measure_pages(folder: Path, trials: int, running: int) -> dict[str, Any]:
    """Build report and live page of such a run, and open both in Chromium.

    Seconds of building are CPU time of this process; those of opening end with the load event.
    """
    from cid_ray.results.live_page import open_runs, run_page
    from cid_ray.results.report_page import write_page
    from cid_ray.storage.run_dir import RunDir

    write_running_run(folder, trials, running)
    (run,) = open_runs([RunDir(folder)])
    before = time.process_time()
    live = run_page(run, [run])
    first = time.process_time() - before
    run_page(run, [run])  # nothing is new: figures are kept
    again = time.process_time() - before - first
    _, records, config = run.read()
    before = time.process_time()
    report = write_page(folder, folder / "report", records, config)
    report_s = time.process_time() - before
    live_file = folder / "report" / "live.html"
    live_file.write_text(live)
    row: dict[str, Any] = {
        "trials": trials,
        "running": running,
        "live_mb": round(len(live.encode()) / 1e6, 2),
        "live_first_build_s": round(first, 2),
        "live_next_build_s": round(again, 2),
        "report_mb": round(report.stat().st_size / 1e6, 2),
        "report_build_s": round(report_s, 2),
    }
    if chromium():
        with browser() as opened:
            for name, file in (("live", live_file), ("report", report)):
                row[f"{name}_open_s"] = round(min(open_seconds(opened, file) for _ in range(3)), 2)
    return row


def open_seconds(opened: Any, file: Path) -> float:
    page = opened.new_page()
    before = time.monotonic()
    page.goto(file.resolve().as_uri(), wait_until="load")
    seconds = time.monotonic() - before
    page.close()
    return seconds
