"""Law: a label draw is nested over ratios, seeded, covers the classes and takes train images only.

And UniMatch's published lists are read and written without a change, with their published counts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cid_ray import prepare
from cid_ray.config import Config, DataConfig, InputError
from cid_ray.data.image_codec import encode_png
from cid_ray.data.sources import open_table
from cid_ray.data.splits import Split, make_split, write_split
from cid_ray.data.table import Table
from tests.helpers.image_tables import (
    prepare_folder,
    random_image,
    table_row,
    write_folders,
    write_table,
    write_unlabeled,
)
from tests.helpers.tiny_run import real_data

CLASSES = ["road", "sky", "car", "lamp", "rare"]
MASKED, UNLABELED, HELD_OUT = 367, 40, 12
GROUPS = {"long": 204, "middle": 101, "short": 62}
RATIOS = ("1/16", "1/8", "1/4", "1/2", "1/1")
TINY_IMAGE = encode_png(random_image(0, (16, 16)))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """367 labeled images in three groups, a pool of 40, 12 of val. `rare` is in 3 of 40 images."""
    rng = np.random.default_rng(0)
    group = np.repeat(list(GROUPS), list(GROUPS.values()))
    rows = []
    for i in range(MASKED):
        present = rng.random(len(CLASSES)) < 0.6
        present[0] = True
        present[-1] = i % 40 < 3
        pixels = (present * 50).tolist()
        name = f"t{i:03d}"
        rows.append(table_row(name, TINY_IMAGE, b"mask", pixels=pixels, group=str(group[i])))
    rows += [table_row(f"u{i:03d}", TINY_IMAGE, group="pool") for i in range(UNLABELED)]
    rows += [
        table_row(f"v{i}", TINY_IMAGE, b"mask", pixels=[9] * 5, split="val", group="long")
        for i in range(HELD_OUT)
    ]
    return write_table(tmp_path_factory.mktemp("splits") / "t", rows, CLASSES)


def split_of(table: Table, ratio: str = "1/8", **data: Any) -> Split:
    return make_split(table, DataConfig(ratio=ratio, **data))


def labels_of(table: Table, ratio: str, **data: Any) -> set[int]:
    return set(split_of(table, ratio, **data).labeled.tolist())


draws = st.fixed_dictionaries(
    {
        "draw": st.integers(0, 50),
        "split_seed": st.integers(0, 2**31),
        "label_from": st.sampled_from(["any", "each_group", "one_group"]),
    }
)


@settings(max_examples=25, deadline=None)
@given(draw=draws)
def test_labels_of_smaller_ratio_are_subset_of_larger(table: Table, draw: dict[str, Any]) -> None:
    nested = [labels_of(table, ratio, **draw) for ratio in ("2", *RATIOS)]
    for small, large in itertools.pairwise(nested):
        assert small < large


@settings(max_examples=25, deadline=None)
@given(draw=draws, ratio=st.sampled_from(RATIOS))
def test_labels_and_pool_partition_the_train_split(
    table: Table, draw: dict[str, Any], ratio: str
) -> None:
    split = split_of(table, ratio, **draw)
    labeled, pool = split.labeled.tolist(), split.pool.tolist()
    assert len(set(labeled)) == len(labeled)
    assert len(set(pool)) == len(pool)
    assert not set(labeled) & set(pool)
    assert {*labeled, *pool} == set(table.rows("train").tolist())
    assert table.labeled[split.labeled].all()


@settings(max_examples=25, deadline=None)
@given(draw=draws)
def test_draw_of_same_seeds_is_the_same(table: Table, draw: dict[str, Any]) -> None:
    one = split_of(table, "1/8", **draw)
    two = split_of(table, "1/8", **draw)
    assert one.labeled.tolist() == two.labeled.tolist()
    assert one.split_id == two.split_id


@settings(max_examples=25, deadline=None)
@given(draw=st.integers(0, 1000), seed=st.integers(0, 2**31))
def test_draw_of_other_seeds_takes_other_images(table: Table, draw: int, seed: int) -> None:
    first = split_of(table, "1/16", draw=draw, split_seed=seed)
    for other in (
        split_of(table, "1/16", draw=draw + 1, split_seed=seed),
        split_of(table, "1/16", draw=draw, split_seed=seed + 1),
    ):
        assert set(other.labeled.tolist()) != set(first.labeled.tolist())
        assert other.split_id != first.split_id


@settings(max_examples=25, deadline=None)
@given(draw=st.integers(0, 1000), seed=st.integers(0, 2**31), ratio=st.sampled_from(RATIOS))
def test_labels_cover_every_class_of_train(table: Table, draw: int, seed: int, ratio: str) -> None:
    split = split_of(table, ratio, draw=draw, split_seed=seed)
    assert (table.class_pixels[split.labeled].sum(0) > 0).all()
    assert split.manifest["classes_without_label"] == []


def test_class_without_label_is_in_the_manifest(table: Table) -> None:
    split = split_of(table, "2", draw=1)
    pixels = zip(CLASSES, table.class_pixels[split.labeled].sum(0), strict=True)
    missing = [name for name, count in pixels if not count]
    assert missing
    assert split.manifest["classes_without_label"] == missing


def test_class_absent_from_train_does_not_stop_the_draw(tmp_path: Path) -> None:
    rows = [table_row(f"{i}", TINY_IMAGE, b"mask", pixels=[1, 0]) for i in range(16)]
    split = split_of(write_table(tmp_path / "t", rows, ["here", "nowhere"]), "1/4")
    assert len(split.labeled) == 4
    assert split.manifest["classes_without_label"] == ["nowhere"]


@settings(max_examples=25, deadline=None)
@given(draw=st.integers(0, 50), seed=st.integers(0, 1000))
def test_one_group_draw_exhausts_a_group_before_the_next(
    table: Table, draw: int, seed: int
) -> None:
    def labeled_groups(count: int) -> set[str]:
        split = split_of(table, str(count), draw=draw, split_seed=seed, label_from="one_group")
        return set(table.groups(split.labeled))

    first = labeled_groups(46)
    assert len(first) == 1
    group_size = GROUPS[first.pop()]
    assert len(labeled_groups(group_size)) == 1
    assert len(labeled_groups(group_size + 1)) == 2


def test_one_group_draws_reach_every_group(table: Table) -> None:
    splits = [split_of(table, "1/16", draw=draw, label_from="one_group") for draw in range(30)]
    assert {table.groups(split.labeled)[0] for split in splits} == set(GROUPS)


@settings(max_examples=25, deadline=None)
@given(draw=st.integers(0, 50), count=st.integers(2, MASKED))
def test_each_group_draw_takes_labels_in_proportion(table: Table, draw: int, count: int) -> None:
    split = split_of(table, str(count), draw=draw, label_from="each_group")
    groups = table.groups(split.labeled).tolist()
    for name, size in GROUPS.items():
        assert abs(groups.count(name) - count * size / MASKED) <= 1


@pytest.mark.parametrize(
    ("ratio", "name", "count"),
    [
        ("1/16", "1/16 (23)", 23),
        ("1/8", "1/8 (46)", 46),
        ("1/4", "1/4 (92)", 92),
        ("1/2", "1/2 (184)", 184),
        ("1/1", "1/1 (367)", 367),
        ("0.1", "0.1 (37)", 37),
        ("23", "23 labels", 23),
    ],
)
def test_ratio_name_contains_the_count(table: Table, ratio: str, name: str, count: int) -> None:
    split = split_of(table, ratio)
    assert split.ratio_name == name
    assert len(split.labeled) == count == split.manifest["labeled"]
    assert split.manifest["pool"] == MASKED + UNLABELED - count


def test_ratio_and_equal_count_take_the_same_images(table: Table) -> None:
    assert split_of(table, "1/16").labeled.tolist() == split_of(table, "23").labeled.tolist()


@pytest.mark.data
@pytest.mark.parametrize(("ratio", "name"), [("1/16", "1/16 (23)"), ("1/8", "1/8 (46)")])
def test_camvid_ratios_have_their_counts_and_every_class(
    camvid: Table, ratio: str, name: str
) -> None:
    for draw in range(3):
        split = split_of(camvid, ratio, draw=draw)
        assert split.ratio_name == name
        assert split.manifest["classes_without_label"] == []
        assert len(split.pool) == 367 - len(split.labeled)


def test_manifest_describes_the_draw(table: Table) -> None:
    split = split_of(table, "1/16", draw=3, split_seed=5, label_from="each_group")
    manifest = split.manifest
    assert manifest["ids"] == sorted(table.ids(split.labeled))
    assert manifest["sha256"] == hashlib.sha256("\n".join(manifest["ids"]).encode()).hexdigest()
    assert split.split_id == manifest["sha256"][: len(split.split_id)]
    assert sum(manifest["groups"].values()) == 23
    assert set(manifest["groups"]) == set(GROUPS)
    assert manifest["table"] == table.fingerprint
    assert (manifest["draw"], manifest["split_seed"], manifest["label_from"]) == (
        3,
        5,
        "each_group",
    )


@pytest.mark.parametrize("ratio", ["368", "100000"])
def test_more_labels_than_masks_raises_with_both_numbers(table: Table, ratio: str) -> None:
    with pytest.raises(InputError, match=f"{ratio} labeled images, but train has only 367 masks"):
        split_of(table, ratio)


def test_ratio_of_less_than_one_image_raises(table: Table) -> None:
    with pytest.raises(InputError, match=r"0\.0001 of 367 masks is no image"):
        split_of(table, "0.0001")


def test_table_without_train_mask_raises(tmp_path: Path) -> None:
    rows = [
        table_row("u", TINY_IMAGE),
        table_row("v", TINY_IMAGE, b"mask", pixels=[1, 1, 1], split="val"),
    ]
    with pytest.raises(InputError, match="no train image with a mask"):
        split_of(write_table(tmp_path / "t", rows))


def write_lists(folder: Path, labeled: str, unlabeled: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labeled.txt").write_text(labeled)
    (folder / "unlabeled.txt").write_text(unlabeled)
    return folder


def read_lists(table: Table, folder: Path) -> Split:
    return make_split(table, DataConfig(split_files=str(folder)))


def list_error(table: Table, folder: Path, labeled: str, unlabeled: str = "img/u000.jpg\n") -> str:
    """The message about two lists that cannot be used: one line."""
    with pytest.raises(InputError) as caught:
        read_lists(table, write_lists(folder, labeled, unlabeled))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(max_examples=10, deadline=None)
@given(draw=draws)
def test_written_lists_read_back_as_the_same_split(
    table: Table, tmp_path_factory: pytest.TempPathFactory, draw: dict[str, Any]
) -> None:
    split = split_of(table, "1/8", **draw)
    out = tmp_path_factory.getbasetemp() / "lists"
    write_split(table, split, out)
    again = read_lists(table, out)
    assert again.labeled.tolist() == split.labeled.tolist()
    assert again.pool.tolist() == split.pool.tolist()
    assert again.split_id == split.split_id
    assert json.loads((out / "manifest.json").read_text()) == split.manifest


def test_written_lists_have_unimatch_format(table: Table, tmp_path: Path) -> None:
    write_split(table, split_of(table, "1/16"), tmp_path)
    labeled = (tmp_path / "labeled.txt").read_text().splitlines()
    unlabeled = (tmp_path / "unlabeled.txt").read_text().splitlines()
    assert len(labeled) == 23
    assert all(re.fullmatch(r"img/(t\d+)\.jpg seg/\1\.png", line) for line in labeled)
    assert len(unlabeled) == MASKED + UNLABELED - 23
    without_mask = [line for line in unlabeled if " " not in line]
    assert without_mask == [f"img/u{i:03d}.jpg" for i in range(UNLABELED)]


def test_split_command_writes_lists_that_a_run_reads(table: Table, tmp_path: Path) -> None:
    out = tmp_path / "s"
    arguments = ["split", str(table.folder), "--ratio", "1/16", "--draw", "2", "--out", str(out)]
    assert prepare.main(arguments) == 0
    again = read_lists(table, out)
    assert again.labeled.tolist() == split_of(table, "1/16", draw=2).labeled.tolist()


def test_lists_of_table_with_two_pools_read_back_as_the_same_split(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "set", [np.eye(24, 32, dtype=np.uint8) for _ in range(5)])
    north = write_unlabeled(tmp_path / "north", 3, seed=2)
    south = write_unlabeled(tmp_path / "south", 3, seed=3)
    table = prepare_folder(root, "--unlabeled", north, "--unlabeled", south)
    split = split_of(table, "2")
    write_split(table, split, tmp_path / "lists")
    again = read_lists(table, tmp_path / "lists")
    assert set(again.labeled.tolist()) == set(split.labeled.tolist())
    assert set(again.pool.tolist()) == set(split.pool.tolist())


@pytest.mark.parametrize(
    "line",
    [
        "img/t005.jpg seg/t005.png",
        "img/t005.jpg",
        "t005",
        "  img/t005.jpg   seg/t005.png  ",
        "JPEGImages/t005.jpg SegmentationClass/t005.png",
        "\nimg/t005.jpg seg/t005.png\n\n",
    ],
)
def test_list_line_with_mask_without_mask_or_bare_id_is_found(
    table: Table, tmp_path: Path, line: str
) -> None:
    unlabeled = "img/u000.jpg\nu001\nimg/t006.jpg seg/t006.png\n"
    split = read_lists(table, write_lists(tmp_path, line, unlabeled))
    assert table.ids(split.labeled) == ["train/t005"]
    assert table.ids(split.pool) == ["train/u000", "train/u001", "train/t006"]


@pytest.mark.parametrize(
    "line",
    [
        "my images/a b.jpg my masks/a b.png",
        "my images/a b.jpg",
        "other images/a b.jpg other masks/a b.png",
        "other images/a b.jpg",
        "a b",
    ],
)
def test_list_path_with_spaces_is_found(tmp_path: Path, line: str) -> None:
    spaced = {"image_path": "my images/a b.jpg", "mask_path": "my masks/a b.png"}
    rows = [
        {**table_row("0", TINY_IMAGE, b"mask", pixels=[1, 1, 1]), **spaced},
        table_row("a", TINY_IMAGE, b"mask", pixels=[1, 1, 1]),
    ]
    table = write_table(tmp_path / "t", rows)
    split = read_lists(table, write_lists(tmp_path / "s", line, "img/a.jpg\n"))
    assert split.labeled.tolist() == [0]
    assert split.pool.tolist() == [1]


@pytest.mark.parametrize(
    "line", ["img/t005.jpg seg/t006.png", "JPEGImages/t005.jpg SegmentationClass/t006.png"]
)
def test_list_line_with_other_mask_name_means_its_image(
    table: Table, tmp_path: Path, line: str
) -> None:
    split = read_lists(table, write_lists(tmp_path, line, "img/u000.jpg\n"))
    assert table.ids(split.labeled) == ["train/t005"]


def test_ambiguous_id_is_rejected(tmp_path: Path) -> None:
    one = table_row("0", TINY_IMAGE, b"mask", pixels=[1, 1, 1])
    rows = [
        {**one, "image_id": site, "image_path": f"{site}/0.jpg"}
        for site in ("north", "south", "west")
    ]
    table = write_table(tmp_path / "t", rows)
    assert "line 1" in list_error(table, tmp_path / "s", "0\n", "north/0.jpg\n")
    split = read_lists(table, write_lists(tmp_path / "s", "south/0.jpg\n", "north/0.jpg\n"))
    assert split.labeled.tolist() == [1]
    assert split.pool.tolist() == [0]


def test_image_in_both_lists_raises(table: Table, tmp_path: Path) -> None:
    labeled = "img/t005.jpg seg/t005.png\nimg/t006.jpg\n"
    message = list_error(table, tmp_path, labeled, "img/t006.jpg\nimg/u000.jpg\n")
    assert "1 images are labeled and unlabeled" in message
    assert "train/t006" in message


def test_image_twice_in_a_list_raises(table: Table, tmp_path: Path) -> None:
    message = list_error(table, tmp_path, "img/t005.jpg\nt005\n")
    assert "labeled.txt names an image twice, first img/t005.jpg" in message


def test_unknown_list_line_names_file_and_line(table: Table, tmp_path: Path) -> None:
    message = list_error(table, tmp_path, "img/t005.jpg\n\nimg/nobody.jpg seg/nobody.png\n")
    assert f"{tmp_path / 'labeled.txt'}, line 3" in message
    assert "img/nobody.jpg" in message
    message = list_error(table, tmp_path, "t005\n", "img/nobody.jpg\n")
    assert f"{tmp_path / 'unlabeled.txt'}, line 1" in message


def test_held_out_image_in_list_raises(table: Table, tmp_path: Path) -> None:
    message = list_error(table, tmp_path, "img/v0.jpg seg/v0.png\n")
    assert "line 1: 'img/v0.jpg seg/v0.png' is a val image of the table" in message
    message = list_error(table, tmp_path, "t005\n", "u000\nimg/v0.jpg\n")
    assert "unlabeled.txt, line 2: 'img/v0.jpg' is a val image" in message


def test_image_of_val_list_beside_the_folder_is_rejected(table: Table, tmp_path: Path) -> None:
    """The table may hold another val: what the lists' own val.txt names must not train either."""
    folder = write_lists(tmp_path / "12", "img/t005.jpg seg/t005.png\n", "img/t006.jpg\nu001\n")
    (tmp_path / "val.txt").write_text("img/v0.jpg seg/v0.png\nimg/elsewhere.jpg\nimg/t007.jpg\n")
    assert table.ids(read_lists(table, folder).pool) == ["train/t006", "train/u001"]
    (tmp_path / "val.txt").write_text("img/v0.jpg seg/v0.png\nimg/t006.jpg seg/t006.png\n")
    with pytest.raises(InputError, match=r"1 images of its lists are in .*val.txt too, first img"):
        read_lists(table, folder)


