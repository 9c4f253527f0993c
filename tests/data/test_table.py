"""Law: a table gives back what was written, names its content by a fingerprint, and a null mask is "unlabeled".

The embedded demo set is such a table: the same everywhere, every class in every split, seasons that look different.
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
from cid_ray.data.audit import Audit
from cid_ray.data.convert import array_row
from cid_ray.data.demo import SEASONS, demo_folder, write_demo
from cid_ray.data.table import GROUP_ROWS, Table, TableWriter, default_colors, open_table, png
from tests.data.made import ids, masked_row, picture, row, write_table

COUNT = 2 * GROUP_ROWS + 3


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """The whole demo set, in a cache folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return Table(demo_folder())


def test_a_table_gives_back_what_was_written(tmp_path: Path) -> None:
    sizes = [(16 + i, 40 - i) for i in range(COUNT)]
    splits = [("train", "val", "test")[i % 3] for i in range(COUNT)]
    rows = [
        masked_row(f"{i}", picture(i, sizes[i]), ids(i, 3, sizes[i]), split=splits[i], group=f"drive{i % 2}")
        for i in range(COUNT)
    ]
    table = write_table(tmp_path / "t", rows)
    assert len(table) == COUNT and table.classes == ["a", "b", "c"] and table.num_classes == 3
    assert table.colors == default_colors(3) and table.ignore_index == 255
    for split in ("train", "val", "test"):
        assert table.rows(split).tolist() == [i for i in range(COUNT) if splits[i] == split]
    assert table.ids(np.array([4, 0])) == [rows[4]["image_id"], rows[0]["image_id"]]
    assert table.groups(np.arange(3)).tolist() == ["drive0", "drive1", "drive0"]
    assert table.labeled.all()
    for i in range(COUNT):
        image, mask = table.read(i, mask=True)
        np.testing.assert_array_equal(np.asarray(image), picture(i, sizes[i]))
        np.testing.assert_array_equal(mask, ids(i, 3, sizes[i]))
        np.testing.assert_array_equal(table.mask(i), ids(i, 3, sizes[i]))
        assert table.class_pixels[i].tolist() == np.bincount(ids(i, 3, sizes[i]).ravel()).tolist()


def test_a_null_mask_is_unlabeled(tmp_path: Path) -> None:
    image = png(picture(0))
    table = write_table(tmp_path / "t", [row("plain", image), masked_row("full", picture(1), ids(1))])
    assert table.labeled.tolist() == [False, True]
    assert table.class_pixels[0].tolist() == [0, 0, 0]
    assert table.read(0, mask=True)[1] is None


