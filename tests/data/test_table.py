"""Law: a table returns what was written, and its fingerprint names its content.

The demo set is such a table: the same on every machine, with every class in every split, and with
seasons that differ in style.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cid_ray.config import InputError
from cid_ray.data import table_writer
from cid_ray.data.image_codec import default_colors, encode_png
from cid_ray.data.ingest.audit import Audit
from cid_ray.data.sources import open_table
from cid_ray.data.synthetic import ensure_demo_table, generated_row, write_demo
from cid_ray.data.synthetic_scenes import SEASONS
from cid_ray.data.table import Table
from cid_ray.data.table_format import ROW_GROUP_SIZE, SCHEMA
from cid_ray.data.table_writer import TABLE_FILES, TableWriter
from tests.helpers.image_tables import (
    labeled_row,
    random_image,
    random_mask,
    table_row,
    write_table,
)

COUNT = 2 * ROW_GROUP_SIZE + 3  # two full row groups and a part of one


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """The whole demo set, in a cache folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return Table(ensure_demo_table())


def test_table_reads_back_what_was_written(tmp_path: Path) -> None:
    splits = [("train", "val", "test")[i % 3] for i in range(COUNT)]
    images = [random_image(i, (16 + i, 40 - i)) for i in range(COUNT)]
    masks = [random_mask(i, 3, (16 + i, 40 - i)) for i in range(COUNT)]
    rows = [
        labeled_row(f"{i}", images[i], masks[i], split=splits[i], group=f"drive{i % 2}")
        for i in range(COUNT)
    ]
    table = write_table(tmp_path / "t", rows)
    assert len(table) == COUNT
    assert table.classes == ["a", "b", "c"]
    assert table.num_classes == 3
    assert table.colors == default_colors(3)
    assert table.ignore_index == 255
    for split in ("train", "val", "test"):
        assert table.rows(split).tolist() == [i for i in range(COUNT) if splits[i] == split]
    assert table.ids(np.array([4, 0])) == [rows[4]["image_id"], rows[0]["image_id"]]
    assert table.groups(np.arange(3)).tolist() == ["drive0", "drive1", "drive0"]
    assert table.labeled.all()
    for i in range(COUNT):
        image, mask = table.read(i, mask=True)
        np.testing.assert_array_equal(np.asarray(image), images[i])
        np.testing.assert_array_equal(mask, masks[i])
        np.testing.assert_array_equal(table.mask(i), masks[i])
        assert table.class_pixels[i].tolist() == np.bincount(masks[i].ravel()).tolist()


def test_null_mask_is_unlabeled(tmp_path: Path) -> None:
    unlabeled = table_row("plain", encode_png(random_image(0)))
    labeled = labeled_row("full", random_image(1), random_mask(1))
    table = write_table(tmp_path / "t", [unlabeled, labeled])
    assert table.labeled.tolist() == [False, True]
    assert table.class_pixels[0].tolist() == [0, 0, 0]
    assert table.read(0, mask=True)[1] is None


def test_read_without_mask_does_not_decode_mask(tmp_path: Path) -> None:
    encoded = encode_png(random_image(0))
    row = table_row("leak", encoded, b"not a mask", pixels=[1, 1, 1])
    table = write_table(tmp_path / "t", [row])
    image, mask = table.read(0, mask=False)
    assert mask is None
    np.testing.assert_array_equal(np.asarray(image), random_image(0))


@pytest.mark.parametrize("ignored", [11, 0, 254])
def test_ignored_pixels_are_read_as_255(tmp_path: Path, ignored: int) -> None:
    mask = random_mask(0)
    mask[2:5] = ignored
    row = labeled_row("0", random_image(0), mask)
    table = write_table(tmp_path / "t", [row], ignore_index=ignored)
    expected = np.where(mask == ignored, 255, mask)
    for found in (table.mask(0), table.read(0, mask=True)[1]):
        assert found is not None
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


