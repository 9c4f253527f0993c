"""Law: a file of this import is no new pool image, whatever path leads to it. No byte is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cid_ray.config import InputError
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.items import ImportItem
from cid_ray.data.ingest.pairing import pair_masks
from cid_ray.data.ingest.unlabeled import list_unlabeled


@pytest.fixture
def labeled(tmp_path: Path) -> list[ImportItem]:
    """Three labeled images (empty files), the third of which is val."""
    for name in "abc":
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / f"{name}.png").touch()
    images, masks = tmp_path / "images", tmp_path / "masks"
    items = pair_masks(images, masks, "train", None, tmp_path, Findings())
    return [*items[:2], replace(items[2], split="val")]


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def listed(*folders: Path, **options: object) -> tuple[list[str], dict[str, tuple[int, str]]]:
    """The ids, and reason -> (count, first example) of what was left out."""
    findings = Findings()
    items = list_unlabeled(folders, None, findings, **options)  # type: ignore[arg-type]
    told = {one.reason: (one.count, one.examples[0]) for one in findings}
    return [item.image_id for item in items], told


def test_parent_folder_gives_only_what_is_new(tmp_path: Path, labeled: list[ImportItem]) -> None:
    touch(tmp_path / "images", "new.jpg")
    ids, left_out = listed(tmp_path, labeled=labeled)
    assert ids == ["pool0/images/new"]
    assert left_out == {
        "unlabeled images that are labeled train images too": (2, str(tmp_path / "images/a.png")),
        "unlabeled images that are val images too": (1, str(tmp_path / "images/c.png")),
        "masks in folders of unlabeled images": (3, str(tmp_path / "masks/a.png")),
    }


def test_link_to_a_labeled_image_is_left_out(tmp_path: Path, labeled: list[ImportItem]) -> None:
    pool = touch(tmp_path / "pool", "new.jpg")
    (pool / "copy.png").symlink_to(tmp_path / "images" / "c.png")
    (pool / "folder").symlink_to(tmp_path / "masks")
    ids, left_out = listed(pool, labeled=labeled)
    assert ids == ["pool0/new"]
    example = f"{pool / 'copy.png'} = {tmp_path / 'images' / 'c.png'}"
    assert left_out["unlabeled images that are val images too"] == (1, example)
    assert left_out["masks in folders of unlabeled images"][0] == 3


def test_folders_that_overlap_give_each_image_once(tmp_path: Path) -> None:
    touch(tmp_path / "pool", "a.jpg")
    touch(tmp_path / "pool" / "deep", "b.jpg")
    ids, left_out = listed(tmp_path / "pool" / "deep", tmp_path / "pool")
    assert ids == ["pool0/b", "pool1/a"]
    assert left_out["unlabeled images that are listed already"][0] == 1


def test_folder_of_nothing_new_is_refused(tmp_path: Path, labeled: list[ImportItem]) -> None:
    with pytest.raises(InputError, match=r"images holds no image besides those of this import"):
        listed(tmp_path / "images", labeled=labeled)


def test_mask_suffix_tells_masks(tmp_path: Path) -> None:
    pool = touch(tmp_path / "pool", "a.jpg", "a_mask.png")
    ids, left_out = listed(pool, mask_suffix="_mask")
    assert ids == ["pool0/a"]
    assert left_out == {"masks in folders of unlabeled images": (1, str(pool / "a_mask.png"))}


def test_unlabeled_images_of_one_stem_are_two(tmp_path: Path) -> None:
    pool = touch(tmp_path / "pool", "a.jpg", "a.png", "b.png")
    assert listed(pool)[0] == ["pool0/a.jpg", "pool0/a.png", "pool0/b"]


def test_image_without_mask_that_is_unlabeled_already_counts_once(
    tmp_path: Path, labeled: list[ImportItem]
) -> None:
    touch(tmp_path / "pool", "new.png")
    known = [*labeled[:2], replace(labeled[2], mask=None, split="train")]
    ids, left_out = listed(tmp_path / "images", tmp_path / "pool", labeled=known[:2])
    assert ids == ["pool0/c", "pool1/new"]
    ids, left_out = listed(tmp_path, labeled=known)
    assert ids == ["pool0/masks/c", "pool0/pool/new"], "whose mask it is, nobody said"
    assert left_out["unlabeled images that are listed already"][0] == 1