def test_a_mask_that_is_not_asked_for_is_not_opened(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t", [row("leak", png(picture(0)), b"not a mask", pixels=[1, 1, 1])])
    image, mask = table.read(0, mask=False)
    assert mask is None
    np.testing.assert_array_equal(np.asarray(image), picture(0))


@pytest.mark.parametrize("ignored", [11, 0, 254])
def test_ignored_pixels_are_read_as_255_whatever_the_ignore_index(tmp_path: Path, ignored: int) -> None:
    mask = ids(0)
    mask[2:5] = ignored
    table = write_table(tmp_path / "t", [masked_row("0", picture(0), mask)], ignore_index=ignored)
    expected = np.where(mask == ignored, 255, mask)
    for found in (table.mask(0), table.read(0, mask=True)[1]):
        assert found is not None and found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


def change_meta(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / "meta.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def other_rows(folder: Path) -> None:
    write_table(folder / "other", [masked_row(str(number), picture(number), ids(0)) for number in range(2)])
    (folder / "other" / "table.parquet").replace(folder / "table.parquet")


NO_TABLES: dict[str, Callable[[Path], object]] = {
    "no meta": lambda folder: (folder / "meta.json").unlink(),
    "no index": lambda folder: (folder / "index.parquet").unlink(),
    "rows of another import": other_rows,
    "no rows": lambda folder: (folder / "table.parquet").unlink(),
    "broken meta": lambda folder: (folder / "meta.json").write_text("{"),
    "meta of something else": lambda folder: change_meta(folder, lambda meta: {"name": "other"}),
    "meta is a list": lambda folder: change_meta(folder, lambda meta: [1]),
    "empty rows": lambda folder: (folder / "table.parquet").write_bytes(b""),
    "cut rows": lambda folder: (folder / "table.parquet").write_bytes((folder / "table.parquet").read_bytes()[:-20]),
    "rows of something else": lambda folder: pq.write_table(pa.table({"a": [1]}), folder / "table.parquet"),
}


@pytest.mark.parametrize("kind", NO_TABLES)
def test_what_is_not_a_table_is_one_line_that_names_it_and_the_way_to_one(tmp_path: Path, kind: str) -> None:
    write_table(tmp_path / "t", [masked_row("0", picture(0), ids(0))])
    NO_TABLES[kind](tmp_path / "t")
    with pytest.raises(InputError) as caught:
        Table(tmp_path / "t")
    said = str(caught.value)
    assert str(tmp_path / "t") in said and "cid_ray.prepare" in said and "\n" not in said


@pytest.mark.parametrize("name", ["absent", "file"])
def test_a_folder_that_is_none_is_not_a_table(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=name):
        open_table(str(tmp_path / name))


def test_a_table_that_was_not_finished_is_no_table(tmp_path: Path) -> None:
    write_table(tmp_path / "t", [masked_row("0", picture(0), ids(0))])
    writer = TableWriter(tmp_path / "t", ["a"], [[0, 0, 0]], 255)
    writer.add(row("1", png(picture(1))))
    with pytest.raises(InputError):
        Table(tmp_path / "t")
    writer.file.close()


def print_of(
    folder: Path, image: np.ndarray, mask: np.ndarray, split: str = "train", classes: str = "abc", ignored: int = 255
) -> str:
    made = array_row(Audit(list(classes), ignored), "one", split, "g", image, mask)
    return write_table(folder, [made], list(classes), ignored).fingerprint


def test_the_fingerprint_changes_with_one_pixel_and_not_with_the_folder(tmp_path: Path) -> None:
    image, mask = picture(0), ids(0)
    other_image, other_mask = image.copy(), mask.copy()
    other_image[3, 3, 0] ^= 1
    other_mask[3, 3] = (other_mask[3, 3] + 1) % 3
    first = print_of(tmp_path / "0", image, mask)
    assert print_of(tmp_path / "elsewhere", image, mask) == first
    others = [
        print_of(tmp_path / "1", other_image, mask),
        print_of(tmp_path / "2", image, other_mask),
        print_of(tmp_path / "3", image, mask, split="val"),
        print_of(tmp_path / "4", image, mask, classes="abd"),
        print_of(tmp_path / "5", image, mask, ignored=254),
    ]
    assert len({first, *others}) == 6


def test_reads_from_many_threads_give_the_right_images(tmp_path: Path) -> None:
    size = (16, 20)
    rows = [
        masked_row(f"{i}", np.full((*size, 3), 10 * i, np.uint8), np.full(size, i % 3, np.uint8)) for i in range(COUNT)
    ]
    table = write_table(tmp_path / "t", rows)
    order = np.random.default_rng(0).integers(0, COUNT, 400).tolist()

    def right(index: int) -> bool:
        image, mask = table.read(index, mask=True)
        return mask is not None and bool((np.asarray(image) == 10 * index).all() and (mask == index % 3).all())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(right, order))


def test_the_demo_set_is_made_in_the_users_cache_once(demo: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = demo.folder.parents[1]
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    before = (demo.folder / "table.parquet").stat()
    table = open_table("demo")
    after = (table.folder / "table.parquet").stat()
    assert table.folder == demo.folder and (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list((cache / "cid_ray").iterdir()) == [demo.folder], "nothing half-made is left in the cache"


def test_the_demo_set_is_deterministic(demo: Table, tmp_path: Path) -> None:
    counts = {"test": 4, "val": 4, "train": 8}
    for name in ("one", "two"):
        write_demo(tmp_path / name, counts)
    one, two = Table(tmp_path / "one"), Table(tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    whole = dict(zip(demo.index["image_id"].to_pylist(), demo.index["sha256"].to_pylist(), strict=True))
    for image_id, digest in zip(one.index["image_id"].to_pylist(), one.index["sha256"].to_pylist(), strict=True):
        assert whole[image_id] == digest


def test_the_demo_set_has_every_class_and_every_season_in_every_split(demo: Table) -> None:
    assert demo.num_classes >= 5
    for split in ("train", "val", "test"):
        rows = demo.rows(split)
        assert demo.labeled[rows].all() and (demo.class_pixels[rows].sum(0) > 0).all()
        _, counts = np.unique(demo.groups(rows).astype(str), return_counts=True)
        assert len(counts) == len(SEASONS) and len(set(counts)) == 1


def test_the_class_pixels_of_the_demo_set_are_those_of_its_masks(demo: Table) -> None:
    for index in range(0, len(demo), 17):
        count = np.bincount(demo.mask(index).ravel(), minlength=256)[: demo.num_classes]
        np.testing.assert_array_equal(demo.class_pixels[index], count)


def test_the_seasons_of_the_demo_set_differ_in_colour_statistics(demo: Table) -> None:
    rows = demo.rows("train")
    pixels = [np.asarray(demo.read(int(r), mask=False)[0], dtype=float).reshape(-1, 3) for r in rows]
    stats = np.array([np.concatenate([p.mean(0), p.std(0)]) for p in pixels])
    groups = demo.groups(rows)
    centre = {name: stats[groups == name].mean(0) for name in SEASONS}
    spread = {name: stats[groups == name].std(0) for name in SEASONS}
    for one, other in itertools.combinations(SEASONS, 2):
        shift = np.abs(centre[one] - centre[other]) / np.maximum(spread[one], spread[other])
        assert shift.max() > 1.5, f"{one} and {other} look alike"
