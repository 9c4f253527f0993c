"""Law: a label draw is nested over ratios, seeded, covers the classes and never touches the pool or a held-out split.

And UniMatch's published lists say the same rows in and out, with their published counts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cid_ray import prepare
from cid_ray.config import Data, InputError
from cid_ray.data.splits import Split, make_split, write_split
from cid_ray.data.table import Table, open_table, png
from tests.data.made import picture, prepare_folder, row, write_folders, write_pool, write_table
from tests.support import real_data

CLASSES = ["road", "sky", "car", "lamp", "rare"]
MASKED, UNLABELED, HELD_OUT = 367, 40, 12
GROUPS = {"long": 204, "middle": 101, "short": 62}
RATIOS = ("1/16", "1/8", "1/4", "1/2", "1/1")
TINY_IMAGE = png(picture(0, (16, 16)))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """367 labeled train images in three groups, 40 of a pool, 12 held out; `rare` is in 3 of 40 images."""
    rng = np.random.default_rng(0)
    group = np.repeat(list(GROUPS), list(GROUPS.values()))
    rows = []
    for i in range(MASKED):
        present = rng.random(len(CLASSES)) < 0.6
        present[0], present[-1] = True, i % 40 < 3
        rows.append(row(f"t{i:03d}", TINY_IMAGE, b"mask", pixels=(present * 50).tolist(), group=str(group[i])))
    rows += [row(f"u{i:03d}", TINY_IMAGE, group="pool") for i in range(UNLABELED)]
    rows += [row(f"v{i}", TINY_IMAGE, b"mask", pixels=[9] * 5, split="val", group="long") for i in range(HELD_OUT)]
    return write_table(tmp_path_factory.mktemp("splits") / "t", rows, CLASSES)


def split_of(table: Table, ratio: str = "1/8", **data: Any) -> Split:
    return make_split(table, Data(ratio=ratio, **data))


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
def test_a_smaller_ratio_lies_within_a_larger_one(table: Table, draw: dict[str, Any]) -> None:
    nested = [labels_of(table, ratio, **draw) for ratio in ("2", *RATIOS)]
    for small, large in itertools.pairwise(nested):
        assert small < large


@settings(max_examples=25, deadline=None)
@given(draw=draws, ratio=st.sampled_from(RATIOS))
def test_labels_and_pool_are_disjoint_and_together_the_train_split(
    table: Table, draw: dict[str, Any], ratio: str
) -> None:
    split = split_of(table, ratio, **draw)
    labeled, pool = split.labeled.tolist(), split.pool.tolist()
    assert len(set(labeled)) == len(labeled) and len(set(pool)) == len(pool)
    assert not set(labeled) & set(pool)
    assert {*labeled, *pool} == set(table.rows("train").tolist())
    assert table.labeled[split.labeled].all()


@settings(max_examples=25, deadline=None)
@given(draw=draws)
def test_a_draw_is_a_function_of_its_seeds(table: Table, draw: dict[str, Any]) -> None:
    one, two = (split_of(table, "1/8", **draw) for _ in range(2))
    assert one.labeled.tolist() == two.labeled.tolist() and one.split_id == two.split_id


@settings(max_examples=25, deadline=None)
@given(draw=st.integers(0, 1000), seed=st.integers(0, 2**31))
def test_other_draws_and_other_seeds_take_other_images(table: Table, draw: int, seed: int) -> None:
    first = split_of(table, "1/16", draw=draw, split_seed=seed)
    for other in (
        split_of(table, "1/16", draw=draw + 1, split_seed=seed),
        split_of(table, "1/16", draw=draw, split_seed=seed + 1),
    ):
        assert set(other.labeled.tolist()) != set(first.labeled.tolist()) and other.split_id != first.split_id


@settings(max_examples=25, deadline=None)
@given(draw=st.integers(0, 1000), seed=st.integers(0, 2**31), ratio=st.sampled_from(RATIOS))
def test_labels_show_every_class_that_train_has(table: Table, draw: int, seed: int, ratio: str) -> None:
    split = split_of(table, ratio, draw=draw, split_seed=seed)
    assert (table.class_pixels[split.labeled].sum(0) > 0).all()
    assert split.manifest["classes_without_label"] == []


def test_a_class_that_no_label_shows_is_in_the_manifest(table: Table) -> None:
    split = split_of(table, "2", draw=1)
    missing = [name for name, count in zip(CLASSES, table.class_pixels[split.labeled].sum(0), strict=True) if not count]
    assert missing and split.manifest["classes_without_label"] == missing


def test_a_class_that_train_does_not_have_stops_no_draw(tmp_path: Path) -> None:
    rows = [row(f"{i}", TINY_IMAGE, b"mask", pixels=[1, 0]) for i in range(16)]
    split = split_of(write_table(tmp_path / "t", rows, ["here", "nowhere"]), "1/4")
    assert len(split.labeled) == 4 and split.manifest["classes_without_label"] == ["nowhere"]


@settings(max_examples=25, deadline=None)
@given(draw=st.integers(0, 50), seed=st.integers(0, 1000))
def test_one_group_takes_one_group_to_its_end_before_the_next(table: Table, draw: int, seed: int) -> None:
    first = set(table.groups(split_of(table, "46", draw=draw, split_seed=seed, label_from="one_group").labeled))
    assert len(first) == 1
    size = GROUPS[first.pop()]
    whole = split_of(table, str(size), draw=draw, split_seed=seed, label_from="one_group")
    beyond = split_of(table, str(size + 1), draw=draw, split_seed=seed, label_from="one_group")
    assert len(set(table.groups(whole.labeled))) == 1 and len(set(table.groups(beyond.labeled))) == 2


def test_one_group_comes_to_every_group_over_the_draws(table: Table) -> None:
    taken = {table.groups(split_of(table, "1/16", draw=d, label_from="one_group").labeled)[0] for d in range(30)}
    assert taken == set(GROUPS)


@settings(max_examples=25, deadline=None)
@given(draw=st.integers(0, 50), count=st.integers(2, MASKED))
def test_each_group_gives_labels_in_proportion_to_its_size(table: Table, draw: int, count: int) -> None:
    groups = table.groups(split_of(table, str(count), draw=draw, label_from="each_group").labeled).tolist()
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
def test_a_ratio_is_named_with_its_count(table: Table, ratio: str, name: str, count: int) -> None:
    split = split_of(table, ratio)
    assert split.name == name and len(split.labeled) == count == split.manifest["labeled"]
    assert split.manifest["pool"] == MASKED + UNLABELED - count


def test_a_ratio_and_its_count_are_the_same_images(table: Table) -> None:
    assert split_of(table, "1/16").labeled.tolist() == split_of(table, "23").labeled.tolist()


@pytest.mark.data
@pytest.mark.parametrize(("ratio", "name"), [("1/16", "1/16 (23)"), ("1/8", "1/8 (46)")])
def test_camvids_ratios_have_their_counts_and_every_class(camvid: Table, ratio: str, name: str) -> None:
    for draw in range(3):
        split = split_of(camvid, ratio, draw=draw)
        assert split.name == name and split.manifest["classes_without_label"] == []
        assert len(split.pool) == 367 - len(split.labeled)


def test_the_manifest_says_what_was_drawn(table: Table) -> None:
    split = split_of(table, "1/16", draw=3, split_seed=5, label_from="each_group")
    manifest = split.manifest
    assert manifest["ids"] == sorted(table.ids(split.labeled))
    assert manifest["sha256"] == hashlib.sha256("\n".join(manifest["ids"]).encode()).hexdigest()
    assert split.split_id == manifest["sha256"][: len(split.split_id)]
    assert sum(manifest["groups"].values()) == 23 and set(manifest["groups"]) == set(GROUPS)
    assert manifest["table"] == table.fingerprint
    assert (manifest["draw"], manifest["split_seed"], manifest["label_from"]) == (3, 5, "each_group")


@pytest.mark.parametrize("ratio", ["368", "100000"])
def test_more_labels_than_masks_is_an_error_with_both_numbers(table: Table, ratio: str) -> None:
    with pytest.raises(InputError, match=f"{ratio} labeled images, train has 367 masks"):
        split_of(table, ratio)


def test_a_ratio_of_no_image_is_an_error(table: Table) -> None:
    with pytest.raises(InputError, match=r"0\.0001 of 367 masks is no image"):
        split_of(table, "0.0001")


def test_a_table_without_a_train_mask_is_an_error(tmp_path: Path) -> None:
    rows = [row("u", TINY_IMAGE), row("v", TINY_IMAGE, b"mask", pixels=[1, 1, 1], split="val")]
    with pytest.raises(InputError, match="no train image with a mask"):
        split_of(write_table(tmp_path / "t", rows))


def lists(folder: Path, labeled: str, unlabeled: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labeled.txt").write_text(labeled)
    (folder / "unlabeled.txt").write_text(unlabeled)
    return folder


def read_lists(table: Table, folder: Path) -> Split:
    return make_split(table, Data(split_files=str(folder)))


def refused(table: Table, folder: Path, labeled: str, unlabeled: str = "img/u000.jpg\n") -> str:
    with pytest.raises(InputError) as caught:
        read_lists(table, lists(folder, labeled, unlabeled))
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
    assert again.labeled.tolist() == split.labeled.tolist() and again.pool.tolist() == split.pool.tolist()
    assert again.split_id == split.split_id
    assert json.loads((out / "manifest.json").read_text()) == split.manifest


def test_written_lists_have_unimatchs_form(table: Table, tmp_path: Path) -> None:
    write_split(table, split_of(table, "1/16"), tmp_path)
    labeled = (tmp_path / "labeled.txt").read_text().splitlines()
    unlabeled = (tmp_path / "unlabeled.txt").read_text().splitlines()
    assert len(labeled) == 23 and all(re.fullmatch(r"img/(t\d+)\.jpg seg/\1\.png", line) for line in labeled)
    assert len(unlabeled) == MASKED + UNLABELED - 23
    assert [line for line in unlabeled if " " not in line] == [f"img/u{i:03d}.jpg" for i in range(UNLABELED)]


def test_the_split_command_writes_lists_that_a_run_reads(table: Table, tmp_path: Path) -> None:
    given = ["split", str(table.folder), "--ratio", "1/16", "--draw", "2", "--out", str(tmp_path / "s")]
    assert prepare.main(given) == 0
    again = read_lists(table, tmp_path / "s")
    assert again.labeled.tolist() == split_of(table, "1/16", draw=2).labeled.tolist()


def test_lists_of_a_set_with_many_pools_read_back_as_the_same_split(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "set", [np.eye(24, 32, dtype=np.uint8) for _ in range(5)])
    pools = [write_pool(tmp_path / name, 3, seed) for seed, name in ((2, "north"), (3, "south"))]
    table = prepare_folder(root, "--unlabeled", pools[0], "--unlabeled", pools[1])
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
def test_a_line_may_have_a_mask_or_not_or_be_a_bare_id(table: Table, tmp_path: Path, line: str) -> None:
    split = read_lists(table, lists(tmp_path, line, "img/u000.jpg\nu001\nimg/t006.jpg seg/t006.png\n"))
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
def test_a_path_may_hold_spaces(tmp_path: Path, line: str) -> None:
    spaced = {"image_path": "my images/a b.jpg", "mask_path": "my masks/a b.png"}
    rows = [
        {**row("0", TINY_IMAGE, b"mask", pixels=[1, 1, 1]), **spaced},
        row("a", TINY_IMAGE, b"mask", pixels=[1, 1, 1]),
    ]
    split = read_lists(write_table(tmp_path / "t", rows), lists(tmp_path / "s", line, "img/a.jpg\n"))
    assert split.labeled.tolist() == [0] and split.pool.tolist() == [1]


@pytest.mark.parametrize("line", ["img/t005.jpg seg/t006.png", "JPEGImages/t005.jpg SegmentationClass/t006.png"])
def test_a_line_means_its_image_whatever_its_mask_is_called(table: Table, tmp_path: Path, line: str) -> None:
    split = read_lists(table, lists(tmp_path, line, "img/u000.jpg\n"))
    assert table.ids(split.labeled) == ["train/t005"]


def test_an_id_that_two_folders_share_is_not_guessed(tmp_path: Path) -> None:
    one = row("0", TINY_IMAGE, b"mask", pixels=[1, 1, 1])
    rows = [{**one, "image_id": site, "image_path": f"{site}/0.jpg"} for site in ("north", "south", "west")]
    table = write_table(tmp_path / "t", rows)
    assert "line 1" in refused(table, tmp_path / "s", "0\n", "north/0.jpg\n")
    split = read_lists(table, lists(tmp_path / "s", "south/0.jpg\n", "north/0.jpg\n"))
    assert split.labeled.tolist() == [1] and split.pool.tolist() == [0]


def test_an_image_in_both_lists_is_an_error(table: Table, tmp_path: Path) -> None:
    said = refused(table, tmp_path, "img/t005.jpg seg/t005.png\nimg/t006.jpg\n", "img/t006.jpg\nimg/u000.jpg\n")
    assert "1 images are labeled and unlabeled" in said and "train/t006" in said


def test_an_image_twice_in_a_list_is_an_error(table: Table, tmp_path: Path) -> None:
    said = refused(table, tmp_path, "img/t005.jpg\nt005\n")
    assert "labeled.txt names an image twice" in said


def test_an_unknown_line_names_file_and_line(table: Table, tmp_path: Path) -> None:
    said = refused(table, tmp_path, "img/t005.jpg\n\nimg/nobody.jpg seg/nobody.png\n")
    assert f"{tmp_path / 'labeled.txt'}, line 3" in said and "img/nobody.jpg" in said
    assert f"{tmp_path / 'unlabeled.txt'}, line 1" in refused(table, tmp_path, "t005\n", "img/nobody.jpg\n")


def test_a_held_out_image_is_no_train_image(table: Table, tmp_path: Path) -> None:
    assert "line 1" in refused(table, tmp_path, "img/v0.jpg seg/v0.png\n")
    assert "unlabeled.txt, line 2" in refused(table, tmp_path, "t005\n", "u000\nimg/v0.jpg\n")


@pytest.mark.parametrize(
    "line",
    ["../img/t005.jpg seg/t005.png", "img/../../t005.jpg", "/img/t005.jpg seg/t005.png", "/etc/t005", "img/../t005"],
)
def test_a_path_that_leaves_the_data_root_is_refused(table: Table, tmp_path: Path, line: str) -> None:
    for said in (refused(table, tmp_path, f"{line}\n"), refused(table, tmp_path, "t006\n", f"u000\n{line}\n")):
        assert "leaves the data root" in said and ".txt, line " in said


def test_a_label_without_a_mask_is_an_error(table: Table, tmp_path: Path) -> None:
    said = refused(table, tmp_path, "img/t005.jpg\nimg/u000.jpg\n", "img/u001.jpg\n")
    assert "train/u000 has no mask" in said and "labeled.txt" in said


def test_a_missing_or_empty_list_is_an_error(table: Table, tmp_path: Path) -> None:
    assert "labeled.txt names no image" in refused(table, tmp_path / "empty", "\n")
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
    """Tables that hold the paths of the lists, every image the same 16 x 16 pixels."""
    made = {}
    for name, field in (("pascal", "92"), ("cityscapes", "1_16")):
        files = [published / name / field / file for file in ("labeled.txt", "unlabeled.txt")]
        rows = []
        for image_path, mask_path in (line.split() for file in files for line in file.read_text().splitlines()):
            one = row(image_path, TINY_IMAGE, TINY_IMAGE, pixels=[256, 0, 0])
            rows.append({**one, "image_path": image_path, "mask_path": mask_path})
        made[name] = write_table(tmp_path_factory.mktemp("tables") / name, rows)
    return made


@pytest.mark.data
@pytest.mark.parametrize(("name", "field"), [(name, field) for name in PUBLISHED for field in PUBLISHED[name]])
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
def test_published_lists_written_again_are_the_published_lists(
    published: Path, published_tables: dict[str, Table], tmp_path: Path
) -> None:
    table, folder = published_tables["cityscapes"], published / "cityscapes" / "1_16"
    write_split(table, read_lists(table, folder), tmp_path)
    for file in ("labeled.txt", "unlabeled.txt"):
        assert (tmp_path / file).read_text().split() == (folder / file).read_text().split()


def test_the_demo_set_can_label_one_season_and_keep_all_in_the_pool(small_demo: Path) -> None:
    table = open_table(str(small_demo))
    split = split_of(table, "1/8", label_from="one_group")
    assert len(set(table.groups(split.labeled))) == 1 and len(set(table.groups(split.pool))) == 4
