"""Law: labelme's shapes become the pixels that labelme's `shapes_to_label` gives them.

Reference: Pillow's ImageDraw, called as labelme's `utils/shape.py` calls it.
"""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cid_ray.data.importers.labelme import list_labelme
from cid_ray.data.ingest import write_table
from tests.helpers.dataset_layouts_json import (
    SIZE,
    boxes_to_mask,
    corners,
    encode_base64_png,
    labelme_file,
    labelme_shape,
    write_image,
    write_json,
)
from tests.helpers.format_imports import findings_of, import_set, mask_of, refusal
from tests.helpers.image_tables import random_image

TRIANGLE = [[3.7, 2.2], [20.9, 4.4], [9.1, 19.6]]


def write_set(root: Path, *files: list[dict[str, Any]], **more: Any) -> Path:
    """root/NAME.json and root/NAME.png for each list of shapes; five at least, so that val is."""
    names = "abcdefgh"[: max(5, len(files))]
    for index, name in enumerate(names):
        shapes = files[index] if index < len(files) else [labelme_shape("cat", TRIANGLE)]
        write_image(root / f"{name}.png")
        write_json(root / f"{name}.json", labelme_file(f"{name}.png", shapes, **more))
    return root


def drawn(kind: str, points: list[Any]) -> np.ndarray:
    """u8[H, W]: a shape as labelme draws it."""
    image = Image.new("L", SIZE[::-1])
    draw = ImageDraw.Draw(image)
    if kind == "circle":
        (x, y), rim = points
        radius = math.dist((x, y), rim)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
    elif kind == "rectangle":
        draw.rectangle([tuple(point) for point in points], outline=1, fill=1)
    else:
        draw.polygon([tuple(point) for point in points], outline=1, fill=1)
    return np.asarray(image)


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("polygon", TRIANGLE),
        ("polygon", [[-4.5, 3.3], [40.2, 1.1], [33.3, 30.9]]),
        ("circle", [[10.3, 9.9], [14.8, 12.2]]),
        ("circle", [[1.5, 22.0], [8.8, 20.1]]),
        ("rectangle", [[2.9, 3.1], [17.5, 19.9]]),
    ],
)
def test_shape_has_the_pixels_of_labelme(tmp_path: Path, kind: str, points: list[Any]) -> None:
    root = write_set(tmp_path / "set", [labelme_shape("cat", points, kind)])
    table = import_set(tmp_path / "t", "labelme", root)
    np.testing.assert_array_equal(mask_of(table, "a.png"), drawn(kind, points))


@pytest.mark.parametrize(
    ("left", "top", "window"),
    [
        (10, 4, np.s_[4:6, 10:13]),
        (-1, -1, np.s_[0:1, 0:2]),
        (30, 23, np.s_[23:24, 30:32]),
        (50, 4, np.s_[0:0, 0:0]),
    ],
)
def test_mask_shape_is_pasted_at_its_points_and_cut_at_the_border(
    tmp_path: Path, left: int, top: int, window: tuple[slice, slice]
) -> None:
    cutout = np.array([[True, False, True], [True, True, False]])
    encoded = encode_base64_png(cutout)
    shape = labelme_shape("cat", [[left, top], [left + 2, top + 1]], "mask", mask=encoded)
    table = import_set(tmp_path / "t", "labelme", write_set(tmp_path / "set", [shape]))
    whole = np.zeros((40, 70), np.uint8)
    whole[top + 8 : top + 10, left + 8 : left + 11] = cutout
    expected = whole[8 : 8 + SIZE[0], 8 : 8 + SIZE[1]]
    np.testing.assert_array_equal(mask_of(table, "a.png"), expected)
    assert expected[window].sum() == expected.sum()


def test_shape_without_type_is_a_polygon(tmp_path: Path) -> None:
    shape = labelme_shape("cat", TRIANGLE)
    del shape["shape_type"]
    table = import_set(tmp_path / "t", "labelme", write_set(tmp_path / "set", [shape]))
    np.testing.assert_array_equal(mask_of(table, "a.png"), drawn("polygon", TRIANGLE))


def test_later_shape_is_on_top_and_ignore_has_no_label(tmp_path: Path) -> None:
    shapes = [
        labelme_shape("dog", corners(0, 0, 20, 20)),
        labelme_shape("__ignore__", corners(2, 2, 9, 9)),
        labelme_shape("cat", corners(5, 5, 12, 12)),
        labelme_shape("_background_", corners(15, 15, 18, 18)),
    ]
    table = import_set(tmp_path / "t", "labelme", write_set(tmp_path / "set", shapes))
    assert table.classes == ["_background_", "cat", "dog"]
    boxes = ((2, 0, 0, 20, 20), (255, 2, 2, 9, 9), (1, 5, 5, 12, 12), (0, 15, 15, 18, 18))
    np.testing.assert_array_equal(mask_of(table, "a.png"), boxes_to_mask(*boxes))


