"""Tiny data sets of annotation tools, with what a table must hold of them.

Shapes are rectangles whose pixels follow from the format's rule alone: pycocotools leaves the last
row and column out, Pillow (labelme, Label Studio, YOLO) has them in.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image

from cid_ray.data.image_codec import default_colors
from tests.helpers.brush_rle import encode_brush
from tests.helpers.dataset_layouts import Expected, Layout
from tests.helpers.image_tables import random_image

SIZE = (24, 32)  # height, width
VAL_RULE = "val images (no {}: every fifth labeled image)"


def write_image(path: Path) -> None:
    """Noise that depends on the file's name alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_image(crc32(path.name.encode()), SIZE)).save(path)


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def corners(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    """The corners of a rectangle."""
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def boxes_to_mask(*boxes: tuple[int, int, int, int, int], inclusive: bool = True) -> np.ndarray:
    """u8[H, W]: class ids of (class, left, top, right, bottom), painted in this order."""
    mask = np.zeros(SIZE, np.uint8)
    for class_id, left, top, right, bottom in boxes:
        mask[top : bottom + inclusive, left : right + inclusive] = class_id
    return mask


def with_background(*names: str) -> tuple[list[str], list[list[int]]]:
    """Class names and colours that an import gives to names."""
    return ["background", *names], [[0, 0, 0], *default_colors(len(names))]


def change_json(path: Path, change: Callable[[Any], None]) -> Callable[[], Path]:
    """What changes a JSON file and returns its path."""

    def apply() -> Path:
        content = json.loads(path.read_text())
        change(content)
        write_json(path, content)
        return path

    return apply


def _coco_object(number: int, image: int, category: int, *box: int) -> dict[str, Any]:
    polygon = [number for corner in corners(*box) for number in corner]
    return {"id": number, "image_id": image, "category_id": category, "iscrowd": 0,
            "segmentation": [polygon]}  # fmt: skip


def make_coco(root: Path) -> Layout:
    """instances JSON of train and val: polygons that overlap, run lengths, a crowd, no object."""
    height, width = SIZE
    categories = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}]  # not in the order of ids
    big, small = (2, 3, 20, 18), (5, 5, 9, 9)
    crowd = boxes_to_mask((1, 24, 0, 31, 23))
    # Run lengths go down the columns and begin with background.
    crowd_counts = [24 * height, 8 * height]
    objects = [
        _coco_object(1, 10, 3, *small),  # in front although it comes first: it is smaller
        _coco_object(2, 10, 18, *big),
        {"id": 3, "image_id": 10, "category_id": 3, "iscrowd": 1,
         "segmentation": {"size": [height, width], "counts": crowd_counts}},
        _coco_object(4, 30, 18, 0, 0, 7, 3),
    ]  # fmt: skip
    sizes = {"height": height, "width": width}
    images = {10: "000010.png", 20: "000020.png", 30: "000030.png"}
    for number, name in images.items():
        write_image(root / ("val2017" if number == 30 else "train2017") / name)
    write_image(root / "unlabeled2017" / "000040.png")
    for split, numbers in (("train", (20, 10)), ("val", (30,))):
        content = {
            "images": [{"id": n, "file_name": images[n], **sizes} for n in numbers],
            "annotations": [one for one in objects if one["image_id"] in numbers],
            "categories": categories,
        }
        write_json(root / "annotations" / f"instances_{split}2017.json", content)
    train_json, val_json = (
        root / "annotations" / f"instances_{split}2017.json" for split in ("train", "val")
    )
    mask = boxes_to_mask((2, *big), (1, *small), inclusive=False)
    mask[crowd == 1] = 255
    classes, colors = with_background("car", "dog")

    def spoil(content: Any) -> None:
        content["images"][1]["height"] = 23

    return Layout(
        arguments=[
            *("--annotations", str(train_json), "--images", str(root / "train2017")),
            *("--val-annotations", str(val_json), "--val-images", str(root / "val2017")),
            *("--unlabeled", str(root / "unlabeled2017")),
        ],
        rows={
            "000010.png": Expected("train", mask),
            "000020.png": Expected("train", np.zeros(SIZE, np.uint8)),
            "000030.png": Expected("val", boxes_to_mask((2, 0, 0, 7, 3), inclusive=False)),
            "000040.png": Expected("train", None, "unlabeled2017"),
        },
        classes=classes,
        colors=colors,
        images=[
            *(root / "train2017").iterdir(),
            root / "val2017" / "000030.png",
            root / "unlabeled2017" / "000040.png",
        ],
        required=[train_json, val_json, root / "train2017", root / "unlabeled2017"],
        spoil_mask=change_json(train_json, spoil),
        findings={
            "images without annotations, all background": 1,
            "crowds (iscrowd), which have no label now": 1,
            "masks with pixels of two classes (the smaller shape is on top)": 1,
        },
    )