def test_ratio_in_split_files_names_the_folder_of_each_ratio(table: Table, tmp_path: Path) -> None:
    write_lists(tmp_path / "1_16", "t001\nt002\n", "u000\n")
    write_lists(tmp_path / "3", "t001\nt002\nt003\n", "u000\n")
    lists = str(tmp_path / "{ratio}")
    sixteenth = split_of(table, "1/16", split_files=lists)
    three = split_of(table, "3", split_files=lists)
    assert (len(sixteenth.labeled), sixteenth.ratio_name) == (2, "1/16 (2)")
    assert (len(three.labeled), three.ratio_name) == (3, "3 labels")
    assert three.manifest["source"] == str(tmp_path / "3")
    with pytest.raises(InputError, match=r"1_8/labeled.txt does not exist .*UniMatch's lists are"):
        split_of(table, "1/8", split_files=lists)


def test_count_that_is_not_that_of_the_list_is_rejected(table: Table, tmp_path: Path) -> None:
    write_lists(tmp_path / "3", "t001\nt002\n", "u000\n")
    with pytest.raises(InputError, match=r"data.ratio is 3, but labeled.txt of .* names 2 images"):
        split_of(table, "3", split_files=str(tmp_path / "{ratio}"))


def test_one_list_is_named_by_its_count_whatever_the_ratio(table: Table, tmp_path: Path) -> None:
    split = read_lists(table, write_lists(tmp_path, "t001\nt002\n", "u000\n"))
    assert split.ratio_name == "2 labels"