def change_meta(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / "meta.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def replace_rows(folder: Path) -> None:
    """Take table.parquet from an import of two images, while the index has one."""
    rows = [labeled_row(f"{i}", random_image(i), random_mask(0)) for i in range(2)]
    write_table(folder / "other", rows)
    (folder / "other" / "table.parquet").replace(folder / "table.parquet")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no meta": lambda folder: (folder / "meta.json").unlink(),
    "no index": lambda folder: (folder / "index.parquet").unlink(),
    "rows of another import": replace_rows,
    "no rows": lambda folder: (folder / "table.parquet").unlink(),
    "broken meta": lambda folder: (folder / "meta.json").write_text("{"),
    "meta of something else": lambda folder: change_meta(folder, lambda meta: {"name": "other"}),
    "meta is a list": lambda folder: change_meta(folder, lambda meta: [1]),
    "empty rows": lambda folder: (folder / "table.parquet").write_bytes(b""),
    "cut rows": lambda folder: truncate(folder / "table.parquet"),
    "rows of something else": lambda folder: pq.write_table(
        pa.table({"a": [1]}), folder / "table.parquet"
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_incomplete_table_raises_one_line_with_path_and_remedy(tmp_path: Path, kind: str) -> None:
    write_table(tmp_path / "t", [labeled_row("0", random_image(0), random_mask(0))])
    DAMAGE[kind](tmp_path / "t")
    with pytest.raises(InputError) as caught:
        Table(tmp_path / "t")
    message = str(caught.value)
    assert str(tmp_path / "t") in message
    assert "cid_ray.prepare" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["absent", "file"])
def test_open_table_of_missing_folder_or_file_raises(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=name):
        open_table(str(tmp_path / name))


def test_unfinished_table_raises(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path / "t", ["a"], [[0, 0, 0]], 255)
    writer.add(table_row("1", encode_png(random_image(1))))
    with pytest.raises(InputError):
        Table(tmp_path / "t")
    writer.discard()


def fingerprint_of(
    folder: Path,
    image: np.ndarray,
    mask: np.ndarray,
    split: str = "train",
    classes: str = "abc",
    ignore_index: int = 255,
) -> str:
    """The fingerprint of a table with one image; each letter of `classes` is a class."""
    audit = Audit(list(classes), ignore_index)
    row = generated_row(audit, "one", split, "g", image, mask)
    return write_table(folder, [row], list(classes), ignore_index).fingerprint


def test_fingerprint_changes_with_one_pixel_and_not_with_folder(tmp_path: Path) -> None:
    image = random_image(0)
    mask = random_mask(0)
    other_image = image.copy()
    other_mask = mask.copy()
    other_image[3, 3, 0] ^= 1
    other_mask[3, 3] = (other_mask[3, 3] + 1) % 3
    first = fingerprint_of(tmp_path / "0", image, mask)
    assert fingerprint_of(tmp_path / "elsewhere", image, mask) == first
    others = [
        fingerprint_of(tmp_path / "1", other_image, mask),
        fingerprint_of(tmp_path / "2", image, other_mask),
        fingerprint_of(tmp_path / "3", image, mask, split="val"),
        fingerprint_of(tmp_path / "4", image, mask, classes="abd"),
        fingerprint_of(tmp_path / "5", image, mask, ignore_index=254),
    ]
    assert len({first, *others}) == 6


def test_concurrent_reads_return_the_right_images(tmp_path: Path) -> None:
    size = (16, 20)
    rows = []
    for i in range(COUNT):
        image = np.full((*size, 3), 10 * i, np.uint8)
        rows.append(labeled_row(f"{i}", image, np.full(size, i % 3, np.uint8)))
    table = write_table(tmp_path / "t", rows)
    order = np.random.default_rng(0).integers(0, COUNT, 400).tolist()

    def is_right(row: int) -> bool:
        image, mask = table.read(row, mask=True)
        assert mask is not None
        return bool((np.asarray(image) == 10 * row).all() and (mask == row % 3).all())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(is_right, order))


