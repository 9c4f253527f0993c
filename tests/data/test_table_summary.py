"""Law: the summary of a table has the numbers that its rows have, whatever the table's age."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cid_ray.config import InputError
from cid_ray.data.near_pairs import find_pairs
from cid_ray.data.sources import open_table
from cid_ray.data.table import Table
from cid_ray.data.table_meta import PairNote, read_notes
from cid_ray.data.table_summary import TableSummary, summarize_table
from tests.helpers.image_tables import (
    encode_image,
    labeled_row,
    random_image,
    random_mask,
    table_row,
    write_table,
)


def change_meta(folder: Path, **changes: Any) -> Table:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, **changes}))
    return Table(folder)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    halves = np.zeros((10, 20), np.uint8)
    halves[:, 10:] = 1
    speck = halves.copy()
    speck[0, :2] = (2, 255)
    image = random_image(0, (10, 20))
    small = random_image(1, (8, 8))
    return write_table(
        tmp_path,
        [
            labeled_row("v", image, halves, split="val", group="x"),
            labeled_row("a", image, halves, group="x"),
            labeled_row("b", image, speck, group="y"),
            table_row("u", encode_image(small), size=(8, 8), group="z"),
            table_row("w", encode_image(small), size=(8, 8)),
        ],
    )


def test_summary_counts_images_classes_groups_and_sizes(table: Table) -> None:
    train, val = summarize_table(table).splits
    assert (train.name, train.images, train.masks, train.unlabeled) == ("train", 4, 2, 2)
    assert (val.name, val.images, val.masks, val.unlabeled) == ("val", 1, 1, 0)
    assert (train.groups, train.shared_groups) == (3, ["1 with val"])
    assert (val.groups, val.shared_groups) == (1, ["1 with train"])
    assert train.void_share == pytest.approx(1 / 400) and val.void_share == 0
    a, b, c = train.classes
    assert (a.share, a.images, a.rare) == (198 / 399, 2, False)
    assert (b.share, b.images, b.rare) == (200 / 399, 2, False)
    assert (c.share, c.images, c.rare, c.absent) == (1 / 399, 1, True, False)
    assert val.classes[2].absent and not val.classes[2].rare
    assert train.num_sizes == 2 and train.frequent == [((8, 8), 2), ((20, 10), 2)]
    assert train.spread == [(8, 8), (20, 10), (20, 10)]


def test_table_without_notes_of_its_import_has_a_summary(table: Table) -> None:
    notes = summarize_table(table).notes
    assert notes.findings is None and not notes.warnings and not notes.imported


@pytest.mark.parametrize(
    "changes",
    [
        {"findings": 5},
        {"skipped": {"a": 1}},
        {"near_duplicates": [{"first": 1}]},
        {"warnings": [1]},
    ],
)
def test_damaged_notes_are_refused_in_one_line(table: Table, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"meta.json: .*; import the images again") as caught:
        summarize_table(change_meta(Path(str(table.folder)), **changes))
    assert "\n" not in str(caught.value)


def test_notes_have_what_an_import_of_another_version_stored(table: Table) -> None:
    changed = change_meta(Path(str(table.folder)), margin=[0, 4095], imported={"format": "voc"})
    notes = read_notes(changed.folder)
    assert notes.model_extra is not None and notes.model_extra["margin"] == [0, 4095]
    assert notes.imported == {"format": "voc"}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.none() | st.lists(st.integers(0, 10**12), min_size=3, max_size=3), min_size=1, max_size=9
    )
)
def test_class_pixels_are_those_of_the_index_row_by_row(
    tmp_path_factory: pytest.TempPathFactory, counts: list[list[int] | None]
) -> None:
    rows = [table_row(str(i), b"x", b"y", pixels=pixels) for i, pixels in enumerate(counts)]
    table = write_table(tmp_path_factory.mktemp("pixels"), rows)
    expected = [[0, 0, 0] if pixels is None else pixels for pixels in counts]
    assert table.class_pixels.tolist() == expected
    assert table.labeled.tolist() == [pixels is not None for pixels in counts]


def test_demo_table_has_a_summary() -> None:
    summary = summarize_table(open_table("demo"))
    assert isinstance(summary, TableSummary)
    assert [(split.name, split.images) for split in summary.splits] == [
        ("train", 192),
        ("val", 32),
        ("test", 48),
    ]


# ---- near-duplicates ----


def note(first: str, second: str) -> PairNote:
    return PairNote(first=first, second=second, distance=3, removed=True)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("train/a", 1),
        ("img/a.jpg", 1),
        ("/somewhere/set/img/a.jpg", 1),
        ("train/missing", None),
        ("/somewhere/else/a.jpg", None),
        ("", None),
    ],
)
def test_pair_names_rows_by_id_or_by_the_end_of_the_path(
    table: Table, name: str, row: int | None
) -> None:
    (pair,) = find_pairs(table, [note("val/v", name)], 5)
    assert pair.rows == (0, row)


def test_pairs_of_which_no_image_is_in_the_table_are_left_out(table: Table) -> None:
    assert not find_pairs(table, [note("x", "y")], 5)
    assert len(find_pairs(table, [note("val/v", str(i)) for i in range(9)], 5)) == 5


def test_path_of_several_images_names_none(tmp_path: Path) -> None:
    image = encode_image(random_image(0))
    label = labeled_row("l", random_image(1), random_mask(1))
    twice = [{**table_row(name, image), "image_path": "00.jpg"} for name in ("a", "b")]
    table = write_table(tmp_path, [label, *twice])
    (pair,) = find_pairs(table, [note("train/l", "/pool/00.jpg")], 5)
    assert pair.rows == (0, None)
