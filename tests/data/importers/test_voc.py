"""PASCAL VOC 2012: which images train, and that none of val or of a test list ever does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cid_ray import prepare
from cid_ray.config import InputError
from cid_ray.data.importers import list_voc
from cid_ray.data.table import Table
from tests.helpers.dataset_layouts import SIZE, VOID, write_image, write_list, write_mask, write_voc
from tests.helpers.tiny_run import real_data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(write_voc(tmp_path / "set").arguments[0])


def names_of(root: Path, split: str, pool: str = "lists", labeled: bool = True) -> list[str]:
    items = list_voc(root, pool).items
    chosen = [item for item in items if item.split == split and (item.mask is not None) == labeled]
    return [item.image.stem for item in chosen]


def test_train_is_every_mask_that_is_not_in_val(root: Path) -> None:
    assert names_of(root, "train") == ["2007_000032", "2007_000039", "2008_000002"]
    assert names_of(root, "val") == ["2007_000033"]


def test_ids_are_split_and_name(root: Path) -> None:
    """The split ids in cid_ray/results/published.yaml are hashes of these ids."""
    ids = [item.image_id for item in list_voc(root).items]
    assert ids == ["train/2007_000032", "train/2007_000039", "train/2008_000002", "val/2007_000033"]


def test_augmented_mask_of_val_image_never_trains(root: Path) -> None:
    assert (root / "SegmentationClassAug" / "2007_000033.png").exists()
    for pool in ("lists", "all"):
        items = [item for item in list_voc(root, pool).items if item.image.stem == "2007_000033"]
        assert [item.split for item in items] == ["val"]
        assert items[0].mask == root / "SegmentationClass" / "2007_000033.png"


def test_masks_of_the_augmented_set_may_be_in_the_folder_of_the_others(root: Path) -> None:
    for mask in (root / "SegmentationClassAug").iterdir():
        target = root / "SegmentationClass" / mask.name
        if not target.exists():
            shutil.move(mask, target)
    shutil.rmtree(root / "SegmentationClassAug")
    assert names_of(root, "train") == ["2007_000032", "2007_000039", "2008_000002"]


def test_pool_all_takes_images_without_mask_but_no_test_image(root: Path) -> None:
    for name in ("2008_000010", "2008_000011"):
        write_image(root / "JPEGImages" / f"{name}.jpg")
    write_list(root / "ImageSets" / "Main" / "test.txt", ["2008_000010"])
    write_list(root / "ImageSets" / "Segmentation" / "test.txt", ["2008_000011"])
    plan = list_voc(root, "all")
    pool = [item.image.stem for item in plan.items if item.mask is None]
    assert pool == ["2008_000001"]
    left_out = {one.reason: one.count for one in plan.findings}
    assert left_out["images of a test list"] == 2
    assert names_of(root, "train", "lists", labeled=False) == []


def test_image_in_train_and_val_list_is_refused(root: Path) -> None:
    lists = root / "ImageSets" / "Segmentation"
    write_list(lists / "train.txt", ["2007_000032", "2007_000033"])
    with pytest.raises(InputError, match=r"1 images are in .*train.txt and in .*val.txt, first"):
        list_voc(root)


def test_trainval_list_replaces_a_missing_train_list(root: Path) -> None:
    (root / "ImageSets" / "Segmentation" / "train.txt").unlink()
    assert names_of(root, "train") == ["2007_000032", "2007_000039", "2008_000002"]


def test_void_is_ignored_in_palette_and_greyscale_masks(root: Path, tmp_path: Path) -> None:
    ids = np.full(SIZE, 15, np.uint8)
    ids[0] = VOID
    write_mask(root / "SegmentationClass" / "2007_000032.png", ids, [[k, k, k] for k in range(256)])
    write_mask(root / "SegmentationClassAug" / "2008_000002.png", ids)
    assert Image.open(root / "SegmentationClass" / "2007_000032.png").mode == "P"
    assert Image.open(root / "SegmentationClassAug" / "2008_000002.png").mode == "L"
    assert prepare.main(["voc", str(root), "--out", str(tmp_path / "t")]) == 0
    table = Table(tmp_path / "t")
    paths = table.index["image_path"].to_pylist()
    for name in ("2007_000032", "2008_000002"):
        row = paths.index(f"JPEGImages/{name}.jpg")
        np.testing.assert_array_equal(table.mask(row), ids)
        assert table.class_pixels[row].tolist() == [
            ids.size - SIZE[1] if k == 15 else 0 for k in range(21)
        ]


@pytest.mark.data
def test_real_palette_masks_are_read_as_their_ids(tmp_path: Path) -> None:
    """The four images of voc_mini: a palette mask read by Pillow is the reference."""
    root = real_data("voc_mini")
    assert prepare.main(["voc", str(root), "--out", str(tmp_path / "t")]) == 0
    table = Table(tmp_path / "t")
    classes = {}
    for row, path in enumerate(table.index["image_path"].to_pylist()):
        name = Path(path).stem
        mask = np.asarray(Image.open(root / "SegmentationClass" / f"{name}.png"))
        np.testing.assert_array_equal(table.mask(row), mask)
        present = np.flatnonzero(table.class_pixels[row])
        classes[name] = [table.classes[k] for k in present]
    assert classes == {
        "2007_000129": ["background", "bicycle", "person"],
        "2011_000003": ["background", "bottle", "person"],
        "2011_000006": ["background", "chair", "person", "sofa"],
        "2011_000025": ["background", "bus", "car"],
    }
    assert json.loads((tmp_path / "t" / "meta.json").read_text())["findings"] == []