def test_demo_table_is_generated_once(demo: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(demo.folder)
    cache = folder.parents[1]
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    before = (folder / "table.parquet").stat()
    table = open_table("demo")
    after = (folder / "table.parquet").stat()
    assert table.folder == demo.folder
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list((cache / "cid_ray").iterdir()) == [folder], "no partial table is left in the cache"


def test_demo_table_is_deterministic(demo: Table, tmp_path: Path) -> None:
    counts = {"test": 4, "val": 4, "train": 8}
    for name in ("one", "two"):
        write_demo(tmp_path / name, counts)
    one = Table(tmp_path / "one")
    assert one.fingerprint == Table(tmp_path / "two").fingerprint
    assert image_hashes(one).items() <= image_hashes(demo).items(), "the first images of the set"


def image_hashes(table: Table) -> dict[str, str]:
    """Image id -> sha256 of its bytes."""
    ids = table.index["image_id"].to_pylist()
    return dict(zip(ids, table.index["sha256"].to_pylist(), strict=True))


def test_demo_splits_have_every_class_and_season(demo: Table) -> None:
    assert demo.num_classes >= 5
    for split in ("train", "val", "test"):
        rows = demo.rows(split)
        assert demo.labeled[rows].all()
        assert (demo.class_pixels[rows].sum(0) > 0).all()
        _, counts = np.unique(demo.groups(rows).astype(str), return_counts=True)
        assert len(counts) == len(SEASONS)
        assert len(set(counts)) == 1


def test_demo_class_pixels_match_its_masks(demo: Table) -> None:
    for index in range(0, len(demo), 17):
        count = np.bincount(demo.mask(index).ravel(), minlength=256)[: demo.num_classes]
        np.testing.assert_array_equal(demo.class_pixels[index], count)


def test_demo_seasons_differ_in_colour_statistics(demo: Table) -> None:
    rows = demo.rows("train")
    images = [demo.read(int(row), mask=False)[0] for row in rows]
    pixels = [np.asarray(image, dtype=float).reshape(-1, 3) for image in images]
    stats = np.array([np.concatenate([p.mean(0), p.std(0)]) for p in pixels])
    groups = demo.groups(rows)
    mean = {season: stats[groups == season].mean(0) for season in SEASONS}
    deviation = {season: stats[groups == season].std(0) for season in SEASONS}
    for one, other in itertools.combinations(SEASONS, 2):
        shift = np.abs(mean[one] - mean[other]) / np.maximum(deviation[one], deviation[other])
        assert shift.max() > 1.5, f"{one} and {other} look alike"


def test_table_that_another_process_writes_is_refused(tmp_path: Path) -> None:
    first = TableWriter(tmp_path / "table", ["a"], [[0, 0, 0]], 255)
    with pytest.raises(InputError, match="in use by another process"):
        TableWriter(tmp_path / "table", ["b"], [[0, 0, 0]], 255)
    first.close()
    TableWriter(tmp_path / "table", ["b"], [[0, 0, 0]], 255).close()


@pytest.mark.parametrize("name", ["table.parquet", "index.parquet", "notes.txt", "images"])
def test_folder_with_other_files_is_refused_and_they_stay(tmp_path: Path, name: str) -> None:
    """A table.parquet without meta.json is not ours."""
    (tmp_path / name).write_text("of somebody else")
    with pytest.raises(InputError, match=f"holds files that are not of a table .{name}"):
        TableWriter(tmp_path, ["a"], [[0, 0, 0]], 255)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "of somebody else"


def test_table_that_is_replaced_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    write_demo(tmp_path, {"test": 1, "val": 1, "train": 2})
    before = open_table(str(tmp_path)).fingerprint
    writer = TableWriter(tmp_path, ["a"], [[0, 0, 0]], 255)
    assert open_table(str(tmp_path)).fingerprint == before
    writer.discard()
    assert open_table(str(tmp_path)).fingerprint == before
    assert {path.name for path in tmp_path.iterdir()} == TABLE_FILES


@pytest.mark.parametrize("part", ["image", "mask"])
def test_image_or_mask_that_was_changed_is_refused(tmp_path: Path, part: str) -> None:
    """JPEG has no checksum, so a changed byte would be another picture without a word."""
    table = write_table(tmp_path, [labeled_row("a", random_image(0), random_mask(0))])
    other = labeled_row("a", random_image(1), random_mask(1))[part]
    stored = pq.read_table(tmp_path / "table.parquet")
    stored = stored.set_column(stored.column_names.index(part), part, pa.array([other]))
    pq.write_table(stored, tmp_path / "table.parquet")
    with pytest.raises(InputError, match=f"its {part} is not the one that was imported"):
        Table(tmp_path).read(0, mask=True)
    if part == "mask":
        Table(tmp_path).read(0, mask=False)
        with pytest.raises(InputError, match=r"image train/a .*its mask is not the one"):
            Table(tmp_path).mask(0)
    assert table.fingerprint == Table(tmp_path).fingerprint


def test_index_that_was_changed_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path, [labeled_row("a", random_image(0), random_mask(0))])
    index = pq.read_table(tmp_path / "index.parquet")
    pq.write_table(index.set_column(1, "split", pa.array(["val"])), tmp_path / "index.parquet")
    with pytest.raises(InputError, match=r"index\.parquet is not the file that was imported"):
        Table(tmp_path)


