"""Law: COCO's JSON files become the masks that COCO's own code draws.

Reference: `COCO.annToMask` of pycocotools, for random polygons and for run lengths.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from cid_ray.data.importers import coco_file
from cid_ray.data.importers.coco import list_coco
from tests.helpers.dataset_layouts_json import (
    SIZE,
    boxes_to_mask,
    make_coco,
    write_image,
    write_json,
)
from tests.helpers.format_imports import findings_of, import_set, mask_of, refusal

HEIGHT, WIDTH = SIZE
SMALLER_ON_TOP = "masks with pixels of two classes (the smaller shape is on top)"


def square(left: float, top: float, side: float) -> list[float]:
    return [left, top, left + side, top, left + side, top + side, left, top + side]


def annotation(number: int, image: int, category: int, segmentation: Any, **more: Any) -> Any:
    ids = {"id": number, "image_id": image, "category_id": category}
    return {**ids, "segmentation": segmentation, "iscrowd": 0, **more}


def write_coco(root: Path, objects: list[Any], count: int = 5, **more: Any) -> list[object]:
    """Images 0.png, 1.png, ... with annotations; the arguments of `prepare`."""
    images = [
        {"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in range(count)
    ]
    for n in range(count):
        write_image(root / "images" / f"{n}.png")
    categories = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    content = {"images": images, "annotations": objects, "categories": categories, **more}
    path = write_json(root / "coco.json", content)
    return ["coco", "--annotations", path, "--images", root / "images"]


def random_objects(rng: np.random.Generator) -> list[Any]:
    """Polygons of one or two parts with float coordinates, and both kinds of run lengths."""
    objects: list[Any] = []
    for number in range(30):
        parts = [
            rng.uniform(-3, 34, 2 * rng.integers(3, 9)).round(2).tolist()
            for _ in range(rng.integers(1, 3))
        ]
        segmentation: Any = parts
        if number % 3:
            mask = rng.random(SIZE) < 0.2
            segmentation = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
            segmentation["counts"] = segmentation["counts"].decode()
        if number % 3 == 2:
            columns = mask.T.ravel().astype(int)
            edges = np.flatnonzero(np.diff(columns, prepend=0)).tolist()
            counts = np.diff([0, *edges, columns.size]).tolist()
            segmentation = {"size": [HEIGHT, WIDTH], "counts": counts}
        objects.append(annotation(number, number % 5, 7 + 2 * int(rng.integers(2)), segmentation))
    return objects


@pytest.mark.parametrize("seed", range(4))
def test_masks_are_those_of_ann_to_mask(tmp_path: Path, seed: int) -> None:
    arguments = write_coco(tmp_path, random_objects(np.random.default_rng(seed)))
    table = import_set(tmp_path / "table", *arguments)
    reference = COCO(str(tmp_path / "coco.json"))
    for image in range(5):
        expected = np.zeros(SIZE, np.uint8)
        masks = [
            (reference.annToMask(one).astype(bool), {7: 1, 9: 2}[one["category_id"]])
            for one in reference.loadAnns(reference.getAnnIds(image))
        ]
        for mask, class_id in sorted(masks, key=lambda pair: -int(pair[0].sum())):
            expected[mask] = class_id
        np.testing.assert_array_equal(mask_of(table, f"{image}.png"), expected)
    assert table.classes == ["background", "cat", "dog"]
    assert findings_of(table)[SMALLER_ON_TOP] == 5


def test_object_of_holes_is_all_its_run_lengths(tmp_path: Path) -> None:
    ring = np.zeros(SIZE, np.uint8)
    ring[2:12, 2:12] = 1
    ring[5:9, 5:9] = 0
    encoded = mask_api.encode(np.asfortranarray(ring))
    encoded["counts"] = encoded["counts"].decode()
    table = import_set(tmp_path / "t", *write_coco(tmp_path, [annotation(1, 0, 9, encoded)]))
    np.testing.assert_array_equal(mask_of(table, "0.png"), 2 * ring)


def test_what_is_left_out_is_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = [
        annotation(1, 0, 7, [square(1, 1, 4), [1, 2, 3, 4], [5, 6]]),
        annotation(2, 1, 7, [square(28, 20, 9)]),
        annotation(3, 99, 7, [square(1, 1, 4)]),
        {"id": 4, "image_id": 0, "category_id": 7, "bbox": [1, 1, 3, 3]},
    ]
    arguments = write_coco(tmp_path, objects, count=6)
    (tmp_path / "images" / "5.png").unlink()
    write_image(tmp_path / "images" / "extra.png")
    table = import_set(tmp_path / "t", *arguments)
    images = tmp_path / "images"
    assert findings_of(table) == {
        "annotations of images that their file does not list": 1,
        "annotations without a mask (boxes, key points)": 1,
        "polygons of fewer than 3 points": 2,
        "polygons cut at the image's border": 1,
        "images without annotations, all background": 3,
        f"images of coco.json that are not in {images}": 1,
        f"images of {images} that no JSON file lists": 1,
    }
    assert (mask_of(table, "1.png")[20:, 28:] == 1).all()
    out = capsys.readouterr().out
    assert str(images / "5.png") in out and str(images / "extra.png") in out


def test_crowd_has_no_label_where_no_object_is(tmp_path: Path) -> None:
    objects = [
        annotation(1, 0, 7, [square(4, 4, 4)]),
        annotation(2, 0, 7, [square(2, 2, 10)], iscrowd=1),
    ]
    table = import_set(tmp_path / "t", *write_coco(tmp_path, objects))
    expected = boxes_to_mask((255, 2, 2, 12, 12), (1, 4, 4, 8, 8), inclusive=False)
    np.testing.assert_array_equal(mask_of(table, "0.png"), expected)


def test_file_name_with_a_folder_is_found_by_its_end(tmp_path: Path) -> None:
    images = [
        {"id": n, "file_name": f"train2017/{n}.png", "height": HEIGHT, "width": WIDTH}
        for n in range(5)
    ]
    arguments = write_coco(tmp_path, [annotation(1, 0, 7, [square(1, 1, 4)])], images=images)
    assert len(import_set(tmp_path / "t", *arguments)) == 5


BAD_SEGMENTATIONS = {
    "polygon of text": ([["a", 1, 2, 3, 4, 5]], "must be real number"),
    "odd polygon": ([[1, 2, 3, 4, 5, 6, 7]], "7 numbers"),
    "no polygon": ([5], "no list of numbers"),
    "text": ("abc", "neither a list of polygons nor run lengths"),
    "infinite": ([[1, 2, float("inf"), 4, 5, 6]], "no finite number"),
    "NaN": ([[1, 2, float("nan"), 4, 5, 6]], "no finite number"),
    "no size": ({"counts": [768]}, "without `size`"),
    "short": ({"size": [24, 32], "counts": [5]}, "run lengths of 5 pixels"),
    "negative": ({"size": [24, 32], "counts": [770, -2]}, "negative"),
    "not ended": ({"size": [24, 32], "counts": "0P"}, "not COCO's compressed run lengths"),
    "other size": ({"size": [23, 32], "counts": [736]}, "run lengths of 32 x 23"),
}


@pytest.mark.parametrize("kind", BAD_SEGMENTATIONS)
def test_damaged_annotation_is_named_and_can_be_skipped(tmp_path: Path, kind: str) -> None:
    segmentation, reason = BAD_SEGMENTATIONS[kind]
    objects = [annotation(77, 1, 7, segmentation), annotation(2, 0, 7, [square(1, 1, 4)])]
    arguments = write_coco(tmp_path, objects)
    message = refusal(tmp_path / "t", *arguments)
    assert reason in message
    assert f"{tmp_path / 'images' / '1.png'}: annotation 77 of {tmp_path / 'coco.json'}" in message
    table = import_set(tmp_path / "t", *arguments, "--skip-bad")
    assert "1.png" not in table.index["image_path"].to_pylist()
    assert len(table) == 4


def test_image_of_another_size_is_named(tmp_path: Path) -> None:
    arguments = write_coco(tmp_path, [annotation(1, 0, 7, [square(1, 1, 4)])])
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "0.png")
    message = refusal(tmp_path / "t", *arguments)
    assert f"0.png: 30 x 20 pixels, {tmp_path / 'coco.json'} says 32 x 24" in message


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no categories": ({"categories": []}, "lists no category"),
    "unknown category": (
        {"categories": [{"id": 8, "name": "cat"}]},
        "annotations have categories that the file does not list: 7 (1 times)",
    ),
    "category twice": ({"categories": [{"id": 7, "name": "a"}] * 2}, "two categories of id 7"),
    "own background": ({"categories": [{"id": 7, "name": "background"}]}, "rename its category"),
    "odd name": ({"categories": [{"id": 7, "name": "a\nb"}]}, "is no class name"),
    "id of text": ({"categories": [{"id": "7", "name": "a"}]}, "`id`, an integer"),
    "many": (
        {"categories": [{"id": n, "name": f"c{n}"} for n in range(255)]},
        "has 255 categories, must be below 255",
    ),
    "image twice": ({"images": [{"id": 0, "file_name": "0.png"}] * 2}, "twice"),
    "leads out": (
        {"images": [{"id": 0, "file_name": "../coco.json"}]},
        "'../coco.json' leads out of",
    ),
    "absolute": ({"images": [{"id": 0, "file_name": "/etc/passwd"}]}, "leads out of"),
    "elsewhere": ({"images": [{"id": 0, "file_name": "x.png"}]}, "it lists x.png"),
    "no list": ({"images": None}, "must have the lists images, annotations, categories"),
    "boxes": (
        {"annotations": [{"id": 1, "image_id": 0, "category_id": 7, "bbox": [1, 1, 2, 2]}]},
        "has no mask: 1 annotations are boxes",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_file_that_cannot_be_right_is_refused(tmp_path: Path, kind: str) -> None:
    changed, reason = REFUSED[kind]
    objects = [annotation(1, 0, 7, [square(1, 1, 4)])]
    message = refusal(tmp_path / "t", *write_coco(tmp_path, objects, **changed))
    assert reason in message and str(tmp_path / "coco.json") in message


def test_splits_of_other_categories_are_refused(tmp_path: Path) -> None:
    first = write_coco(tmp_path / "a", [annotation(1, 0, 7, [square(1, 1, 4)])])
    other = [{"id": 7, "name": "dog"}, {"id": 9, "name": "cat"}]
    write_coco(tmp_path / "b", [annotation(1, 0, 7, [square(1, 1, 4)])], categories=other)
    options = ("--val-annotations", tmp_path / "b" / "coco.json")
    message = refusal(tmp_path / "t", *first, *options, "--val-images", tmp_path / "b" / "images")
    assert "list different categories" in message


def test_splits_in_one_folder_of_images_are_not_told_as_unlisted(tmp_path: Path) -> None:
    arguments = write_coco(tmp_path, [annotation(1, 0, 7, [square(1, 1, 4)])])
    content = json.loads((tmp_path / "coco.json").read_text())
    val = content | {"images": [{"id": 9, "file_name": "9.png"}]}
    val["annotations"] = [annotation(1, 9, 9, [square(1, 1, 4)])]
    write_json(tmp_path / "val.json", val)
    write_image(tmp_path / "images" / "9.png")
    table = import_set(tmp_path / "t", *arguments, "--val-annotations", tmp_path / "val.json")
    assert [len(table.rows(split)) for split in ("train", "val")] == [5, 1]
    assert findings_of(table) == {"images without annotations, all background": 4}


def test_group_is_taken_from_the_file_name(tmp_path: Path) -> None:
    arguments = write_coco(tmp_path, [annotation(1, 0, 7, [square(1, 1, 4)])])
    table = import_set(tmp_path / "t", *arguments, "--group", "^([0-2])")
    groups = dict(
        zip(table.index["image_path"].to_pylist(), table.index["group"].to_pylist(), strict=True)
    )
    assert groups["0.png"] == "0" and groups["4.png"] is None


def test_stuff_file_has_no_background(tmp_path: Path) -> None:
    """The `other` of stuff_*.json covers all things, so the rest has no label."""
    categories = [{"id": 92, "name": "banner"}, {"id": 183, "name": "other"}]
    objects = [annotation(n, n, 92 + 91 * (n % 2), [square(1, 1, 4)]) for n in range(5)]
    table = import_set(tmp_path / "t", *write_coco(tmp_path, objects, categories=categories))
    assert table.classes == ["banner", "other"]
    expected = np.full(SIZE, 255)
    expected[1:5, 1:5] = 1
    np.testing.assert_array_equal(mask_of(table, "1.png"), expected)


def write_panoptic(root: Path) -> list[object]:
    segments = [{"id": 70_000, "category_id": 9}, {"id": 5, "category_id": 7}]
    objects = [
        {"image_id": n, "file_name": f"{n}.png", "segments_info": segments} for n in range(5)
    ]
    arguments = write_coco(root, objects)
    (root / "coco").mkdir()
    numbers = np.zeros(SIZE, int)
    numbers[2:6, 3:9], numbers[8:, :] = 70_000, 5
    colors = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1)
    for n in range(5):
        Image.fromarray(colors.astype(np.uint8)).save(root / "coco" / f"{n}.png")
    return arguments


def test_panoptic_segments_are_classes(tmp_path: Path) -> None:
    table = import_set(tmp_path / "t", *write_panoptic(tmp_path))
    expected = np.full(SIZE, 255)
    expected[2:6, 3:9], expected[8:, :] = 1, 0
    assert table.classes == ["cat", "dog"]
    np.testing.assert_array_equal(mask_of(table, "3.png"), expected)


def test_panoptic_png_of_an_unknown_segment_is_named(tmp_path: Path) -> None:
    arguments = write_panoptic(tmp_path)
    Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)).save(tmp_path / "coco" / "2.png")
    message = refusal(tmp_path / "t", *arguments)
    assert f"{tmp_path / 'coco' / '2.png'}: segment 197121 is not in its JSON file" in message


def test_panoptic_pngs_that_are_absent_are_named(tmp_path: Path) -> None:
    arguments = write_panoptic(tmp_path)
    (tmp_path / "coco").rename(tmp_path / "away")
    assert f"{tmp_path / 'coco'} does not exist" in refusal(tmp_path / "t", *arguments)


def test_missing_pycocotools_is_told_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = write_coco(tmp_path, [annotation(1, 0, 7, [square(1, 1, 4)])])
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)  # as Python marks a failed import
    assert "pip install 'cid_ray[coco]'" in refusal(tmp_path / "t", *arguments)


def test_file_above_the_size_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = write_coco(tmp_path, [annotation(1, 0, 7, [square(1, 1, 4)])])
    monkeypatch.setattr(coco_file, "MAX_BYTES", 100)
    assert "is larger than" in refusal(tmp_path / "t", *arguments)


def test_python_api_lists_what_the_command_reads(tmp_path: Path) -> None:
    layout = make_coco(tmp_path)
    plan = list_coco(*(Path(layout.arguments[i]) for i in (1, 3)))
    assert plan.classes is not None and plan.classes.names == layout.classes
    assert [item.image.name for item in plan.items] == ["000010.png", "000020.png"]