@pytest.mark.parametrize(
    "line",
    [
        "../img/t005.jpg seg/t005.png",
        "img/../../t005.jpg",
        "/img/t005.jpg seg/t005.png",
        "/etc/t005",
        "img/../t005",
    ],
)
def test_list_path_outside_data_root_raises(table: Table, tmp_path: Path, line: str) -> None:
    in_labeled = list_error(table, tmp_path, f"{line}\n")
    in_unlabeled = list_error(table, tmp_path, "t006\n", f"u000\n{line}\n")
    for message in (in_labeled, in_unlabeled):
        assert "leaves the data root" in message
        assert ".txt, line " in message


def test_labeled_list_image_without_mask_raises(table: Table, tmp_path: Path) -> None:
    message = list_error(table, tmp_path, "img/t005.jpg\nimg/u000.jpg\n", "img/u001.jpg\n")
    assert "train/u000 has no mask" in message
    assert "labeled.txt" in message


def test_missing_or_empty_list_raises(table: Table, tmp_path: Path) -> None:
    assert "labeled.txt names no image" in list_error(table, tmp_path / "empty", "\n")
    with pytest.raises(InputError, match=r"labeled\.txt does not exist"):
        read_lists(table, tmp_path / "absent")


PUBLISHED = {
    "pascal": {
        "92": (92, 10490),
        "183": (183, 10399),
        "366": (366, 10216),
        "732": (732, 9850),
        "1464": (1464, 9118),
        "1_16": (662, 9920),
        "1_8": (1323, 9259),
        "1_4": (2646, 7936),
        "u2pl_1_16": (662, 9920),
        "u2pl_1_8": (1323, 9259),
        "u2pl_1_4": (2646, 7936),
    },
    "cityscapes": {
        "1_30": (100, 2875),
        "1_16": (186, 2789),
        "1_8": (372, 2603),
        "1_4": (744, 2231),
        "1_2": (1488, 1487),
    },
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("published")
    with tarfile.open(real_data("splits_unimatch.tar.xz")) as archive:
        archive.extractall(out, filter="data")
    return out / "splits_unimatch"


@pytest.fixture(scope="module")
def published_tables(published: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    """Tables with the paths of the lists. Every image is the same 16 x 16 pixels."""
    tables = {}
    for name, field in (("pascal", "92"), ("cityscapes", "1_16")):
        folder = published / name / field
        lines = (folder / "labeled.txt").read_text().splitlines()
        lines += (folder / "unlabeled.txt").read_text().splitlines()
        rows = []
        for line in lines:
            image_path, mask_path = line.split()
            row = table_row(image_path, TINY_IMAGE, TINY_IMAGE, pixels=[256, 0, 0])
            rows.append({**row, "image_path": image_path, "mask_path": mask_path})
        tables[name] = write_table(tmp_path_factory.mktemp("tables") / name, rows)
    return tables


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name in PUBLISHED for field in PUBLISHED[name]]
)
def test_published_lists_have_their_published_counts(
    published: Path, published_tables: dict[str, Table], name: str, field: str
) -> None:
    table = published_tables[name]
    split = read_lists(table, published / name / field)
    assert (len(split.labeled), len(split.pool)) == PUBLISHED[name][field]
    assert {*split.labeled.tolist(), *split.pool.tolist()} == set(range(len(table)))
    lines = (published / name / field / "labeled.txt").read_text().split()
    assert table.index["image_path"].take(split.labeled).to_pylist() == lines[::2]


