"""Cityscapes, ADE20K and CVAT: what the contract of all formats does not say of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cid_ray import prepare
from cid_ray.config import InputError
from cid_ray.data.importers import ade20k, cityscapes, list_ade20k, list_cityscapes, list_cvat
from cid_ray.data.ingest.class_file import read_classes
from cid_ray.data.table import Table
from tests.helpers.dataset_layouts import (
    write_ade20k,
    write_cityscapes,
    write_cvat,
    write_image,
    write_list,
    write_mask,
)

# ---- Cityscapes ----

# helpers/labels.py of cityscapesScripts: the ids with another trainId than 255.
OFFICIAL = "7 8 11 12 13 17 19 20 21 22 23 24 25 26 27 28 31 32 33"


def test_label_ids_become_the_official_train_ids() -> None:
    evaluated = [int(label_id) for label_id in OFFICIAL.split()]
    expected = {k: evaluated.index(k) if k in evaluated else 255 for k in range(34)}
    assert expected == cityscapes.TRAIN_ID_OF


def test_cityscapes_train_ids_give_the_same_table_as_label_ids(tmp_path: Path) -> None:
    """UniMatch's gtFine has labelTrainIds only."""
    layout = write_cityscapes(tmp_path / "set")
    root = Path(layout.arguments[0])
    assert prepare.main(["cityscapes", str(root), "--out", str(tmp_path / "label_ids")]) == 0
    for image, expected in layout.rows.items():
        if expected.mask is not None:
            mask = image.replace("leftImg8bit/", "gtFine/", 1)
            file = root / mask.replace("_leftImg8bit", "_gtFine_labelTrainIds")
            write_mask(file, expected.mask)
            Path(str(file).replace("labelTrainIds", "labelIds")).unlink()
    assert prepare.main(["cityscapes", str(root), "--out", str(tmp_path / "train_ids")]) == 0
    tables = [Table(tmp_path / name) for name in ("label_ids", "train_ids")]
    for row in range(len(tables[0])):
        first, second = (table.read(row, mask=True)[1] for table in tables)
        if first is not None:
            np.testing.assert_array_equal(first, second)


def test_cityscapes_image_without_mask_names_the_file_and_the_archive(tmp_path: Path) -> None:
    layout = write_cityscapes(tmp_path / "set")
    gone = layout.spoil_mask()
    gone.unlink()
    message = rf"1 of 2 masks of train are missing, first {gone}; extract gtFine_trainvaltest.zip"
    with pytest.raises(InputError, match=message):
        list_cityscapes(tmp_path / "set")


def test_cityscapes_ids_are_split_city_and_frame(tmp_path: Path) -> None:
    """The split ids in cid_ray/results/published.yaml are hashes of these ids."""
    write_cityscapes(tmp_path / "set")
    items = list_cityscapes(tmp_path / "set").items
    assert [item.image_id for item in items if item.mask is not None] == [
        "train/aachen/aachen_000000_000019",
        "train/jena/jena_000000_000019",
        "val/lindau/lindau_000000_000019",
    ]


def test_cityscapes_test_never_trains(tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "set")
    plan = list_cityscapes(tmp_path / "set")
    assert not [item for item in plan.items if item.group == "berlin"]


def test_cityscapes_extra_images_may_be_in_the_folder_of_their_archive(tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "set")
    old = tmp_path / "set" / "leftImg8bit" / "train_extra"
    new = tmp_path / "set" / "leftImg8bit_trainextra" / "leftImg8bit" / "train_extra"
    new.parent.mkdir(parents=True)
    shutil.move(old, new)
    pool = [item for item in list_cityscapes(tmp_path / "set").items if item.mask is None]
    assert [item.image_id for item in pool] == ["train_extra/erlangen/erlangen_000000_000000"]
    assert [(item.split, item.group) for item in pool] == [("train", "erlangen")]


# ---- ADE20K ----


def test_ade20k_without_its_list_of_names_has_the_published_ones(tmp_path: Path) -> None:
    layout = write_ade20k(tmp_path / "set")
    (Path(layout.arguments[0]) / "objectInfo150.txt").unlink()
    plan = list_ade20k(tmp_path / "set")
    assert plan.classes is not None
    names = plan.classes.names
    assert len(names) == len(set(names)) == 150
    # objectInfo150.txt: 1 wall, 21 car, 90 television, 150 flag.
    assert [names[k - 1] for k in (1, 21, 90, 150)] == ["wall", "car", "television", "flag"]


def test_ade20k_ids_are_shifted_and_0_is_ignored() -> None:
    assert ade20k.NEW_IDS[0] == 255
    assert [ade20k.NEW_IDS[k] for k in (1, 2, 150)] == [0, 1, 149]
    assert len(ade20k.NEW_IDS) == 151


def test_ade20k_list_of_other_length_is_refused(tmp_path: Path) -> None:
    layout = write_ade20k(tmp_path / "set")
    file = Path(layout.arguments[0]) / "objectInfo150.txt"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    with pytest.raises(InputError, match=r"objectInfo150.txt names 149 classes .* must name 150"):
        list_ade20k(tmp_path / "set")


# ---- CVAT ----


def test_cvat_export_without_images_takes_them_from_a_folder(tmp_path: Path) -> None:
    layout = write_cvat(tmp_path / "set")
    shutil.move(tmp_path / "set" / "JPEGImages", tmp_path / "photos")
    hint = r"export again with `Save images`, or give their folder as --images"
    with pytest.raises(InputError, match=rf"3 of 3 images of .*JPEGImages/a/frame 0; {hint}"):
        list_cvat(tmp_path / "set")
    plan = list_cvat(tmp_path / "set", tmp_path / "photos")
    assert len(plan.items) == len(layout.rows)
    assert {item.root for item in plan.items} == {tmp_path / "photos"}


def test_cvat_task_without_subsets_holds_out_val(tmp_path: Path) -> None:
    write_cvat(tmp_path / "set")
    lists = tmp_path / "set" / "ImageSets" / "Segmentation"
    for file in lists.iterdir():
        file.unlink()
    names = [f"n{i}" for i in range(5)]
    write_list(lists / "default.txt", names)
    for name in names:
        write_image(tmp_path / "set" / "JPEGImages" / f"{name}.png")
        write_mask(tmp_path / "set" / "SegmentationClass" / f"{name}.png", np.zeros((24, 32), "u1"))
    items = list_cvat(tmp_path / "set").items
    assert [item.split for item in items] == ["train"] * 4 + ["val"]


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ("holiday", r"holiday.txt: the subset 'holiday' says no split; rename"),
        ("test", r"1 images are in .*Train.txt and in .*test.txt, first frame 1"),
    ],
)
def test_cvat_subset_that_is_no_split_is_refused(tmp_path: Path, subset: str, message: str) -> None:
    write_cvat(tmp_path / "set")
    lists = tmp_path / "set" / "ImageSets" / "Segmentation"
    write_list(lists / f"{subset}.txt", ["frame 1"])
    with pytest.raises(InputError, match=message):
        list_cvat(tmp_path / "set")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("car:1,2::", r"line 2: 'car:1,2::' must look like `name:r,g,b::`"),
        ("car:1,2,256::", r"line 2: .* has a colour above 255"),
        ("background:1,2,3::", r"line 2: names background twice"),
        ("car:0,0,0::", r"line 2: car has the colour 0 0 0 of background"),
    ],
)
def test_cvat_labelmap_line_that_breaks_a_rule_is_named(
    tmp_path: Path, line: str, message: str
) -> None:
    file = tmp_path / "labelmap.txt"
    file.write_text(f"background:0,0,0::\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_classes(file)