def test_classes_file_of_labelme_gives_the_order(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", [labelme_shape("dog", TRIANGLE)])
    labels = tmp_path / "labels.txt"
    labels.write_text("__ignore__\n_background_\ndog\nbird\ncat\n")
    table = import_set(tmp_path / "t", "labelme", root, "--classes", labels)
    assert table.classes == ["_background_", "dog", "bird", "cat"]
    np.testing.assert_array_equal(mask_of(table, "b.png"), 3 * drawn("polygon", TRIANGLE))
    assert not findings_of(table)


def test_classes_file_without_background_gets_it_as_class_0(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("dog 1 2 3\ncat 4 5 6\n")
    root = write_set(tmp_path / "set")
    table = import_set(tmp_path / "t", "labelme", root, "--classes", labels)
    assert table.classes == ["background", "dog", "cat"]
    assert table.colors == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert findings_of(table) == {"classes files without background, added as class 0": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dog\n", "labels that classes file"),
        ("dog\nbackground\ncat\n", "background must be the first class"),
        ("__ignore__\n", "1 classes with background, must be 2 to 255"),
    ],
)
def test_classes_file_that_does_not_fit_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text(text)
    root = write_set(tmp_path / "set")
    assert reason in refusal(tmp_path / "t", "labelme", root, "--classes", labels)


def test_shapes_without_area_are_left_out_and_counted(tmp_path: Path) -> None:
    shapes = [
        labelme_shape("cat", [[1, 1]], "point"),
        labelme_shape("wire", [[1, 1], [9, 9]], "line"),
        labelme_shape("wire", [[1, 1], [9, 9], [3, 4]], "linestrip"),
        labelme_shape("cat", [[1, 1], [9, 9]]),
        labelme_shape("dog", corners(28, 20, 33, 25)),
    ]
    root = write_set(tmp_path / "set", shapes, [], flags={"blurred": True, "dark": False})
    table = import_set(tmp_path / "t", "labelme", root)
    assert findings_of(table) == {
        "shapes of type 'point', which have no area": 1,
        "shapes of type 'line', which have no area": 1,
        "shapes of type 'linestrip', which have no area": 1,
        "polygons of fewer than 3 points": 1,
        "shapes cut at the image's border": 1,
        "flags of images": 5,
        "images without a shape, all background": 1,
        "classes, the labels in use": 2,
    }
    assert table.classes == ["background", "cat", "dog"], "a label of lines alone is no class"


def test_missing_image_is_taken_from_image_data(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    pixels = random_image(5, SIZE)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    data = base64.b64encode(out.getvalue()).decode()
    (root / "a.png").unlink()
    shapes = [labelme_shape("cat", TRIANGLE)]
    write_json(root / "a.json", labelme_file("a.png", shapes, imageData=data))
    plan = list_labelme(root)
    unpacked = plan.items[0].image
    table = write_table(plan, tmp_path / "t").table
    row = table.index["image_path"].to_pylist().index("a.png")
    np.testing.assert_array_equal(np.asarray(table.read(row, mask=True)[0]), pixels)
    np.testing.assert_array_equal(mask_of(table, "a.png"), drawn("polygon", TRIANGLE))
    assert findings_of(table)["missing images, taken from imageData"] == 1
    assert unpacked.is_file()
    del plan
    assert not unpacked.exists(), "the temporary folder is removed with the plan"


def test_missing_image_without_image_data_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_set(tmp_path / "set")
    (root / "b.png").unlink()
    table = import_set(tmp_path / "t", "labelme", root)
    assert findings_of(table)["JSON files whose image is missing"] == 1
    assert str(root / "b.png") in capsys.readouterr().out


@pytest.mark.parametrize("name", ["../../x.png", "/etc/passwd", "C:\\x.png", "..\\..\\x.png"])
def test_image_path_out_of_the_folder_is_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    root = write_set(tmp_path / "outer" / "set")
    write_image(tmp_path / "x.png")
    write_json(root / "a.json", labelme_file(name, [labelme_shape("cat", TRIANGLE)]))
    message = refusal(tmp_path / "t", "labelme", root)
    assert f"{root / 'a.json'}: imagePath" in message
    assert "leads out of" in message and "--images" in message


def test_images_folder_finds_any_path_by_its_file_name(tmp_path: Path) -> None:
    for name in "abcde":
        write_image(tmp_path / "images" / f"{name}.png")
        file = labelme_file(f"D:\\work\\{name}.png", [labelme_shape("cat", TRIANGLE)])
        write_json(tmp_path / "json" / f"{name}.json", file)
    options = ("--images", tmp_path / "images")
    table = import_set(tmp_path / "t", "labelme", tmp_path / "json", *options)
    assert table.index["image_path"].to_pylist() == ["e.png", "a.png", "b.png", "c.png", "d.png"]


def test_val_and_test_folders_may_be_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("train", "val", "test"):
        write_image(root / name / f"{name}.png")
        shapes = [labelme_shape("cat", TRIANGLE)]
        write_json(root / name / f"{name}.json", labelme_file(f"{name}.png", shapes))
    write_image(root / "val" / "other.png")
    write_image(root / "pool.png")
    options = ("--val", root / "val", "--test", root / "test")
    table = import_set(tmp_path / "t", "labelme", root, *options)
    splits = dict(
        zip(table.index["image_path"].to_pylist(), table.index["split"].to_pylist(), strict=True)
    )
    assert splits == {
        "train/train.png": "train", "val.png": "val", "test.png": "test", "pool.png": "train",
    }  # fmt: skip
    assert findings_of(table)["images of val or test without a JSON file"] == 1
    assert findings_of(table)["images without a JSON file, taken as unlabeled"] == 1


BAD_SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "no label": ({"label": None}, "has no label"),
    "no points": ({"points": None}, "points are no list"),
    "text": ({"points": [["a", "b"]] * 3}, "not a number"),
    "infinite": ({"points": [[1, 2], [3, 4], [1e300, 1]]}, "no finite number"),
    "circle of 3": ({"shape_type": "circle"}, "has 3 points, a circle must have 2"),
    "no mask": ({"shape_type": "mask", "points": [[1, 1], [2, 2]]}, "has no `mask`"),
    "no base64": (
        {"shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "abc"},
        "is not base64",
    ),
    "no PNG": (
        {"shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "aaaa"},
        "a mask that is no PNG",
    ),
    "other size": (
        {
            "shape_type": "mask",
            "points": [[1, 1], [2, 2]],
            "mask": encode_base64_png(np.ones((3, 3), bool)),
        },
        "a mask of 3 x 3, not as its points say",
    ),
}


@pytest.mark.parametrize("kind", BAD_SHAPES)
def test_damaged_shape_is_named_and_can_be_skipped(tmp_path: Path, kind: str) -> None:
    changed, reason = BAD_SHAPES[kind]
    root = write_set(tmp_path / "set", [labelme_shape("cat", TRIANGLE) | changed])
    message = refusal(tmp_path / "t", "labelme", root)
    assert reason in message and f"{root / 'a.json'}: " in message and "shape 0" in message
    table = import_set(tmp_path / "t", "labelme", root, "--skip-bad")
    assert len(table.rows("train")) + len(table.rows("val")) >= 4


def test_image_of_another_size_is_named(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    Image.new("RGB", (30, 20)).save(root / "a.png")
    message = refusal(tmp_path / "t", "labelme", root)
    assert f"{root / 'a.png'}: 30 x 20 pixels, {root / 'a.json'} says 32 x 24" in message


def test_other_json_files_are_counted_and_hidden_ones_too(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    write_json(root / "coco.json", {"images": []})
    write_json(root / "list.json", [1])
    write_json(root / ".cache" / "x.json", {})
    findings = findings_of(import_set(tmp_path / "t", "labelme", root))
    assert findings["JSON files that are not of labelme"] == 2
    assert findings["hidden files"] == 1


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 99_999, b""])
def test_damaged_json_is_a_bad_file(tmp_path: Path, content: bytes) -> None:
    root = write_set(tmp_path / "set")
    (root / "c.json").write_bytes(content)
    assert str(root / "c.json") in refusal(tmp_path / "t", "labelme", root)
    table = import_set(tmp_path / "t", "labelme", root, "--skip-bad")
    skipped = json.loads((tmp_path / "t" / "meta.json").read_text())["skipped"]
    assert len(skipped) == 1 and str(root / "c.json") in skipped[0]
    reason = "images whose JSON file is damaged or names another image"
    assert findings_of(table)[reason] == 1


def test_folder_without_labelme_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    assert "no JSON file is there" in refusal(tmp_path / "t", "labelme", tmp_path / "set")
    assert "is not a folder" in refusal(tmp_path / "t", "labelme", tmp_path / "absent")


def test_pool_has_no_hidden_image_and_none_of_a_val_group(tmp_path: Path) -> None:
    root = write_set(tmp_path / "s")
    write_image(root / "s1_new.png")
    (root / "._s1_new.png").write_bytes(b"resource")
    (root / "@eaDir").mkdir()
    write_image(root / "@eaDir" / "s1_thumb.png")
    for name in "abcdefgh":
        write_image(tmp_path / "u" / f"{name}_1.png")
    options = ("--group", "^([a-z])", "--unlabeled", tmp_path / "u")
    table = import_set(tmp_path / "t", "labelme", root, *options)
    val_groups = set(table.groups(table.rows("val")))
    pool = table.rows("train")[~table.labeled[table.rows("train")]]
    assert val_groups and not val_groups & set(table.groups(pool))
    assert {Path(name).name for name in table.ids(pool)} >= {"s1_new"}
    assert not [name for name in table.ids(pool) if "thumb" in name or "._" in name]
    message = refusal(tmp_path / "v", "labelme", root, "--group", "(nothing)/")
    assert "matches no name" in message