def make_cocostuff(root: Path) -> Layout:
    """Merged label maps: the id less one, 255 where there is no label."""
    rows = {}
    for split, name in (("train", "1"), ("train", "2"), ("val", "3")):
        mask = np.random.default_rng(int(name)).integers(0, 182, SIZE, np.uint8)
        mask[0, :4] = 255
        write_image(root / "img" / split / f"{name}.png")
        path = root / "label" / split / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
        rows[f"img/{split}/{name}.png"] = Expected(split, mask)
    from cid_ray.data.importers.cocostuff_names import NAMES

    def spoil() -> Path:
        path = root / "label" / "train" / "1.png"
        Image.fromarray(np.zeros((10, 12), np.uint8)).save(path)
        return path

    return Layout(
        arguments=[str(root)],
        rows=rows,
        classes=list(NAMES),
        colors=default_colors(182),
        images=[root / path for path in rows],
        required=[root / "img" / "train", root / "label" / "train"],
        spoil_mask=spoil,
    )


def labelme_shape(label: str, points: Any, kind: str = "polygon", **more: Any) -> dict[str, Any]:
    shape = {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}}
    return shape | more


def labelme_file(image: str, shapes: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    sizes = {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image}
    return content | {"imageData": None} | sizes | more


def encode_base64_png(array: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def make_labelme(root: Path) -> Layout:
    """Five JSON files: polygons, a rectangle, a mask, a point, `__ignore__`; one image without."""
    cutout = np.array([[1, 0, 1], [1, 1, 0]], bool)
    shapes = {
        "a": [
            labelme_shape("dog", corners(2, 3, 20, 18)),
            labelme_shape("cat", corners(5, 5, 9, 9)),
        ],
        "b": [labelme_shape("cat", [[9, 8], [4, 2]], "rectangle")],
        "c": [
            labelme_shape("dog", [[10, 4], [12, 5]], "mask", mask=encode_base64_png(cutout)),
            labelme_shape("dog", [[1, 1]], "point"),
        ],
        "d": [labelme_shape("__ignore__", corners(0, 0, 3, 3))],
        "e": [labelme_shape("dog", corners(28, 20, 40, 30))],
    }
    masks = {
        "a": boxes_to_mask((2, 2, 3, 20, 18), (1, 5, 5, 9, 9)),
        "b": boxes_to_mask((1, 4, 2, 9, 8)),
        "c": np.zeros(SIZE, np.uint8),
        "d": boxes_to_mask((255, 0, 0, 3, 3)),
        "e": boxes_to_mask((2, 28, 20, 31, 23)),
    }
    masks["c"][4:6, 10:13] = 2 * cutout
    for name, own in shapes.items():
        write_image(root / "images" / f"{name}.png")
        path = "..\\images\\a.png" if name == "a" else f"../images/{name}.png"
        write_json(root / "json" / f"{name}.json", labelme_file(path, own))
    write_image(root / "images" / "f.png")
    classes, colors = with_background("cat", "dog")

    def spoil(content: Any) -> None:
        content["imageWidth"] = 31

    return Layout(
        arguments=[str(root)],
        rows={
            **{
                f"images/{name}.png": Expected("val" if name == "e" else "train", mask)
                for name, mask in masks.items()
            },
            "images/f.png": Expected("train", None),
        },
        classes=classes,
        colors=colors,
        images=list((root / "images").iterdir()),
        required=[root],
        spoil_mask=change_json(root / "json" / "a.json", spoil),
        findings={
            "shapes of type 'point', which have no area": 1,
            "shapes cut at the image's border": 1,
            "classes, the labels in use": 2,
            "images without a JSON file, taken as unlabeled": 1,
            VAL_RULE.format("--val"): 1,
            "masks with pixels of two classes (the later shape is on top)": 1,
        },
    )


def label_studio_region(kind: str, label: str, **value: Any) -> dict[str, Any]:
    sizes = {"original_height": SIZE[0], "original_width": SIZE[1], "image_rotation": 0}
    value[f"{kind}labels"] = [label]
    names = {"id": f"{kind}{label}", "from_name": "tag", "to_name": "image"}
    return {**names, "type": f"{kind}labels", "value": value, **sizes}


def percent(points: list[list[int]]) -> list[list[float]]:
    """Pixels in percent. The half pixel keeps rounding off the next one."""
    return [[100 * (x + 0.5) / SIZE[1], 100 * (y + 0.5) / SIZE[0]] for x, y in points]


def make_label_studio(root: Path) -> Layout:
    """Brush, polygon and rectangle; a task with two annotations, a skipped one, one to do."""
    brush = np.zeros(SIZE, bool)
    brush[3:8, 4:20] = brush[10, 1] = True
    cat = label_studio_region("brush", "cat", format="rle", rle=encode_brush(brush))
    dog = label_studio_region("polygon", "dog", points=percent(corners(5, 5, 9, 9)), closed=True)
    left, top = percent([[2, 2]])[0]
    box = {"x": left, "y": top, "width": 100 * 6 / SIZE[1], "height": 100 * 4 / SIZE[0]}
    rectangle = label_studio_region("rectangle", "dog", rotation=0, **box)
    masks = {
        1: np.where(boxes_to_mask((1, 5, 5, 9, 9)) == 1, 2, brush).astype(np.uint8),
        2: boxes_to_mask((2, 2, 2, 8, 6)),
        3: brush.astype(np.uint8),
        4: np.zeros(SIZE, np.uint8),
        5: brush.astype(np.uint8),
    }
    results = {1: [cat, dog], 2: [rectangle], 3: [cat], 4: [], 5: [cat]}
    tasks: list[dict[str, Any]] = []
    for number, result in results.items():
        write_image(root / "photos" / f"{number}.png")
        annotation = {"id": 100 + number, "result": result, "was_cancelled": False,
                      "updated_at": "2026-01-02T00:00:00Z"}  # fmt: skip
        data = {"image": f"/data/upload/7/1a2b3c4d-{number}.png"}
        tasks.append({"id": number, "data": data, "annotations": [annotation]})
    older = {"id": 99, "result": [dog], "updated_at": "2026-01-01T00:00:00Z"}
    tasks[2]["annotations"].insert(0, older)
    for number, made in ((6, [{"id": 8, "was_cancelled": True, "result": []}]), (7, [])):
        write_image(root / "photos" / f"{number}.png")
        data = {"image": f"/data/local-files/?d=photos/{number}.png"}
        tasks.append({"id": number, "data": data, "annotations": made})
    path = write_json(root / "export.json", tasks)
    classes, colors = with_background("cat", "dog")

    def spoil(content: Any) -> None:
        content[1]["annotations"][0]["result"][0]["original_width"] = 31

    return Layout(
        arguments=["--tasks", str(path), "--images", str(root / "photos")],
        rows={
            **{
                f"{number}.png": Expected("val" if number == 5 else "train", mask)
                for number, mask in masks.items()
            },
            "7.png": Expected("train", None),
        },
        classes=classes,
        colors=colors,
        images=list((root / "photos").iterdir()),
        required=[path, root / "photos"],
        spoil_mask=change_json(path, spoil),
        findings={
            "tasks with several annotations (ground truth, else the latest one, counts)": 1,
            "tasks that were skipped (cancelled)": 1,
            "images found without the prefix of an upload": 5,
            "annotations without a region, all background": 1,
            "tasks without an annotation, taken as unlabeled": 1,
            "classes, the labels in use": 2,
            VAL_RULE.format("way to name them in Label Studio"): 1,
            "masks with pixels of two classes (the later shape is on top)": 1,
        },
    )


def yolo_line(class_id: int, points: list[list[int]]) -> str:
    """A line of a label file. The half pixel keeps rounding off the next one."""
    numbers = [f"{(x + 0.5) / SIZE[1]:.6f} {(y + 0.5) / SIZE[0]:.6f}" for x, y in points]
    return f"{class_id} {' '.join(numbers)}\n"


def make_yolo(root: Path) -> Layout:
    """Two train images, one with an empty label file, one without any, and one of val."""
    lines = {
        "train/a": yolo_line(0, corners(5, 5, 9, 9)) + yolo_line(1, corners(2, 3, 20, 18)),
        "train/b": "",
        "train/c": None,
        "val/d": yolo_line(1, corners(0, 0, 7, 3)),
    }
    for name, text in lines.items():
        write_image(root / "images" / f"{name}.png")
        if text is not None:
            path = root / "labels" / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    yaml = root / "data.yaml"
    yaml.write_text("path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n")
    classes, colors = with_background("cat", "dog")
    nothing = np.zeros(SIZE, np.uint8)

    def spoil() -> Path:
        path = root / "labels" / "val" / "d.txt"
        path.write_text("1 7 3 0 0 7 7\n")
        return path

    return Layout(
        arguments=[str(yaml)],
        rows={
            "images/train/a.png": Expected(
                "train", boxes_to_mask((2, 2, 3, 20, 18), (1, 5, 5, 9, 9))
            ),
            "images/train/b.png": Expected("train", nothing),
            "images/train/c.png": Expected("train", nothing),
            "images/val/d.png": Expected("val", boxes_to_mask((2, 0, 0, 7, 3))),
        },
        classes=classes,
        colors=colors,
        images=[root / "images" / f"{name}.png" for name in lines],
        required=[yaml, root / "images" / "train", root / "images" / "val"],
        spoil_mask=spoil,
        findings={
            "images without a label file, all background (--missing-labels)": 1,
            "masks with pixels of two classes (the smaller shape is on top)": 1,
        },
    )


JSON_LAYOUTS: dict[str, Callable[[Path], Layout]] = {
    "coco": make_coco,
    "cocostuff": make_cocostuff,
    "labelme": make_labelme,
    "label_studio": make_label_studio,
    "yolo": make_yolo,
}
