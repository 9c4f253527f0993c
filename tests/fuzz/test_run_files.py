"""Law: records, status and journal of any content are read, or refused in one line.

Records that damage left alone are read as they were written. What is read can be summarized, shown
on the live page and made into a report. A journal that is opened has the trials that were finished.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.chaos import Outcome, outcome, simulated_config, uninterrupted
from cid_ray import report
from cid_ray.config import Config
from cid_ray.config.search_schema import PricesConfig
from cid_ray.results.answers import answer
from cid_ray.results.live_page import open_runs, run_page
from cid_ray.results.markdown import markdown
from cid_ray.results.record_types import EVENTS
from cid_ray.results.records import RECORDS_FILE, Record, RecordReader, read_records
from cid_ray.results.snapshot import snapshot
from cid_ray.results.status import STATUS_FILE, process_namespace, read_status
from cid_ray.results.summary import result_table, summarize
from cid_ray.search.consistency import check_consistency
from cid_ray.search.journal import JOURNAL, stored_trials
from cid_ray.storage.run_dir import RunDir
from tests.helpers import records as made_up
from tests.helpers.fuzzing import (
    Change,
    Edit,
    as_json,
    change,
    changes,
    damage,
    edits,
    fuzz,
    result_or_refusal,
    trees,
    untouched_lines,
    written,
)
from tests.helpers.simulated_studies import open_queue

RECORDS: list[Record] = made_up.small_search()
LINES = b"".join(as_json(record) + b"\n" for record in RECORDS)
CONFIG = Config()


def status_of_now() -> dict[str, Any]:
    run = {**made_up.common_fields("cid", 8, 7), "steps": 10, "params": {}, "resumed": False}
    return {
        "state": "running",
        "reason": "",
        "total": 12,
        "finished": 0,
        "finished_before": 0,
        "started": 1_000_000.0,
        "timestamp": 1_000_100.0,
        "host": process_namespace(),
        "pid": 1,
        "running": {run["run"]: {**run, "timestamp": 1.0, "step": 5, "seconds": 1.0}},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


# ---- records ----


def summarized(folder: Path) -> list[Record]:
    """The records that are read; everything that pages show of them is computed."""
    records = read_records(folder)
    for each in records:
        assert type(each) is dict
    summaries = summarize(records)
    result_table(summaries)
    markdown(summaries, answer(summaries, PricesConfig()))
    snapshot(records, CONFIG, {}, time.time())
    return records


@fuzz(0.4)
@given(edits=edits)
def test_damaged_records(folder: Path, edits: list[Edit]) -> None:
    written(folder / RECORDS_FILE, damage(LINES, edits))
    found = result_or_refusal(lambda: summarized(folder), folder)
    if found is not None:
        kept = [json.loads(line) for line in untouched_lines(LINES, edits) if line]
        runs = {(r["event"], r["run"]) for r in found if "event" in r and "run" in r}
        lost = {(r["event"], r["run"]) for r in kept} - runs
        # A first record of another ratio or method: all later ones of its run contradict it.
        reader = RecordReader(folder)
        reader.read()
        contradicted = {each["run"] for each in found if each not in RECORDS and "run" in each}
        assert {run for _, run in lost} <= contradicted or reader.torn
        assert reader.num_skipped + reader.torn >= len(lost)


@fuzz(0.4)
@given(number=st.integers(0, len(RECORDS) - 1), changes=changes)
def test_changed_record(folder: Path, number: int, changes: list[Change]) -> None:
    lines = [as_json(change(r, changes) if i == number else r) for i, r in enumerate(RECORDS)]
    written(folder / RECORDS_FILE, b"\n".join(lines))
    result_or_refusal(lambda: summarized(folder), folder)


@fuzz(0.2)
@given(
    event=st.sampled_from([*EVENTS, "new event"]),
    run=st.sampled_from(["1_8-cid-002", "unknown", "", "../x"]),
    others=st.dictionaries(st.sampled_from(sorted(RECORDS[0])), trees, max_size=3),
)
def test_foreign_record(folder: Path, event: str, run: str, others: dict[str, Any]) -> None:
    """A record of a known event that lacks fields, or has some of other types."""
    line = as_json({"event": event, "run": run, **others})
    written(folder / RECORDS_FILE, LINES + line)
    result_or_refusal(lambda: summarized(folder), folder)


@fuzz(0.02)
@given(number=st.integers(0, len(RECORDS) - 1), changes=changes)
def test_report_of_a_changed_record(folder: Path, number: int, changes: list[Change]) -> None:
    lines = [as_json(change(r, changes) if i == number else r) for i, r in enumerate(RECORDS)]
    written(folder / RECORDS_FILE, b"\n".join(lines))
    result_or_refusal(lambda: report.main([str(folder)]), folder)


# ---- status ----


@fuzz(0.5)
@given(edits=edits)
def test_damaged_status(folder: Path, edits: list[Edit]) -> None:
    written(folder / STATUS_FILE, damage(as_json(status_of_now()), edits))
    result_or_refusal(lambda: snapshot(RECORDS, CONFIG, read_status(folder), time.time()), folder)


@fuzz(0.5)
@given(changes=changes)
def test_changed_status(folder: Path, changes: list[Change]) -> None:
    written(folder / STATUS_FILE, as_json(change(status_of_now(), changes)))
    result_or_refusal(lambda: snapshot(RECORDS, CONFIG, read_status(folder), time.time()), folder)


@fuzz(0.02)
@given(changes=changes, number=st.integers(0, len(RECORDS) - 1), record=changes)
def test_live_page_of_changed_files(
    folder: Path, changes: list[Change], number: int, record: list[Change]
) -> None:
    lines = [as_json(change(r, record) if i == number else r) for i, r in enumerate(RECORDS)]
    written(folder / RECORDS_FILE, b"\n".join(lines))
    written(folder / STATUS_FILE, as_json(change(status_of_now(), changes)))
    with RunDir(str(folder)) as run_dir:
        runs = open_runs([run_dir])
        result_or_refusal(lambda: run_page(runs[0], runs), folder)


# ---- journal ----


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, bytes]:
    """The folder of a finished search, its outcome and its journal."""
    folder = tmp_path_factory.mktemp("searched")
    uninterrupted(folder, simulated_config(trials=2))
    expected, notes = outcome_of(folder)
    assert not notes
    return folder, expected, (folder / JOURNAL).read_bytes()


def outcome_of(folder: Path) -> tuple[Outcome, list[str]]:
    """The trials of the studies, and what they and the records disagree on."""
    config = simulated_config(trials=2)
    store = open_queue(folder, config).store
    trials = stored_trials(store.storage, folder)
    notes = check_consistency(RecordReader(folder), trials, config.search, folder)
    return outcome(store), notes


def check_journal(searched: tuple[Path, Outcome, bytes], content: bytes) -> None:
    folder, expected, _ = searched
    for path in folder.glob("*"):
        if path.name.startswith(JOURNAL):
            path.unlink()
    written(folder / JOURNAL, content)
    opened = result_or_refusal(lambda: outcome_of(folder), folder)
    if opened is None:
        return
    found, notes = opened
    changed = [run for run, trial in found.items() if expected.get(run, trial) != trial]
    assert not changed or " disagree on " in " ".join(notes)


@fuzz(0.5)
@given(edits=edits)
def test_damaged_journal(searched: tuple[Path, Outcome, bytes], edits: list[Edit]) -> None:
    check_journal(searched, damage(searched[2], edits))


@fuzz(0.5)
@given(position=st.integers(0, 10**6), changes=changes)
def test_changed_journal(
    searched: tuple[Path, Outcome, bytes], position: int, changes: list[Change]
) -> None:
    lines = searched[2].splitlines()
    number = position % len(lines)
    lines[number] = as_json(change(json.loads(lines[number]), changes))
    check_journal(searched, b"\n".join(lines) + b"\n")


@pytest.fixture(autouse=True, scope="module")
def clean_up(searched: tuple[Path, Outcome, bytes]) -> Any:
    yield
    shutil.rmtree(searched[0], ignore_errors=True)