@pytest.mark.data
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_lists_keep_every_rule(published: Path, name: str) -> None:
    """None names an image twice, or one of another list of it, or one of val."""

    def images(file: Path) -> list[str]:
        return [line.split()[0] for line in file.read_text().splitlines()]

    val = images(published / name / "val.txt")
    assert len(val) == len(set(val)) == {"pascal": 1449, "cityscapes": 500}[name]
    folders = {path.name for path in (published / name).iterdir() if path.is_dir()}
    assert folders == set(PUBLISHED[name])
    for folder in folders:
        labeled = images(published / name / folder / "labeled.txt")
        unlabeled = images(published / name / folder / "unlabeled.txt")
        together = [*labeled, *unlabeled]
        assert len(together) == len(set(together)) == {"pascal": 10582, "cityscapes": 2975}[name]
        assert not set(together) & set(val)


@pytest.mark.data
def test_published_val_list_is_checked_against_the_lists(
    published: Path, published_tables: dict[str, Table], tmp_path: Path
) -> None:
    shutil.copytree(published / "pascal" / "92", tmp_path / "92")
    text = (published / "pascal" / "val.txt").read_text()
    first = (tmp_path / "92" / "labeled.txt").read_text().splitlines()[0]
    (tmp_path / "val.txt").write_text(f"{text.rstrip()}\n{first}\n")
    with pytest.raises(InputError, match=f"1 images of its lists .* first {first.split()[0]}"):
        read_lists(published_tables["pascal"], tmp_path / "92")


