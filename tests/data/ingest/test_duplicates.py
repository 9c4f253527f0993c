"""Law: no copy of a labeled image stays in the pool, and no leak between splits is silent."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cid_ray.data.ingest.duplicates import Duplicates
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.image_reader import ImageContent, hash_pixels
from cid_ray.data.ingest.items import ImportItem
from cid_ray.data.ingest.perceptual_hash import describe_looks
from tests.helpers.photos import blob_mask, photo, recoded


def item(name: str, split: str = "train", labeled: bool = True) -> ImportItem:
    mask = Path(f"masks/{name}.png") if labeled else None
    return ImportItem(f"{split}/{name}", split, Path(f"{name}.png"), mask, None, Path())


def content(image: Image.Image) -> ImageContent:
    pixels = np.asarray(image.convert("RGB"))
    looks = describe_looks(pixels)
    return ImageContent(b"", pixels.shape[:2], hash_pixels(pixels), looks=looks)


@pytest.fixture
def findings() -> Findings:
    return Findings()


@pytest.fixture
def duplicates(findings: Findings) -> Duplicates:
    """A test, a val and two labeled train images: photos 0, 1, 2 and 3."""
    found = Duplicates(findings)
    for seed, (name, split) in enumerate(
        [("test", "test"), ("val", "val"), ("t1", "train"), ("t2", "train")]
    ):
        assert found.check(item(name, split), content(photo(seed)))
    return found


def told(findings: Findings) -> list[tuple[str, int, str]]:
    return [(one.reason, one.count, one.examples[0]) for one in findings]


@pytest.mark.parametrize(
    ("seed", "known", "kind"),
    [(0, "test", "test"), (1, "val", "val"), (2, "t1", "labeled train")],
)
def test_exact_copy_in_the_pool_is_left_out(
    duplicates: Duplicates, findings: Findings, seed: int, known: str, kind: str
) -> None:
    assert not duplicates.check(item("copy", labeled=False), content(photo(seed)))
    reason = f"unlabeled images that are {kind} images too"
    assert told(findings) == [(reason, 1, f"copy.png = {known}.png")]
    report = duplicates.report()
    split = kind.removeprefix("labeled ")
    pair = {"first": f"{split}/{known}", "second": "train/copy", "distance": 0, "removed": True}
    assert report.meta == {"near_duplicates": [pair], "near_duplicate_pairs": 1}
    assert report.warnings == []


@pytest.mark.parametrize(("quality", "scale"), [(50, 1.0), (75, 0.5), (90, 2.0)])
def test_near_copy_in_the_pool_is_left_out(
    duplicates: Duplicates, findings: Findings, quality: int, scale: float
) -> None:
    copy = content(recoded(photo(1), quality, scale))
    assert not duplicates.check(item("copy", labeled=False), copy)
    ((reason, count, example),) = told(findings)
    assert (
        reason
        == "unlabeled images that look like val images (re-encoded, resized, or the next frame)"
    )
    assert (count, example) == (1, "copy.png = val.png")
    (pair,) = duplicates.report().meta["near_duplicates"]
    assert pair["removed"] and 0 <= pair["distance"] <= 12
    assert (pair["first"], pair["second"]) == ("val/val", "train/copy")


def test_near_copy_is_kept_and_told_on_demand(findings: Findings) -> None:
    duplicates = Duplicates(findings, "keep")
    duplicates.check(item("val", "val"), content(photo(1)))
    assert duplicates.check(item("copy", labeled=False), content(recoded(photo(1))))
    report = duplicates.report()
    assert told(findings) == []
    assert report.warnings == [
        "1 unlabeled images look like val images and are kept (--near-duplicates keep): "
        "copy.png = val.png"
    ]
    assert [pair["removed"] for pair in report.meta["near_duplicates"]] == [False]


def test_exact_copy_is_left_out_even_if_near_ones_are_kept(findings: Findings) -> None:
    duplicates = Duplicates(findings, "keep")
    duplicates.check(item("val", "val"), content(photo(1)))
    assert not duplicates.check(item("copy", labeled=False), content(photo(1)))


def test_other_photos_stay_in_the_pool(duplicates: Duplicates, findings: Findings) -> None:
    for seed in range(10, 20):
        assert duplicates.check(item(str(seed), labeled=False), content(photo(seed)))
    assert told(findings) == []
    report = duplicates.report()
    assert report.warnings == [] and report.meta["near_duplicate_pairs"] == 0


def test_labeled_copy_in_two_splits_is_a_bad_file(duplicates: Duplicates) -> None:
    expected = r"copy.png \(train\) is the same image as val.png \(val\): it is in two splits"
    with pytest.raises(BadFile, match=expected):
        duplicates.check(item("copy"), content(photo(1)))


@pytest.mark.parametrize(
    ("seed", "split", "first"), [(0, "val", "test"), (0, "train", "test"), (1, "train", "val")]
)
def test_labeled_near_copy_in_two_splits_is_kept_with_a_loud_warning(
    findings: Findings, seed: int, split: str, first: str
) -> None:
    duplicates = Duplicates(findings)
    order = [("test", "test", photo(0)), ("val", "val", photo(1)), ("own", "train", photo(2))]
    order.insert(2 if split == "val" else 3, ("copy", split, recoded(photo(seed))))
    for name, own, image in order:
        assert duplicates.check(item(name, own), content(image))
    report = duplicates.report()
    (warning,) = report.warnings
    kind = "labeled train" if split == "train" else split
    assert warning.startswith(f"LEAK? 1 {kind} images look like {first} images, so scores on")
    assert f"copy.png = {first}.png" in warning and "remove those that are copies" in warning
    assert [pair["removed"] for pair in report.meta["near_duplicates"]] == [False]


def test_copies_within_a_split_are_kept_and_counted(
    duplicates: Duplicates, findings: Findings
) -> None:
    pool = {"a": photo(9), "b": photo(9), "c": recoded(photo(9)), "d": photo(10)}
    for name, image in pool.items():
        assert duplicates.check(item(name, labeled=False), content(image))
    report = duplicates.report()
    assert told(findings) == []
    assert report.warnings == [
        "1 unlabeled images look like another unlabeled image (copies, or frames that follow each "
        "other), e.g. c.png = a.png",
        "1 images are copies of another image of their own split",
    ]
    pairs = [(one["first"], one["second"]) for one in report.meta["near_duplicates"]]
    assert pairs == [("train/a", "train/b"), ("train/a", "train/c")]


# ---- masks and blank images in the pool ----


def test_mask_in_the_pool_is_left_out(duplicates: Duplicates, findings: Findings) -> None:
    for seed in range(3):
        assert not duplicates.check(item(f"m{seed}", labeled=False), content(blob_mask(seed)))
    reason = "unlabeled images that look like masks, not like photos"
    assert told(findings) == [(reason, 3, "m0.png")]


def test_blank_image_in_the_pool_is_left_out(duplicates: Duplicates, findings: Findings) -> None:
    blank = content(Image.new("RGB", (32, 32)))
    assert not duplicates.check(item("blank", labeled=False), blank)
    reason = "unlabeled images of one colour (blank, or masks of one class)"
    assert told(findings) == [(reason, 1, "blank.png")]


def test_where_labeled_images_look_like_masks_the_pool_may_too(findings: Findings) -> None:
    """Drawings, scans of text, rendered scenes."""
    duplicates = Duplicates(findings)
    duplicates.check(item("drawing"), content(blob_mask(0)))
    duplicates.check(item("blank"), content(Image.new("RGB", (32, 32))))
    assert duplicates.check(item("other", labeled=False), content(blob_mask(1)))
    assert duplicates.check(item("white", labeled=False), content(Image.new("RGB", (9, 9), "#fff")))
    assert told(findings) == []


# ---- a million rows ----


def test_pairs_in_meta_are_limited_and_all_counted(findings: Findings) -> None:
    duplicates = Duplicates(findings)
    duplicates.check(item("val", "val"), content(photo(1)))
    copy = content(photo(1))
    for index in range(1500):
        assert not duplicates.check(item(str(index), labeled=False), copy)
    meta = duplicates.report().meta
    assert len(meta["near_duplicates"]) == 1000 and meta["near_duplicate_pairs"] == 1500


def test_an_image_takes_at_most_200_bytes(findings: Findings) -> None:
    duplicates = Duplicates(findings)
    count = 5_000
    pool = item("same", labeled=False)  # the items themselves belong to the plan
    rng = np.random.default_rng(0)
    looks = [describe_looks(np.asarray(photo(seed))) for seed in range(2)]
    tracemalloc.start()
    try:
        for index in range(count):
            pixel_hash = rng.bytes(32).hex()
            duplicates.check(pool, ImageContent(b"", (1, 1), pixel_hash, looks=looks[index % 2]))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / count < 200, f"{used / count} bytes, on {sys.platform}"
