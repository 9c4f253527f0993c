"""Law: a table that is damaged anywhere returns the pixels that were imported, or is refused in one
line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cid_ray.data.image_codec import encode_png
from cid_ray.data.table import Table
from cid_ray.data.table_format import SCHEMA, SPLITS
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
    written,
)
from tests.helpers.image_tables import (
    encode_image,
    labeled_row,
    random_image,
    random_mask,
    table_row,
    write_table,
)

FILES = ("meta.json", "index.parquet", "table.parquet")
NUM_IMAGES = 11  # more than one row group
Content = dict[str, Any]


def content_of(table: Table) -> Content:
    """Everything that training reads from a table, as plain values."""
    digest = hashlib.sha256()
    for row in range(len(table)):
        image, mask = table.read(row, mask=True)
        digest.update(image.tobytes() + (b"" if mask is None else mask.tobytes()))
    return {
        "pixels": digest.hexdigest(),
        "ids": table.ids(np.arange(len(table))),
        "groups": table.groups(np.arange(len(table))).tolist(),
        "splits": [table.rows(split).tolist() for split in SPLITS],
        "labeled": table.labeled.tolist(),
        "class_pixels": table.class_pixels.tolist(),
        "paths": table.index["image_path"].to_pylist(),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Content]:
    """A table of PNG and JPEG images with and without masks, and its content."""
    rows = []
    for i in range(NUM_IMAGES):
        split = ("train", "train", "val", "test")[i % 4]
        if i % 3 == 2:
            image = encode_image(random_image(i))
            rows.append(table_row(f"{i}", image, split="train", size=(24, 32), group="g"))
        elif i % 3 == 1:
            mask = random_mask(i)
            pixels = np.bincount(mask.ravel(), minlength=3).tolist()
            encoded = encode_image(random_image(i))
            row = table_row(f"{i}", encoded, encode_png(mask), pixels=pixels, split=split)
            rows.append({**row, "height": 24, "width": 32})
        else:
            rows.append(labeled_row(f"{i}", random_image(i), random_mask(i), split=split))
    table = write_table(tmp_path_factory.mktemp("tables") / "t", rows)
    return Path(table.folder), content_of(table)


@pytest.fixture
def folder(whole: tuple[Path, Content]) -> Iterator[Path]:
    """The table's folder; its files are put back afterwards."""
    kept = {name: (whole[0] / name).read_bytes() for name in FILES}
    yield whole[0]
    for name, content in kept.items():
        (whole[0] / name).write_bytes(content)


def check_damaged(folder: Path, name: str, edits: list[Edit], expected: Content) -> None:
    path = folder / name
    before = path.read_bytes()
    path.write_bytes(damage(before, edits))
    try:
        found = result_or_refusal(lambda: content_of(Table(folder)), folder)
    finally:
        path.write_bytes(before)
    if found is not None:
        assert found == expected


@fuzz(0.3)
@given(edits=edits)
def test_damaged_images(folder: Path, whole: tuple[Path, Content], edits: list[Edit]) -> None:
    check_damaged(folder, "table.parquet", edits, whole[1])


@fuzz(0.2)
@given(edits=edits)
def test_damaged_index(folder: Path, whole: tuple[Path, Content], edits: list[Edit]) -> None:
    check_damaged(folder, "index.parquet", edits, whole[1])


def check_meta(folder: Path, content: bytes, expected: Content) -> None:
    """Names and colours are what the file says; the rows must be those of the import."""
    path = folder / "meta.json"
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        table = result_or_refusal(lambda: Table(folder), folder)
        if table is None:
            return
        assert len(table.classes) == len(set(table.classes)) == len(table.colors)
        assert all(type(name) is str for name in table.classes)
        for color in table.colors:
            assert len(color) == 3 and all(type(v) is int and 0 <= v <= 255 for v in color)
        assert type(table.ignore_index) is int and 0 <= table.ignore_index <= 255
        assert type(table.fingerprint) is str
        assert table.describe()
        stated = json.loads(before)
        if (table.num_classes, table.ignore_index) == (3, stated["ignore_index"]):
            found = result_or_refusal(lambda: content_of(table), folder)
            assert found in (None, expected)
    finally:
        path.write_bytes(before)


@fuzz(0.1)
@given(edits=edits)
def test_damaged_meta(folder: Path, whole: tuple[Path, Content], edits: list[Edit]) -> None:
    check_meta(folder, damage((folder / "meta.json").read_bytes(), edits), whole[1])


@fuzz(0.2)
@given(changes=changes)
def test_changed_meta(folder: Path, whole: tuple[Path, Content], changes: list[Change]) -> None:
    meta = json.loads((folder / "meta.json").read_bytes())
    check_meta(folder, as_json(change(meta, changes)), whole[1])


# ---- valid parquet files of other content ----

TYPES = (pa.string(), pa.int64(), pa.binary(), pa.float32(), pa.list_(pa.int64()), pa.null())
OTHER_VALUES = {
    pa.string(): "val",
    pa.int64(): 7,
    pa.binary(): b"\x89PNG",
    pa.float32(): float("nan"),
    pa.list_(pa.int64()): [1, -2],
    pa.null(): None,
}
columns = st.tuples(st.sampled_from(SCHEMA.names), st.sampled_from(TYPES), st.booleans())


@fuzz(0.1)
@given(
    name=st.sampled_from(FILES[1:]),
    columns=st.lists(columns, max_size=3),
    rows=st.sampled_from([0, 3, NUM_IMAGES, NUM_IMAGES]),
    removed=st.lists(st.sampled_from(SCHEMA.names), max_size=1),
)
def test_foreign_parquet(
    folder: Path,
    name: str,
    columns: list[tuple[str, pa.DataType, bool]],
    rows: int,
    removed: list[str],
) -> None:
    """Other columns, types, nulls and row counts: refused, or read as what the file says."""
    path = folder / name
    before = path.read_bytes()
    table = pq.read_table(pa.BufferReader(before)).slice(0, rows)
    for column, kind, is_null in columns:
        if column in table.column_names:
            values = pa.array([None if is_null else OTHER_VALUES[kind]] * len(table), kind)
            table = table.set_column(table.column_names.index(column), column, values)
    table = table.drop_columns([c for c in removed if c in table.column_names])
    pq.write_table(table, path, row_group_size=8)
    try:
        result_or_refusal(lambda: content_of(Table(folder)), folder)
    finally:
        path.write_bytes(before)


@fuzz(0.1)
@given(content=st.one_of(st.binary(max_size=64), trees.map(as_json)), name=st.sampled_from(FILES))
def test_file_of_another_kind(folder: Path, content: bytes, name: str) -> None:
    before = (folder / name).read_bytes()
    written(folder / name, content)
    try:
        assert result_or_refusal(lambda: content_of(Table(folder)), folder) is None
    finally:
        written(folder / name, before)