@pytest.mark.data
@pytest.mark.parametrize("ratio", ["92", "1/16"])
def test_published_lists_of_each_ratio_are_found(
    published: Path, published_tables: dict[str, Table], ratio: str
) -> None:
    lists = str(published / "pascal" / "{ratio}")
    split = split_of(published_tables["pascal"], ratio, split_files=lists)
    assert split.ratio_name == {"92": "92 labels", "1/16": "1/16 (662)"}[ratio]


@pytest.mark.data
def test_published_lists_written_again_are_unchanged(
    published: Path, published_tables: dict[str, Table], tmp_path: Path
) -> None:
    table = published_tables["cityscapes"]
    folder = published / "cityscapes" / "1_16"
    write_split(table, read_lists(table, folder), tmp_path)
    for file in ("labeled.txt", "unlabeled.txt"):
        assert (tmp_path / file).read_text().split() == (folder / file).read_text().split()


def test_demo_one_group_draw_labels_one_season_of_four(small_demo: Path) -> None:
    table = open_table(str(small_demo))
    split = split_of(table, "1/8", label_from="one_group")
    assert len(set(table.groups(split.labeled))) == 1
    assert len(set(table.groups(split.pool))) == 4


def test_stem_of_a_held_out_path_names_no_train_image(tmp_path: Path) -> None:
    rows = []
    for split in ("train", "val"):
        row = table_row("0001", TINY_IMAGE, b"mask", pixels=[9] * 5, split=split)
        rows.append(row | {"image_path": f"{split}/images/0001.jpg"})
    table = write_table(tmp_path / "t", rows, CLASSES)
    lists = tmp_path / "splits" / "half"
    lists.mkdir(parents=True)
    (lists / "labeled.txt").write_text("train/images/0001.jpg\n")
    (lists / "unlabeled.txt").write_text("")
    (lists.parent / "val.txt").write_text("val/images/0001.jpg\n")
    assert len(split_of(table, "1", split_files=str(lists)).labeled) == 1
    (lists / "labeled.txt").write_text("val/images/0001.jpg\n")
    with pytest.raises(InputError, match="is a val image of the table, which must not train"):
        split_of(table, "1", split_files=str(lists))


