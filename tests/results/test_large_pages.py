"""Laws of the pages of thousands of trials: their size is bounded, and what is left out is counted.

Records and status are made up; the pages are the real ones.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.harness.large_run import write_running_run
from benchmarks.large_search import write_run
from cid_ray.results.compact_records import CompactRecordReader
from cid_ray.results.live_page import open_runs, run_page
from cid_ray.results.records import Record
from cid_ray.results.report_page import write_page
from cid_ray.results.snapshot import RunningTrial
from cid_ray.results.tables import MAX_ROWS, first_rows
from cid_ray.storage.run_config import load_run_config
from cid_ray.storage.run_dir import RunDir


def live_page(folder: Path, trials: int, running: int) -> str:
    write_running_run(folder, trials, running)
    (run,) = open_runs([RunDir(folder)])
    return run_page(run, [run])


def test_live_page_shows_best_running_trials_and_counts_all(tmp_path: Path) -> None:
    page = live_page(tmp_path / "run", trials=1000, running=600)
    tables = re.findall(r'aria-label="Running trials at .*?</table>', page, re.DOTALL)
    assert [table.count("<progress") for table in tables] == [MAX_ROWS, MAX_ROWS]
    assert page.count(f"{MAX_ROWS} of 300 shown, the best at their last rung first") == 2
    assert "<dt>running now</dt><dd>600</dd>" in page
    assert f"{MAX_ROWS} of 600 shown, the newest" in page  # of the retries
    assert "<dt>issues</dt><dd>600</dd>" in page


def test_live_page_of_few_trials_leaves_nothing_out(tmp_path: Path) -> None:
    page = live_page(tmp_path / "run", trials=20, running=10)
    assert page.count("<progress") == 10
    assert " shown, " not in page


def trial(number: int, value: float | None) -> RunningTrial:
    return RunningTrial(str(number), "cid", 1, 2, {}, None, 0.0, value, {})


def test_rows_of_running_trials_are_those_with_the_best_scores() -> None:
    trials = [trial(n, None if n % 3 == 0 else float(n)) for n in range(4 * MAX_ROWS)]
    rows = first_rows(trials)
    values = sorted((t.value for t in trials if t.value is not None), reverse=True)
    assert [row.value for row in rows] == values[:MAX_ROWS]
    assert first_rows(trials[:MAX_ROWS]) == trials[:MAX_ROWS]


def report_size(folder: Path, trials: int) -> int:
    write_run(folder, trials)
    records = CompactRecordReader(folder).read()
    return (
        write_page(folder, folder / "report", records, load_run_config(RunDir(folder)))
        .stat()
        .st_size
    )


@pytest.mark.parametrize("large", [2400])
def test_size_of_report_is_bounded(tmp_path: Path, large: int) -> None:
    """With four times as many trials the page is hardly larger: figures draw a sample."""
    small = report_size(tmp_path / "small", large // 4)
    assert report_size(tmp_path / "large", large) < 1.25 * small


def test_report_shows_first_failures_and_counts_all(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_run(folder, 2)
    records: list[Record] = CompactRecordReader(folder).read()
    end = next(record for record in records if record["event"] == "trial")
    failed = {**end, "state": "failed", "reason": "<b>out of memory</b>"}
    records += [{**failed, "run": f"failed-{n}", "trial_number": n} for n in range(MAX_ROWS + 50)]
    page = write_page(folder, tmp_path, records, load_run_config(RunDir(folder))).read_text()
    assert page.count("&lt;b&gt;out of memory") == MAX_ROWS
    assert f"{MAX_ROWS} of {MAX_ROWS + 50} shown, the first" in page