def test_table_of_an_older_version_without_these_hashes_is_read(tmp_path: Path) -> None:
    rows = [labeled_row("a", random_image(0), random_mask(0))]
    expected = write_table(tmp_path, rows).mask(0)
    index = pq.read_table(tmp_path / "index.parquet").drop_columns(["mask_sha256"])
    pq.write_table(index, tmp_path / "index.parquet")
    meta = json.loads((tmp_path / "meta.json").read_text())
    del meta["index_sha256"]
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    np.testing.assert_array_equal(Table(tmp_path).mask(0), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": "abc"},
        {"classes": ["a", "a", "c"]},
        {"colors": [[0, 0, 0]]},
        {"colors": [[0, 0, 256]] * 3},
        {"ignore_index": 300},
        {"fingerprint": None},
    ],
    ids=str,
)
def test_meta_of_another_shape_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    write_table(tmp_path, [labeled_row("a", random_image(0), random_mask(0))])
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps(meta | change))
    with pytest.raises(InputError, match=r"not a table .ValueError: meta\.json: "):
        Table(tmp_path)


def test_table_of_version_2_is_read(tmp_path: Path) -> None:
    """It had the columns of the index in table.parquet too."""
    rows = [labeled_row(str(i), random_image(i), random_mask(i)) for i in range(COUNT)]
    table = write_table(tmp_path, rows)
    index = pq.read_table(tmp_path / "index.parquet")
    stored = pq.read_table(tmp_path / "table.parquet")
    columns = {
        name: (stored if name in stored.column_names else index)[name] for name in SCHEMA.names
    }
    old = pa.table(columns, schema=SCHEMA)
    pq.write_table(old, tmp_path / "table.parquet", row_group_size=ROW_GROUP_SIZE)
    again = Table(tmp_path)
    assert again.file_id != table.file_id
    for row in range(COUNT):
        image, mask = again.read(row, mask=True)
        np.testing.assert_array_equal(np.asarray(image), random_image(row))
        np.testing.assert_array_equal(mask, random_mask(row))


def test_index_of_many_rows_has_every_row_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is packed on the way: small parts take kilobytes each."""
    monkeypatch.setattr(table_writer, "PARTS_PER_CHUNK", 2)
    count = 5 * ROW_GROUP_SIZE + 3
    label = labeled_row("0", random_image(0), random_mask(0))
    image = label["image"]
    table = write_table(tmp_path, [label, *(table_row(str(i), image) for i in range(1, count))])
    assert table.ids(np.arange(count)) == [f"train/{i}" for i in range(count)]
    assert table.labeled.tolist() == [True] + [False] * (count - 1)
    assert [group.num_rows for group in row_groups(table)] == [ROW_GROUP_SIZE] * 5 + [3]


def row_groups(table: Table) -> list[Any]:
    metadata = pq.read_metadata(f"{table.folder}/table.parquet")
    return [metadata.row_group(number) for number in range(metadata.num_row_groups)]