def test_pool_fractions_of_a_draw_are_nested_and_leave_the_labels_alone(table: Table) -> None:
    splits = [
        make_split(table, DataConfig(ratio="1/8", pool_fraction=part)) for part in (0.1, 0.5, 1.0)
    ]
    sizes = [len(split.pool) for split in splits]
    whole = MASKED - len(splits[0].labeled) + UNLABELED
    assert (whole, sizes) == (361, [36, 181, 361])
    for small, large in itertools.pairwise(splits):
        assert set(small.pool) < set(large.pool)
        assert np.array_equal(small.labeled, large.labeled)
        assert small.split_id == large.split_id


def test_pool_fraction_is_another_part_in_another_draw_and_never_empty(table: Table) -> None:
    of_draws = [
        make_split(table, DataConfig(ratio="1/8", draw=draw, pool_fraction=0.3)).pool
        for draw in (0, 1)
    ]
    assert set(of_draws[0]) != set(of_draws[1])
    assert len(make_split(table, DataConfig(ratio="1/8", pool_fraction=1e-6)).pool) == 1


def test_pool_fraction_is_part_of_the_fingerprint() -> None:
    prints = {
        Config(data=DataConfig(pool_fraction=part)).fingerprint() for part in (0.25, 0.5, 1.0)
    }
    assert len(prints) == 3
