"""Laws of damaged files: what is damaged is skipped, counted and named, and the rest is shown.

The reference of a damaged line is the same file without that line. Lines are changed field by field
and byte by byte; nothing here depends on which field it is.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cid_ray.config import Config, InputError
from cid_ray.results.compact_records import CompactRecordReader
from cid_ray.results.figure_data import MAX_CURVES, curves_data, shown_curves
from cid_ray.results.live_page import ServedRun, open_runs, run_page, runs_page
from cid_ray.results.record_lines import parse_line
from cid_ray.results.records import Record, RecordReader, RecordWriter, read_records
from cid_ray.results.report_page import write_page
from cid_ray.results.status import lost_records, read_status, recorded_counts
from cid_ray.results.summary import summarize
from cid_ray.storage.run_dir import RunDir
from tests.helpers.dashboard_client import KEPT_RUN
from tests.helpers.records import full_trial, repeated_search, small_search

WRONG_VALUES: tuple[Any, ...] = (None, [], {}, "word", -1, 1e400, "\ud800", True, [[1]], {"a": {}})
LINES = {
    "empty object": b"{}",
    "list": b"[1, 2]",
    "text": b'"rung"',
    "torn": b'{"event": "rung", "run": "a", "ima',
    "not UTF-8": b'{"event": "\xff"}',
    "unknown event": b'{"event": "new", "run": "a"}',
    "event is a list": b'{"event": ["rung"]}',
    "without end": b"[" * 100_000,
    "5,000 digits": b'{"event": "rung", "step": ' + b"9" * 5000 + b"}",
    "NaN": b'{"event": "rung", "seconds": NaN}',
    "null bytes": b"\x00" * 40,
}


def write(folder: Path, records: list[Record]) -> Path:
    writer = RecordWriter(folder)
    for record in records:
        writer.append(record)
    return writer.path


def without_required_fields(record: Record) -> Iterator[bytes]:
    """The record without one field, and with a wrong value in it."""
    for name in record:
        yield json.dumps({key: value for key, value in record.items() if key != name}).encode()
        for value in WRONG_VALUES:
            yield json.dumps({**record, name: value}).encode()


# ---- lines ----


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_line_that_is_no_record_is_skipped_counted_and_named(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path, small_search())
    expected = read_records(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line + b"\n", *lines[2:]]))
    with pytest.warns(UserWarning, match=rf"skipped 1 of {len(lines) + 1} lines .*line 3: "):
        assert read_records(tmp_path) == expected


@pytest.mark.parametrize("records", [small_search(), repeated_search()], ids=["single", "repeats"])
def test_page_of_records_with_any_field_changed_is_written(
    tmp_path: Path, records: list[Record]
) -> None:
    """A changed record is a record of its event's type, or it is skipped."""
    by_event = {record["event"]: record for record in records}
    pages = 0
    for record in by_event.values():
        for line in without_required_fields(record):
            try:
                changed = parse_line(line)
            except ValueError:
                continue
            others = [other for other in records if other is not record]
            pages += 1
            if pages % 12 == 0:  # every page takes half a second
                write_page(tmp_path, tmp_path / "report", [*others, changed], Config())
            else:
                summarize([*others, changed])


def test_page_of_records_with_flipped_bits_is_written(tmp_path: Path) -> None:
    chance = random.Random(0)
    content = write(tmp_path / "whole", repeated_search()).read_bytes()
    for number in range(60):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 20, 500))):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "records.jsonl").write_bytes(damaged)
        reader = RecordReader(folder)
        summaries = summarize(reader.read())
        assert reader.num_skipped or reader.num_lines
        if number % 10 == 0 and summaries:
            write_page(folder, folder / "report", reader.read(), Config())


# ---- reading again ----


def test_reader_that_reads_again_and_again_has_the_records_of_one_reading(tmp_path: Path) -> None:
    content = write(tmp_path / "whole", repeated_search()).read_bytes()
    chance = random.Random(0)
    folder = tmp_path / "growing"
    folder.mkdir()
    reader = RecordReader(folder)
    assert reader.read() == []
    size = 0
    while size < len(content):
        size = min(len(content), size + chance.randrange(1, 4000))  # often in the middle of a line
        (folder / "records.jsonl").write_bytes(content[:size])
        assert reader.read() == RecordReader(folder).read()
    assert reader.read() == read_records(tmp_path / "whole") and not reader.skipped


@pytest.mark.parametrize("new", ["shorter", "another", "none"])
def test_reader_of_replaced_file_starts_over(tmp_path: Path, new: str) -> None:
    path = write(tmp_path, small_search())
    reader = RecordReader(tmp_path)
    reader.read()
    if new == "none":
        path.unlink()
        assert reader.read() == []
        return
    other = small_search()[:3] if new == "shorter" else repeated_search()
    path.unlink()
    write(tmp_path, other)
    assert reader.read() == read_records(tmp_path)


@pytest.mark.parametrize("records", [small_search(), repeated_search()], ids=["single", "repeats"])
def test_page_of_compact_records_equals_page_of_all(tmp_path: Path, records: list[Record]) -> None:
    write(tmp_path, records)
    pages = []
    for reader in (RecordReader(tmp_path), CompactRecordReader(tmp_path)):
        write_page(tmp_path, tmp_path / "report", reader.read(), Config())
        pages.append((tmp_path / "report" / "index.html").read_text())
    assert pages[0] == pages[1]


