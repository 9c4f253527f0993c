"""Law: `prepare folder` puts together folders as people have them, or says what is in the way."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cid_ray import prepare
from cid_ray.config import InputError
from cid_ray.data.table import Table
from tests.helpers.image_tables import import_error, prepare_folder
from tests.helpers.photos import blob_mask, photo, recoded, save, write_photo_set
from tests.helpers.tiny_run import real_data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten photos with masks of three classes."""
    return write_photo_set(tmp_path / "set", 10)


def run(out: Path, *options: object) -> Table:
    assert prepare.main(["folder", *map(str, options), "--out", str(out)]) == 0
    return Table(out)


def meta_of(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "table" / "meta.json").read_text())
    return content


def findings_of(root: Path) -> dict[str, int]:
    return {one["reason"]: one["count"] for one in meta_of(root)["findings"]}


def pool_of(table: Table) -> list[str]:
    return table.ids(np.flatnonzero(~table.labeled))


# ---- leaks ----


def test_pool_that_holds_the_whole_set_gives_only_what_is_new(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parent folder, links, byte copies, re-encoded and resized copies of every split."""
    save(photo(500), root / "more" / "new.png")
    shutil.copy(root / "images" / "04.png", root / "more" / "bytes.png")  # val
    save(recoded(photo(9), 75, 0.5), root / "more" / "small.png")  # val
    save(recoded(photo(1), 50), root / "more" / "train.jpg")
    (root / "more" / "link.png").symlink_to(root / "images" / "09.png")
    save(blob_mask(700), root / "more" / "foreign_mask.png")
    table = prepare_folder(root, "--unlabeled", root)
    assert pool_of(table) == ["pool0/more/new"]
    near = "(re-encoded, resized, or the next frame)"
    expected = {
        "unlabeled images that are val images too": 4,  # 2 files, a link, a copy
        "unlabeled images that are labeled train images too": 8,
        "masks in folders of unlabeled images": 10,
        f"unlabeled images that look like val images {near}": 1,
        f"unlabeled images that look like labeled train images {near}": 1,
        "unlabeled images that look like masks, not like photos": 1,
    }
    found = findings_of(root)
    assert {reason: found.get(reason) for reason in expected} == expected
    out = capsys.readouterr().out
    assert f"left out: 1 unlabeled images that look like val images {near}" in out
    assert f"{root / 'more' / 'small.png'} = {root / 'images' / '09.png'}" in out
    removed = [pair for pair in meta_of(root)["near_duplicates"] if pair["removed"]]
    assert {pair["second"] for pair in removed} == {
        f"pool0/more/{name}" for name in ("bytes", "small", "train")
    }


def test_near_duplicates_keep_keeps_near_copies_only(root: Path) -> None:
    save(recoded(photo(9)), root / "more" / "near.png")
    shutil.copy(root / "images" / "04.png", root / "more" / "exact.png")
    table = prepare_folder(root, "--unlabeled", root / "more", "--near-duplicates", "keep")
    assert pool_of(table) == ["pool0/near"]
    assert any("--near-duplicates keep" in warning for warning in meta_of(root)["warnings"])


def test_labeled_near_copy_of_val_is_kept_with_a_warning(root: Path) -> None:
    val = write_photo_set(root.parent / "val", 2, seed=3)
    save(recoded(photo(3001)), root / "images" / "00.png")
    table = prepare_folder(root, "--val-images", val / "images", "--val-masks", val / "masks")
    assert len(table.rows("train")) == 10
    (warning,) = [text for text in meta_of(root)["warnings"] if text.startswith("LEAK?")]
    assert f"{root / 'images' / '00.png'} = {val / 'images' / '01.png'}" in warning


def test_table_with_pairs_in_its_meta_is_opened(root: Path) -> None:
    save(recoded(photo(9)), root / "more" / "near.png")
    save(photo(500), root / "more" / "new.png")
    table = prepare_folder(root, "--unlabeled", root / "more")
    assert meta_of(root)["near_duplicate_pairs"] == 1
    assert Table(root / "table").fingerprint == table.fingerprint


# ---- names ----


def test_one_folder_of_images_and_masks(tmp_path: Path) -> None:
    for index in range(5):
        save(photo(index), tmp_path / "set" / f"{index}.jpg")
        save(blob_mask(index), tmp_path / "set" / f"{index}_mask.png")
    with pytest.raises(InputError, match=r"5 of 10 files end in `_mask`; pass --mask-suffix _mask"):
        run(tmp_path / "t", "--images", tmp_path / "set")
    table = run(tmp_path / "t", "--images", tmp_path / "set", "--mask-suffix", "_mask")
    assert len(table) == 5 and table.labeled.all()
    for row, path in enumerate(table.index["image_path"].to_pylist()):
        assert path.startswith("set/") and path.endswith(".jpg")
        np.testing.assert_array_equal(table.mask(row), np.asarray(blob_mask(int(Path(path).stem))))


def test_val_folder_of_images_and_masks_follows_the_same_rule(tmp_path: Path) -> None:
    for folder, seeds in (("train", range(4)), ("val", range(4, 6))):
        for seed in seeds:
            save(photo(seed), tmp_path / folder / f"{seed}.png")
            save(blob_mask(seed), tmp_path / folder / f"{seed}_gt.png")
    folders = ("--images", tmp_path / "train", "--val-images", tmp_path / "val")
    table = run(tmp_path / "t", *folders, "--mask-suffix", "_gt")
    assert (len(table.rows("train")), len(table.rows("val"))) == (4, 2)


def test_val_folder_inside_the_train_folder_is_no_train(root: Path) -> None:
    for kind in ("images", "masks"):
        (root / kind / "val").mkdir()
        for name in ("08.png", "09.png"):
            (root / kind / name).rename(root / kind / "val" / name)
    options = ("--val-images", root / "images" / "val", "--val-masks", root / "masks" / "val")
    table = prepare_folder(root, *options)
    assert (len(table.rows("train")), len(table.rows("val"))) == (8, 2)
    assert findings_of(root)["folders that another option names"] == 2


def test_unmasked_images_join_the_pool_on_demand(root: Path) -> None:
    for name in ("02", "03"):
        (root / "masks" / f"{name}.png").unlink()
    assert "--unmasked pool" in import_error(root)
    table = prepare_folder(root, "--unmasked", "pool")
    assert pool_of(table) == ["train/02", "train/03"]
    assert len(table.rows("val")) == 1, "every fifth of the eight labeled ones"


def test_names_that_are_not_utf8_are_imported_under_printable_ids(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("images", "masks"):
        old = root / kind / "00.png"
        old.rename(root / kind / os.fsdecode(b"stra\xdfe\n00.png"))
    pool = root / os.fsdecode(b"p\xfcol")
    save(photo(500), pool / os.fsdecode(b"\xff.png"))
    table = prepare_folder(root, "--unlabeled", pool)
    assert "train/stra\\xdfe\\n00" in table.ids(np.arange(len(table)))
    assert pool_of(table) == ["pool0/\\xff"]
    assert table.groups(np.flatnonzero(~table.labeled)).tolist() == ["p\\xfcol"]
    assert "images/stra\\xdfe\\n00.png" in table.index["image_path"].to_pylist()
    reason = "names that are not UTF-8 or hold control characters (written with \\x..)"
    assert findings_of(root)[reason] == 3
    out = capsys.readouterr().out
    assert "stra" in out and out.replace("\n", "").isprintable()


def test_bad_file_whose_name_is_not_utf8_is_named(root: Path) -> None:
    (root / "images" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    save(blob_mask(0), root / "masks" / os.fsdecode(b"\xff.png"))
    message = import_error(root)
    assert "unreadable" in message and message.replace("\n", "").isprintable()
    prepare_folder(root, "--skip-bad")
    assert len(meta_of(root)["skipped"]) == 1
    assert meta_of(root)["skipped"][0].isprintable()


def test_portable_anymap_is_read(root: Path) -> None:
    (root / "images" / "00.png").unlink()
    save(photo(0), root / "images" / "00.ppm")
    (root / "masks" / "00.png").unlink()
    save(blob_mask(0), root / "masks" / "00.pgm")
    table = prepare_folder(root)
    row = table.index["image_path"].to_pylist().index("images/00.ppm")
    image, mask = table.read(row, mask=True)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(photo(0)))
    np.testing.assert_array_equal(mask, np.asarray(blob_mask(0)))


# ---- groups ----


def rename_by_site(root: Path, sites: int) -> None:
    for kind in ("images", "masks"):
        for index in range(10):
            old = root / kind / f"{index:02d}.png"
            old.rename(root / kind / f"site{index % sites}_{index:02d}.png")


def test_val_is_whole_groups(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rename_by_site(root, 5)
    save(photo(500), root / "more" / "site9_a.png")
    for site in range(5):
        save(photo(501 + site), root / "more" / f"site{site}_b.png")
    table = prepare_folder(root, "--group", r"^(site\d)_", "--unlabeled", root / "more")
    val_groups = set(table.groups(table.rows("val")))
    assert len(table.rows("val")) == 2 and len(val_groups) == 1
    assert not val_groups & set(table.groups(table.rows("train")))
    assert len(pool_of(table)) == 5
    assert f"1 of 5 groups, whole) (e.g. {val_groups.pop()}" in capsys.readouterr().out


def test_one_group_and_no_group_are_refused(root: Path) -> None:
    rename_by_site(root, 1)
    assert "puts all 10 labeled images into one group, 'site0'" in import_error(
        root, "--group", r"^(site\d)_"
    )
    assert "--group '^(drive)' matches no name, first" in import_error(root, "--group", "^(drive)")


# ---- real data ----


@pytest.mark.data
def test_camvid_as_plain_folder_is_warned_about_and_the_pattern_helps(tmp_path: Path) -> None:
    camvid = real_data("camvid")
    for kind in ("images", "masks"):  # every third frame: a second apart becomes three
        for file in sorted((camvid / kind / "train").iterdir())[::3]:
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / file.name).symlink_to(file)
    classes = (camvid / "classes.txt").read_text()
    prepare_folder(tmp_path, classes=classes)
    (warning,) = [one for one in meta_of(tmp_path)["warnings"] if one.startswith("val frames")]
    assert r"pass --group '^(.*?)\d+$'" in warning
    shutil.rmtree(tmp_path / "table")
    prepare_folder(tmp_path, "--group", r"^(.*?)\d+$", classes=classes)
    assert not [one for one in meta_of(tmp_path)["warnings"] if one.startswith("val frames")]


@pytest.mark.data
@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("voc_mini/JPEGImages", "voc_mini/SegmentationClass"),
        ("cocostuff_mini/img", "cocostuff_mini/label"),
    ],
)
def test_numbered_photos_are_not_taken_for_frames_nor_for_copies(
    tmp_path: Path, images: str, masks: str
) -> None:
    (tmp_path / "classes.txt").write_text("".join(f"class_{index}\n" for index in range(182)))
    folders = ("--images", real_data(images), "--masks", real_data(masks))
    run(tmp_path / "table", *folders, "--classes", tmp_path / "classes.txt")
    warnings = meta_of(tmp_path)["warnings"]
    assert not [one for one in warnings if "look like" in one or "val frames" in one]
    assert meta_of(tmp_path)["near_duplicate_pairs"] == 0
