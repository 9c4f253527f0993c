"""Laws of the audit page: it says what the import recorded, escapes every text, stays small."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cid_ray.data.contact_sheet import make_contact_sheet
from cid_ray.data.table import Table
from cid_ray.data.table_summary import summarize_table
from cid_ray.results.audit_page import format_percent, write_audit_page
from tests.helpers.hostile_text import HARMLESS, HOSTILE, STYLE, Skeleton
from tests.helpers.image_tables import (
    encode_image,
    labeled_row,
    random_image,
    random_mask,
    table_row,
    write_table,
)

MAX_PAGE_BYTES = 2_000_000
CLASSES = ("road", "car", "sky", "tram")  # no mask has a tram


def audit(table: Table, out: Path) -> str:
    summary = summarize_table(table)
    write_audit_page(summary, make_contact_sheet(table, summary.notes.near_duplicates), out)
    return out.read_text()


def make_table(folder: Path, mark: str = "", **meta: Any) -> Table:
    """Two labeled images of each split and two of the pool; every text ends with `mark`."""
    rows = [
        labeled_row(f"{i}{mark}", random_image(i), random_mask(i), 4, split=split, group="g" + mark)
        for i, split in enumerate(("train", "train", "val", "val"))
    ]
    rows += [
        table_row(f"u{i}{mark}", encode_image(random_image(9 + i)), size=(24, 32)) for i in (0, 1)
    ]
    table = write_table(folder, rows, classes=[name + mark for name in CLASSES])
    path = folder / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **meta}))
    return Table(Path(str(table.folder)))


def plain(mark: str) -> str:
    """What may be in the name of a class: no hidden characters."""
    return "".join(character for character in mark if character.isprintable())


def make_notes(mark: str) -> dict[str, Any]:
    return {
        "imported": {"format": "folder" + mark, "map" + mark: ["11=255" + mark]},
        "findings": [
            {"kind": "left out", "reason": "files" + mark, "count": 7, "examples": ["._a" + mark]}
        ],
        "skipped": [f"{i}.png{mark}: unreadable" for i in range(23)],
        "warnings": ["two classes" + mark],
        "near_duplicates": [
            {"first": "train/0" + plain(mark), "second": other + plain(mark)}
            | {"distance": 2, "removed": True}
            for other in ("val/2", "/pool/9.jpg")
        ],
        "near_duplicate_pairs": 31,
        "window": {"low": 0, "high": 4095, "source": "--window"},
        "scale" + mark: {"by" + mark: mark},
    }


def test_page_says_what_the_import_left_out_changed_or_guessed(tmp_path: Path) -> None:
    page = audit(make_table(tmp_path / "t", **make_notes("")), tmp_path / "a.html")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.partition("<body>")[2]))
    for expected in (
        "left out 7 files ._a",
        "0.png: unreadable 1.png: unreadable",
        "And 3 more, in meta.json .",
        "two classes",
        "31 pairs of images look alike, within a split or across splits. 2 of them:",
        "/pool/9.jpg: no picture of it in the table",
        "distance 2, left out of the pool",
        "format folder",
        "map [&#34;11=255&#34;]",
        "window {&#34;low&#34;: 0, &#34;high&#34;: 4095",
        "3 tram absent absent",
        "val shares groups with other splits: 1 with train",
        "train: 2 images with their masks, worst cases first",
        "2 unlabeled images, drawn at random",
    ):
        assert expected in text, expected
    assert "19.png" in text and "20.png: unreadable" not in text


def test_page_of_an_older_table_says_that_nothing_was_recorded(tmp_path: Path) -> None:
    page = audit(make_table(tmp_path / "t"), tmp_path / "a.html")
    assert "This table has no record of it" in page
    assert "Near-duplicates" not in page


def test_page_of_an_import_without_findings_says_so(tmp_path: Path) -> None:
    page = audit(make_table(tmp_path / "t", findings=[]), tmp_path / "a.html")
    assert "Nothing was." in page


def test_hostile_texts_add_no_element_and_no_attribute(tmp_path: Path) -> None:
    expected = Skeleton(
        audit(make_table(tmp_path / "t", HARMLESS, **make_notes(HARMLESS)), tmp_path / "a.html")
    )
    assert len(expected.elements) > 50
    for name, mark in HOSTILE.items():
        table = make_table(tmp_path / name, plain(mark), **make_notes(mark))
        page = audit(table, tmp_path / f"{name}.html")
        found = Skeleton(page)
        assert found.elements == expected.elements, name
        assert not found.declarations and not re.search("[\x00\x1b\u202e]", page)
        assert all(STYLE.fullmatch(style) for style in found.styles), found.styles
        prefixes = ("data:image/jpeg;base64,", "data:,")
        assert all(address.startswith(prefixes) for address in found.addresses)


def test_name_that_is_no_text_is_written_out(tmp_path: Path) -> None:
    finding = {"kind": "left out", "reason": "files", "count": 1, "examples": ["a\udcff.png"]}
    page = audit(make_table(tmp_path / "t", findings=[finding]), tmp_path / "a.html")
    assert "a\\udcff.png" in page


def test_page_with_every_picture_of_noise_stays_small(tmp_path: Path) -> None:
    size = (240, 320)
    rows = [
        labeled_row(f"{i}", random_image(i, size), random_mask(i, 3, size), split=split)
        for i, split in enumerate(["train"] * 12 + ["val"] * 12 + ["test"] * 12)
    ]
    image = encode_image(random_image(99, size))
    rows += [table_row(f"u{i}", image, size=size) for i in range(9)]
    write_table(tmp_path / "t", rows)
    path = tmp_path / "t" / "meta.json"
    pairs = [
        {"first": f"train/{i}", "second": f"val/{12 + j}", "distance": 1, "removed": False}
        for i in range(6)
        for j in range(6)
    ]
    path.write_text(json.dumps({**json.loads(path.read_text()), "near_duplicates": pairs}))
    page = audit(Table(tmp_path / "t"), tmp_path / "a.html")
    assert page.count("<img ") == 2 * 30 + 8 + 2 * 20
    assert len(page.encode()) < MAX_PAGE_BYTES


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (1.0, "100.0"),
        (0.316, "31.6"),
        (0.0066, "0.66"),
        (0.00004, "<0.01"),
    ],
)
def test_percent_of_a_share(share: float | None, text: str) -> None:
    assert format_percent(share) == text
