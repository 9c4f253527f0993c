"""Law: every number that a ladder prints is in its records, with their types, and the newest wins.

References: the sentences and tables themselves, taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from typing_extensions import get_type_hints

from cid_ray.results.ladder_page import append_conclusions, ladder_report
from cid_ray.results.record_types import EVENTS
from cid_ray.results.records import Record, of_event, read_records
from tests.helpers.ladders import (
    batch_ladder_records,
    concurrency_rung,
    encoder_rung,
    label_ladder,
    label_ladder_of_two,
    pool_ladder,
    worker_rung,
    write_ladder,
)

SCALES = (1, 100, 1000, 1e-6, 1e-9)  # percent, milliseconds, megabytes, gigabytes
ADVICE = ("scale.repeats=3",)  # in sentences, measured by nobody


def models() -> list[Record]:
    rungs = [encoder_rung("small", 1.37, 40.41), encoder_rung("large", 4.29, 50.83)]
    rungs[0]["measured"]["sd"], rungs[1]["measured"]["sd"] = 0.91, 1.73
    return rungs


MADE: dict[str, Callable[[], list[Record]]] = {
    "labels": label_ladder,
    "labels with a pool": label_ladder_of_two,
    "pool": lambda: pool_ladder(
        {11: [51.3, 49.2, 53.1], 47: [52.9, 50.4, 53.2], 181: [53.4, 51.7, 54.9]}
    ),
    "batch": lambda: batch_ladder_records({4: [4096, 4608], 16: [6912, 6720]}),
    "model": models,
    "workers": lambda: [worker_rung(n, t) for n, t in ((1, 0.913), (2, 0.522), (4, 0.337))],
    "concurrency": lambda: [concurrency_rung(n, rate) for n, rate in ((1, 61.3), (2, 97.7))],
}


def printed(records: list[Record]) -> list[str]:
    """The numbers in the table and the sentences."""
    report = ladder_report(records)
    text = " ".join([*(cell for row in report.rows for cell in row), *report.lines])
    for words in ADVICE:
        text = text.replace(words, "")
    return [found.replace(",", "") for found in re.findall(r"(?<![\w.])\d[\d,]*\.?\d*", text)]


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers_in(item)
    elif isinstance(value, list):
        yield len(value)  # "(3)": of so many repeats
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, int | float):
        yield value
    elif isinstance(value, str) and value.replace(".", "").isdecimal():
        yield float(value)


def lacking(records: list[Record], events: tuple[str, ...]) -> list[str]:
    """The printed numbers that no record of these events holds, as they are rounded."""
    numbers = [abs(n) for r in records if r["event"] in events for n in numbers_in(r)]
    found = []
    for text in printed(records):
        half = 0.5001 * 10 ** -len(text.rstrip(".").partition(".")[2])
        near = (abs(n * scale - float(text)) <= half for n in numbers for scale in SCALES)
        if not any(near):
            found.append(text)
    return found


@pytest.mark.parametrize("name", MADE)
def test_every_printed_number_is_in_a_record(name: str, tmp_path: Path) -> None:
    records = append_conclusions(write_ladder(tmp_path, MADE[name]()))
    assert lacking(records, ("ladder", "forecast", "recommendation")) == []
    assert lacking(records, ("forecast",)), "the numbers are found in anything"


@pytest.mark.parametrize("name", MADE)
def test_records_of_a_ladder_have_their_types(name: str, tmp_path: Path) -> None:
    records = append_conclusions(write_ladder(tmp_path, MADE[name]()))
    for event in ("ladder", "forecast", "recommendation"):
        for record in of_event(records, event):
            assert record.keys() == get_type_hints(EVENTS[event]).keys()
            TypeAdapter(EVENTS[event]).validate_python(record, strict=True)
    recommendations = of_event(records, "recommendation")
    methods = {record["method"] for record in of_event(records, "ladder")}
    assert len(recommendations) == len(methods)
    assert {recommendation["ladder"] for recommendation in recommendations} == {name.split()[0]}


def test_recommendation_of_a_resumed_ladder_replaces_the_former(tmp_path: Path) -> None:
    rungs = MADE["workers"]()
    before = append_conclusions(write_ladder(tmp_path, rungs[:2]))
    after = append_conclusions(write_ladder(tmp_path, rungs[2:]))
    (old,), (new,) = (of_event(records, "recommendation") for records in (before, after))
    assert old["numbers"] != new["numbers"]
    assert list(new["by_count"]) == ["1", "2", "4"]
    assert of_event(read_records(tmp_path), "recommendation") == [new]


@pytest.mark.parametrize("name", ["labels", "workers"])
def test_forecasts_of_a_resumed_ladder_replace_the_former(name: str, tmp_path: Path) -> None:
    """Of three counts, then of four: only the forecasts of all four are there."""
    if name == "labels":
        known, more = label_ladder((12, 24, 48)), label_ladder((12, 24, 48, 96))
    else:
        more = [worker_rung(n, 1 / n + 0.1) for n in (1, 2, 12, 24, 48, 96)]
        known = more[:-1]
    before = append_conclusions(write_ladder(tmp_path, known))
    assert [r["count"] for r in of_event(before, "forecast") if r["measured"] is None] == [96]
    after = append_conclusions(write_ladder(tmp_path, more))
    present = {r["count"]: r["measured"] for r in of_event(after, "forecast")}
    assert present.keys() == {96, 192}
    assert present[96] is not None and present[192] is None


@pytest.mark.parametrize(
    ("name", "chosen"),
    [("labels", []), ("model", ["small", "large"]), ("workers", ["3"]), ("concurrency", ["2"])],
)
def test_recommendation_names_the_counts_to_use(
    name: str, chosen: list[str], tmp_path: Path
) -> None:
    records = append_conclusions(write_ladder(tmp_path, MADE[name]()))
    (recommendation,) = of_event(records, "recommendation")
    assert recommendation["chosen"] == chosen