def test_figure_of_many_runs_draws_the_best_the_baselines_and_some_others() -> None:
    records = [r for n in range(3 * MAX_CURVES) for r in full_trial("cid", 16, n, 10 + n / 10)]
    records += full_trial("supervised", 16, 0, 20.0)
    curves = curves_data(summarize(records)[0])
    shown = shown_curves(curves)
    assert len(shown) <= MAX_CURVES
    best = [curve for run, curve in curves.items() if run >= f"1_16-cid-{3 * MAX_CURVES - 50:03d}"]
    assert all(curve in shown for curve in best)
    assert any(curve["method"] == "supervised" for curve in shown)
    few = {run: curve for run, curve in list(curves.items())[:9]}
    assert shown_curves(few) == list(few.values())


# ---- live pages ----


def served(folder: Path) -> ServedRun:
    (run,) = open_runs([RunDir(folder)])
    return run


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "null", '{"state": 3}', "\x00", "{" * 9, '"x"', "[" * 99_999]
)
def test_status_of_any_shape_is_a_card_and_the_rest_is_shown(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(KEPT_RUN, folder)
    (folder / "status.json").write_text(content)
    with pytest.raises(InputError, match=r"status\.json holds no status"):
        read_status(folder)
    run = served(folder)
    page = run_page(run, [run])
    assert "status.json holds no status" in page and "49.44" in page


def test_status_with_any_field_changed_is_shown_or_named(tmp_path: Path) -> None:
    trial = {"ratio": "1/8", "method": "cid", "trial_number": 0, "repeats_of": ""}
    trial |= {"repeat_index": 0, "steps": 5, "params": {}, "resumed": False, "timestamp": 0.0}
    status = {"state": "running", "reason": "", "total": 3, "finished": 0, "finished_before": 0}
    status |= {"tested": 0, "searches": 0}
    status |= {"started": 1.0, "timestamp": 2.0, "host": "x", "pid": 1, "running": {"a": trial}}
    write(tmp_path, small_search())
    run = served(tmp_path)
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert not run.read()[0].problems
    changed = [*without_required_fields(status)]
    changed += [
        json.dumps({**status, "running": {"a": json.loads(line)}}).encode()
        for line in without_required_fields(trial)
    ]
    for line in changed:
        (tmp_path / "status.json").write_bytes(line)
        search = run.read()[0]
        assert all("status.json" in problem for problem in search.problems)


@pytest.mark.parametrize(
    ("event", "words"),
    [("trial", "finished trials"), ("search", "`search` records"), ("final", "with test scores")],
)
def test_records_that_lost_what_the_status_counted_are_named(event: str, words: str) -> None:
    records = small_search()
    counts = recorded_counts(records)
    assert counts == {"finished": 6, "tested": 10, "searches": 2}
    assert lost_records(records, counts) == ""
    left = [record for record in records if record["event"] != event]
    assert words in lost_records(left, counts)
    assert lost_records(left, {}) == ""


def test_record_of_another_trial_under_the_name_of_a_run_is_skipped(tmp_path: Path) -> None:
    records = small_search()
    expected = len(records)
    foreign = {**records[0], "run": "1_16-supervised-000"}
    write(tmp_path, [*records, foreign])
    reader = RecordReader(tmp_path)
    assert len(reader.read()) == expected
    assert "is another trial before" in reader.skipped


@pytest.mark.parametrize("damage", ["config", "status", "records", "folder"])
def test_damaged_run_among_others_is_a_card(tmp_path: Path, damage: str) -> None:
    for name in ("good", "bad"):
        shutil.copytree(KEPT_RUN, tmp_path / name)
    bad = tmp_path / "bad"
    runs = open_runs([RunDir(tmp_path / "good"), RunDir(bad)])
    if damage == "config":
        (bad / "config.yaml").write_text("train: [1, 2")
    elif damage == "status":
        (bad / "status.json").mkdir()
    elif damage == "records":
        (bad / "records.jsonl").write_bytes(b"\xff\n" * 9)
    else:
        (bad / "records.jsonl").unlink()
        (bad / "records.jsonl").mkdir()
    page = runs_page(runs)
    assert page.count('class="alert"') == 2 and "49.44" in page  # the card, and #connection


def test_missing_sample_image_is_named_and_not_linked(tmp_path: Path) -> None:
    write(tmp_path, with_samples())
    for name in ("image.png", "label.png", "prediction.png"):
        (tmp_path / "samples").mkdir(exist_ok=True)
        (tmp_path / "samples" / name).write_bytes(b"pixels")
    run = served(tmp_path)
    assert run_page(run, [run]).count("<img") == 3
    (tmp_path / "samples" / "prediction.png").unlink()
    page = run_page(run, [run])
    assert page.count("<img") == 2 and "1 of 3 sample images are missing" in page


def with_samples() -> list[Record]:
    """A finished CID run whose rungs name three images."""
    names = {key: f"samples/{key}.png" for key in ("image", "label", "prediction")}
    records = full_trial("cid", 16, 0, 50.0)
    for record in records:
        if record["event"] == "rung":
            record["samples"] = [{"image_id": "x", **names}]
    return records
