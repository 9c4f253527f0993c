"""Law: Ultralytics' label files become masks of the classes of data.yaml, after background.

References: Pillow for the pixels of a polygon, `ultralytics/data/utils.py` for the other rules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from tests.helpers.dataset_layouts_json import (
    SIZE,
    boxes_to_mask,
    corners,
    write_image,
    yolo_line,
)
from tests.helpers.format_imports import findings_of, import_set, mask_of, refusal

HEIGHT, WIDTH = SIZE
CAT = yolo_line(0, corners(5, 5, 9, 9))
DOG = yolo_line(1, corners(2, 3, 20, 18))


def write_set(root: Path, labels: dict[str, str | None] | None = None, **changed: Any) -> Path:
    """images/train and images/val with label files; None: no label file. Returns data.yaml."""
    for name, text in ({"train/a": DOG, "val/v": CAT} | (labels or {})).items():
        write_image(root / "images" / f"{name}.png")
        if text is not None:
            path = root / "labels" / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    content = {"train": "images/train", "val": "images/val", "names": {0: "cat", 1: "dog"}}
    (root / "data.yaml").write_text(yaml.safe_dump(content | changed))
    return root / "data.yaml"


def test_polygon_has_the_pixels_of_pillow_at_the_images_size(tmp_path: Path) -> None:
    numbers = [0.11, 0.07, 0.93, 0.31, 0.52, 0.96, 0.2, 0.7]
    line = f"1 {' '.join(map(str, numbers))}\n"
    table = import_set(tmp_path / "t", "yolo", write_set(tmp_path / "s", {"train/b": line}))
    image = Image.new("L", (WIDTH, HEIGHT))
    points = [(x * WIDTH, y * HEIGHT) for x, y in np.reshape(numbers, (-1, 2)).tolist()]
    ImageDraw.Draw(image).polygon(points, fill=2, outline=2)
    np.testing.assert_array_equal(mask_of(table, "images/train/b.png"), np.asarray(image))
    assert table.classes == ["background", "cat", "dog"]


def test_smaller_object_is_on_top_whatever_the_order(tmp_path: Path) -> None:
    root = write_set(tmp_path / "s", {"train/b": CAT + DOG, "train/c": DOG + CAT})
    table = import_set(tmp_path / "t", "yolo", root)
    expected = boxes_to_mask((2, 2, 3, 20, 18), (1, 5, 5, 9, 9))
    for name in "bc":
        np.testing.assert_array_equal(mask_of(table, f"images/train/{name}.png"), expected)
    reason = "masks with pixels of two classes (the smaller shape is on top)"
    assert findings_of(table)[reason] == 2


@pytest.mark.parametrize(
    ("names", "classes", "dog"),
    [
        (["cat", "dog"], ["background", "cat", "dog"], 2),
        ({1: "dog", 0: "cat"}, ["background", "cat", "dog"], 2),
        (["background", "dog"], ["background", "dog"], 1),
        (["Background", "dog"], ["Background", "dog"], 1),
    ],
)
def test_background_is_class_0_and_added_only_if_absent(
    tmp_path: Path, names: Any, classes: list[str], dog: int
) -> None:
    table = import_set(tmp_path / "t", "yolo", write_set(tmp_path / "s", names=names))
    assert table.classes == classes
    assert table.colors[0] == [0, 0, 0]
    assert mask_of(table, "images/train/a.png").max() == dog
    assert ("classes 0 of data.yaml, taken as background" in findings_of(table)) == (dog == 1)


def test_empty_label_file_is_background_and_missing_one_is_told(tmp_path: Path) -> None:
    labels = {"train/b": "", "train/c": "\n\n", "train/d": None, "val/w": None}
    data = write_set(tmp_path / "s", labels)
    table = import_set(tmp_path / "t", "yolo", data)
    assert not mask_of(table, "images/train/b.png").any()
    assert not mask_of(table, "images/train/d.png").any()
    reason = "images without a label file, all background (--missing-labels)"
    assert findings_of(table) == {reason: 2}
    table = import_set(tmp_path / "u", "yolo", data, "--missing-labels", "unlabeled")
    assert not mask_of(table, "images/train/b.png").any()
    row = table.index["image_path"].to_pylist().index("images/train/d.png")
    assert table.read(row, mask=True)[1] is None
    assert "images/val/w.png" not in table.index["image_path"].to_pylist()
    assert findings_of(table) == {
        "images without a label file, taken as unlabeled (--missing-labels)": 1,
        "images of val or test without a label file": 1,
    }


def test_images_without_any_label_file_are_refused(tmp_path: Path) -> None:
    data = write_set(tmp_path / "s", {"train/a": None, "val/v": None})
    message = refusal(tmp_path / "t", "yolo", data)
    assert "no image has a label file" in message
    assert str(tmp_path / "s" / "labels" / "train" / "a.txt") in message


def test_label_file_without_image_and_odd_polygons_are_counted(tmp_path: Path) -> None:
    line = "0 0.1 0.1 0.2 0.2 0.3 0.3 0.5 1.005\n"
    data = write_set(tmp_path / "s", {"train/b": line})
    (tmp_path / "s" / "labels" / "train" / "x.txt").write_text(CAT)
    assert findings_of(import_set(tmp_path / "t", "yolo", data)) == {
        "polygons cut at the image's border": 1,
        "label files without an image": 1,
    }


BAD_LINES = {
    "0 0.5 0.5 0.2 0.2\n": "line 1: this is a box (5 numbers), must be a polygon",
    f"{CAT}0 0.5 0.5 0.2 0.2\n": "line 2: this is a box",
    "0 0.1 0.1 0.2 0.2 0.3\n": "6 numbers, must be a class and pairs x y",
    "0.5 0.1 0.1 0.2 0.2 0.3 0.3\n": "must be a class and pairs",
    "0 0.1 0.1 0.2 0.2 0.3 30\n": "a coordinate is not in 0..1",
    "0 0.1 0.1 0.2 0.2 0.3 nan\n": "a coordinate is not in 0..1",
    "0 0.1 0.1 0.2 0.2 0.3 -0.5\n": "a coordinate is not in 0..1",
    "nan 0.1 0.1 0.2 0.2 0.3 0.3\n": "must be a class and pairs",
    "cat 0.1 0.1 0.2 0.2 0.3 0.3\n": "is not a list of numbers",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_damaged_label_file_is_named_and_can_be_skipped(tmp_path: Path, line: str) -> None:
    data = write_set(tmp_path / "s", {"train/b": line})
    message = refusal(tmp_path / "t", "yolo", data)
    assert BAD_LINES[line] in message
    assert str(tmp_path / "s" / "labels" / "train" / "b.txt") in message
    table = import_set(tmp_path / "t", "yolo", data, "--skip-bad")
    assert "images/train/b.png" not in table.index["image_path"].to_pylist()


def test_set_of_boxes_is_refused_even_with_skip_bad(tmp_path: Path) -> None:
    boxes = "0 0.5 0.5 0.2 0.2\n"
    data = write_set(tmp_path / "s", {"train/a": boxes, "val/v": boxes})
    message = refusal(tmp_path / "t", "yolo", data, "--skip-bad")
    assert f"{data}: the labels are boxes, no polygons" in message


def test_class_outside_data_yaml_is_refused(tmp_path: Path) -> None:
    data = write_set(tmp_path / "s", {"train/b": yolo_line(2, corners(1, 1, 5, 5))})
    message = refusal(tmp_path / "t", "yolo", data, "--skip-bad")
    assert "class 2, data.yaml has 0..1; add it to `names`" in message


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no names": ({"names": None}, "`names` must list the class names"),
    "gap": ({"names": {0: "a", 2: "b"}}, "the ids of `names` must be 0 to 1"),
    "twice": ({"names": ["a", "a"]}, "names the class 'a' twice"),
    "control character": ({"names": ["a", "b\n"]}, "is no class name"),
    "late background": ({"names": ["a", "background"]}, "`background` may only be the first"),
    "many": ({"names": [f"c{n}" for n in range(255)]}, "fewer than 255 classes"),
    "no train": ({"train": None}, "names no images as `train`"),
    "absent": ({"train": "images/nowhere"}, "images/nowhere does not exist"),
    "leads out": ({"train": "../../etc"}, "leads out of"),
    "absolute": ({"val": "/etc"}, "leads out of"),
    "number": ({"val": 3}, "must name a folder or a text file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_data_yaml_that_cannot_be_right_is_refused(tmp_path: Path, kind: str) -> None:
    changed, reason = REFUSED[kind]
    data = write_set(tmp_path / "s", **changed)
    message = refusal(tmp_path / "t", "yolo", data)
    assert reason in message and str(tmp_path / "s") in message


@pytest.mark.parametrize("content", ["", "- 1\n", "{", "a: &a [*a]\n", "names: [\n"])
def test_damaged_data_yaml_is_refused(tmp_path: Path, content: str) -> None:
    data = write_set(tmp_path / "s")
    data.write_text(content)
    assert str(data) in refusal(tmp_path / "t", "yolo", data)
    data.unlink()
    assert f"{data} does not exist" in refusal(tmp_path / "t", "yolo", tmp_path / "s")


def test_path_of_another_machine_is_replaced_by_the_files_folder(tmp_path: Path) -> None:
    data = write_set(tmp_path / "s", path="/datasets/coco8-seg")
    table = import_set(tmp_path / "t", "yolo", tmp_path / "s")
    reason = "`path` of data.yaml, not a folder next to it (--root DIR): its own folder"
    assert findings_of(table) == {reason: 1}
    elsewhere = tmp_path / "yaml" / "data.yaml"
    elsewhere.parent.mkdir()
    data.rename(elsewhere)
    table = import_set(tmp_path / "u", "yolo", elsewhere, "--root", tmp_path / "s")
    assert len(table) == 2 and not findings_of(table)


def test_paths_of_roboflow_are_found(tmp_path: Path) -> None:
    """`../train/images`, where the folder is beside data.yaml."""
    root = tmp_path / "s"
    for split, line in (("train", DOG), ("valid", CAT)):
        write_image(root / split / "images" / f"{split}.png")
        (root / split / "labels").mkdir()
        (root / split / "labels" / f"{split}.txt").write_text(line)
    content = {"train": "../train/images", "val": "../valid/images", "names": ["cat", "dog"]}
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    table = import_set(tmp_path / "t", "yolo", root)
    assert table.index["split"].to_pylist() == ["val", "train"]


def test_text_file_lists_images(tmp_path: Path) -> None:
    data = write_set(tmp_path / "s", {"train/b": CAT}, train=["train.txt"])
    lines = ["images/train/a.png", "./images/train/b.png", "images/train/b.png", "images/x.png"]
    (tmp_path / "s" / "train.txt").write_text("\n".join(lines))
    table = import_set(tmp_path / "t", "yolo", data)
    assert len(table.rows("train")) == 2
    assert findings_of(table) == {"images of train.txt that do not exist": 1}
    (tmp_path / "s" / "train.txt").write_text("/etc/passwd\n")
    assert "leads out of" in refusal(tmp_path / "u", "yolo", data)


def test_unknown_kind_of_missing_labels_is_refused(tmp_path: Path) -> None:
    data = write_set(tmp_path / "s")
    assert "--missing-labels" in refusal(tmp_path / "t", "yolo", data, "--missing-labels", "x")


def test_labels_of_one_folder_belong_to_the_splits_that_lists_name(tmp_path: Path) -> None:
    for name in ("a", "v"):
        write_image(tmp_path / "s" / "images" / f"{name}.png")
        (tmp_path / "s" / "labels").mkdir(exist_ok=True)
        (tmp_path / "s" / "labels" / f"{name}.txt").write_text(CAT + DOG)
        (tmp_path / "s" / f"{name}.txt").write_text(f"images/{name}.png\n")
    content = {"train": "a.txt", "val": "v.txt", "names": ["cat", "dog"]}
    (tmp_path / "s" / "data.yaml").write_text(yaml.safe_dump(content))
    table = import_set(tmp_path / "t", "yolo", tmp_path / "s" / "data.yaml")
    assert "label files without an image" not in findings_of(table)


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    data = write_set(tmp_path / "s")
    write_image(tmp_path / "s" / "images" / "train" / "a.bmp")
    assert "have the same name train/images/train/a; rename one" in (
        refusal(tmp_path / "t", "yolo", data)
    )
