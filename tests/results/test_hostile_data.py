"""Law: data never becomes markup. A page of hostile strings has the elements and attributes that
the page of harmless ones has, its figures use no others, and its styles and addresses are ours.

Every string of the records and of the configuration is made hostile: names of runs, classes,
hyperparameters and packages, messages, paths.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cid_ray.config import Config, build_config
from cid_ray.config.search_schema import PricesConfig
from cid_ray.results.answers import answer
from cid_ray.results.comparison_page import write_comparison
from cid_ray.results.comparison_text import comparison_markdown
from cid_ray.results.live_page import open_runs, run_page, runs_page
from cid_ray.results.markdown import markdown
from cid_ray.results.pool_section import describe_pool, newest_pool
from cid_ray.results.records import RecordWriter, read_records
from cid_ray.results.report_page import class_legend, write_page
from cid_ray.results.run_comparison import compare_runs
from cid_ray.results.summary import summarize
from cid_ray.storage.run_dir import RunDir
from tests.helpers.dashboard_client import KEPT_RUN
from tests.helpers.hostile_text import HARMLESS, HOSTILE, STYLE, Skeleton
from tests.helpers.records import checked_pool, common_fields, finished, repeated_search

# What the code compares with; records.py drops records with another event or method.
STRUCTURE = {"event", "method", "state", "metric", "split", "image", "label", "prediction"}
STRUCTURE |= {"of", "finding", "file"}
RUN_NAMES = {"run", "repeats_of", "best", "candidates"}
NAMED_BY_DATA = re.compile(
    r"params|classes|versions|states|colors|importances|best_hyperparameters|means|sds|.*/iou(_teacher)?"
)
# Paths that a file system can hold.
SAMPLE = {
    "image_id": "an image",
    "image": "0\"><b onclick='x'>.png",
    "label": "0?a=1#b %41 &amp;.png",
    "prediction": "0{{x}}$\\frac{$.png",
}
STATUS = {
    "state": "running",
    "reason": "a reason",
    "total": 10,
    "finished_before": 0,
    "started": 1e6,
    "timestamp": 1e6,
    "host": "",
    "pid": 0,
    "running": {
        "1_16-cid-009": {
            **common_fields("cid", 16, 9),
            "steps": 10,
            "params": {"loss.relation_kind": "self"},
            "losses": {"total": 0.5, "mask_ratio": 0.5},
        }
    },
}
TEXT_OF_SEVERAL_LINES = ("text", "style", "transform")  # matplotlib's, of a name with a line end


def marked(value: Any, mark: str, key: str = "") -> Any:
    """A record with `mark` at the end of every string that is data."""
    if isinstance(value, dict):
        names_are_data = NAMED_BY_DATA.fullmatch(key)
        return {
            name + mark if names_are_data else name: marked(
                item, mark, "" if names_are_data else name
            )
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [marked(item, mark, key) for item in value]
    if key in RUN_NAMES:  # a run's name that is no folder name ends the command in one line
        mark = re.sub(r"[/\\\0]", "", mark)
    return value + mark if isinstance(value, str) and value and key not in STRUCTURE else value


def make_run(folder: Path, mark: str) -> Path:
    records = repeated_search(16)
    for record in records:
        if record["event"] in ("rung", "final"):
            record["samples"] = [SAMPLE]
            record["colors"] = {"road": [1, 2, 3], "car": [200, 0, 0]}
    failed = finished("cid", 16, 7, "failed") | {"reason": "it failed"}
    warning = {**failed, "event": "warning", "message": "a warning"}
    writer = RecordWriter(folder)
    pool = checked_pool(SAMPLE["image"])
    for record in (*records, failed, warning, pool):
        writer.append(marked(record, mark))
    for name in ("image", "label", "prediction"):
        (folder / SAMPLE[name]).write_bytes(b"pixels")
    (folder / "config.yaml").write_text(make_config(mark).to_yaml(), encoding="utf-8")
    (folder / "status.json").write_text(json.dumps(marked(STATUS, mark)))
    return folder


def make_config(mark: str) -> Config:
    return build_config(
        {
            "data": {"table": mark, "split_files": mark},
            "model": {"encoder": mark, "weights": mark, "decoder_options": {mark: mark}},
            "search": {"callbacks": {"tensorboard": {mark: mark}}},
            "study": {"name": mark},
        }
    )


def report(folder: Path) -> str:
    config = make_config(HARMLESS)
    return write_page(folder, folder / "report", read_records(folder), config).read_text()


def live(folder: Path) -> str:
    runs = open_runs([RunDir(folder)])
    return run_page(runs[0], runs)


def compared(folder: Path) -> str:
    return runs_page(open_runs([RunDir(folder), RunDir(folder)]))


def compared_with_kept_run(folder: Path) -> str:
    write_comparison(compare_runs([KEPT_RUN, folder]), folder / "comparison")
    return (folder / "comparison" / "index.html").read_text()


@pytest.mark.parametrize("page", [report, live, compared, compared_with_kept_run])
def test_hostile_data_adds_no_element_and_no_attribute(
    page: Callable[[Path], str], tmp_path: Path
) -> None:
    expected = Skeleton(page(make_run(tmp_path / "run-harmless", HARMLESS)))
    assert len(expected.elements) > 50 and not expected.declarations
    for name, mark in HOSTILE.items():
        found = Skeleton(page(make_run(tmp_path / f"run-{name}", mark)))
        assert found.elements == expected.elements, name
        assert found.figure_elements <= expected.figure_elements | {TEXT_OF_SEVERAL_LINES}, name
        assert not found.declarations, name
        assert all(STYLE.fullmatch(style) for style in found.styles), found.styles
        assert all(
            address.startswith(("/run/", "/style.css", "/live.js", "#", "data:image/png;base64,"))
            or address in ("/", "data:,")
            for address in found.addresses
        ), found.addresses


def test_image_whose_path_has_special_characters_is_found(tmp_path: Path) -> None:
    page = live(make_run(tmp_path / "run", HARMLESS))
    prefix = "/run/run/image/"
    shown = {a.removeprefix(prefix) for a in Skeleton(page).addresses if a.startswith(prefix)}
    assert {unquote(a.partition("?")[0]) for a in shown} == {
        SAMPLE[name] for name in ("image", "label", "prediction")
    }


@given(
    st.lists(st.integers(-1, 300) | st.text() | st.none() | st.booleans(), max_size=4)
    | st.text()
    | st.lists(st.integers(0, 255), min_size=3, max_size=3)
)
def test_color_in_a_style_is_six_hex_digits_or_none_at_all(color: Any) -> None:
    ((name, css),) = class_legend([{"colors": {"road": color}}])
    is_color = (
        isinstance(color, list)
        and len(color) == 3
        and all(type(v) is int and v in range(256) for v in color)
    )
    if is_color:
        assert name == "road" and re.fullmatch("#[0-9a-f]{6}", css)
        assert [int(css[i : i + 2], 16) for i in (1, 3, 5)] == color
    else:
        assert css == "transparent" and "color is not [r, g, b]" in name


def report_markdown(folder: Path) -> str:
    records = read_records(folder)
    pool = newest_pool(records)
    assert pool is not None
    summaries = summarize(records)
    return markdown(summaries, answer(summaries, PricesConfig()), describe_pool(pool, "run"))


def markdown_compared_with_kept_run(folder: Path) -> str:
    return comparison_markdown(compare_runs([KEPT_RUN, folder]))


@pytest.mark.parametrize("text_of", [report_markdown, markdown_compared_with_kept_run])
def test_markdown_of_hostile_data_has_the_lines_and_cells_of_harmless_data(
    text_of: Callable[[Path], str], tmp_path: Path
) -> None:
    expected = text_of(make_run(tmp_path / "run-harmless", HARMLESS)).splitlines()
    for name, mark in HOSTILE.items():
        lines = text_of(make_run(tmp_path / f"run-{name}", mark)).splitlines()
        assert len(lines) == len(expected), name
        for line, other in zip(lines, expected, strict=True):
            assert re.sub(r"\\.", "", line).count("|") == other.count("|"), (name, line)
            outside_code = re.sub(r"`[^`]*`", "", re.sub(r"\\.", "", line))
            assert not re.search(r"[<>`\[\]]", outside_code), (name, line)
            assert line.isprintable()
