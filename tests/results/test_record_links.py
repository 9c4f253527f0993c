"""Law: a number that links to a record on the page is in that record, digit by digit."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

from cid_ray.config import load_config
from cid_ray.results.noise_records import noise_records
from cid_ray.results.record_links import linked_records
from cid_ray.results.records import Record, RecordWriter, read_records
from cid_ray.results.report_page import write_page
from cid_ray.results.summary import summarize
from cid_ray.results.tables import MAX_ROWS
from tests.helpers.records import final, repeated_search, small_search

LINK = re.compile(r'<a class="record" href="#([^"]+)">(.*?)</a>')


def page_of(records: list[Record], folder: Path) -> str:
    writer = RecordWriter(folder)
    for record in records:
        writer.append(record)
    return write_page(folder, folder, read_records(folder), load_config(None)).read_text()


def ends_of(page: str) -> dict[str, Record]:
    """Anchor -> the JSON at a link's end."""
    found = re.findall(r'<pre id="([^"]+)"[^>]*>(.*?)</pre>', page, re.DOTALL)
    assert len({anchor for anchor, _ in found}) == len(found)
    return {anchor: json.loads(unescape(text)) for anchor, text in found}


def numbers(value: object) -> set[str]:
    """Every number of a record, rounded as the page rounds scores."""
    if isinstance(value, dict):
        return {number for each in value.values() for number in numbers(each)}
    if isinstance(value, list):
        return {number for each in value for number in numbers(each)}
    return {f"{value:.2f}"} if isinstance(value, int | float) else set()


def test_linked_scores_of_a_search_are_in_their_records(tmp_path: Path) -> None:
    page = page_of(small_search(), tmp_path)
    scores = [(a, text) for a, text in LINK.findall(page) if re.fullmatch(r"\d+\.\d\d", text)]
    assert len(scores) == 2 * 4 * 3  # two ratios, four methods; val, test, best on val
    ends = ends_of(page)
    for anchor, text in scores:
        record = ends[anchor]
        assert record["event"] == "final" and text in numbers(record)


def test_means_and_gains_of_repeats_lead_to_the_noise_of_their_ratio(tmp_path: Path) -> None:
    records = repeated_search()
    page = page_of([*records, *noise_records(summarize(records))], tmp_path)
    found = [(a, text) for a, text in LINK.findall(page) if "±" in text or "p " in text]
    assert len(found) == 4 + 3  # means, and gains over supervised
    ends = ends_of(page)
    for anchor, text in found:
        record = ends[anchor]
        assert anchor == "noise-1_16-test" and record["event"] == "noise"
        first = re.findall(r"[+-]?\d+\.\d\d", text)[0].lstrip("+")
        assert first in numbers(record), text


def test_every_link_of_the_page_has_one_end(tmp_path: Path) -> None:
    page = page_of([*small_search(), *repeated_search()], tmp_path)
    anchors = {anchor for anchor, _ in LINK.findall(page)}
    assert anchors and anchors <= ends_of(page).keys()


def test_records_on_the_page_are_bounded() -> None:
    counts = range(1, MAX_ROWS + 20)
    records = [final("supervised", count, pool_count=48) for count in counts]
    assert len(linked_records(records, summarize(records))) == MAX_ROWS


def test_page_names_the_split_that_was_scored(tmp_path: Path) -> None:
    """A table without a test split is scored on val, which no heading calls test."""
    records = small_search()
    for record in records:
        if record["event"] == "final":
            record |= {"test_split": "val", "test_is_val": True}
    page = page_of(records, tmp_path)
    assert "IoU per class, last step, val</h3>" in page and "on val</h3>" in page
    assert "last step, test</h3>" not in page and "on test</h3>" not in page
