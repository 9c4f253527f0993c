"""Ultralytics' segmentation layout: data.yaml, `images/` and next to it `labels/`.

A label file has a line for each object: its class and a polygon in parts of the image's width and
height. Classes follow background, so their ids are one higher here. Smaller objects are on top, as
in Ultralytics' `polygons2masks_overlap`. Polygons are drawn as `ingest/shapes.py` says: OpenCV,
which Ultralytics uses, fills up to one pixel more at slanted edges.
Format: https://docs.ultralytics.com/datasets/segment/
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cid_ray.config import InputError, read_utf8
from cid_ray.data.importers.assembly import assemble
from cid_ray.data.importers.yolo_file import YoloData, read_data_yaml
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.items import DrawnMask, ImportItem, ImportPlan
from cid_ray.data.ingest.label_names import BACKGROUND_NAMES, background_first
from cid_ray.data.ingest.names import image_name
from cid_ray.data.ingest.shapes import MAX_POINTS, MIN_POINTS, Drawing, paint_polygons
from cid_ray.data.input_spec import MAX_CLASSES
from cid_ray.storage.json_file import MEGABYTE

MAX_LABEL_BYTES = 64 * MEGABYTE
BOX_NUMBERS = 5  # class, centre, size
TOLERANCE = 0.01  # by which Ultralytics lets a coordinate leave 0..1
MISSING = ("background", "unlabeled")

Polygon = tuple[int, np.ndarray]  # class of data.yaml, f64[N, 2] in parts of width and height


class BoxLabels(BadFile):
    """A label file has boxes, not polygons."""


def list_yolo(
    data: Path,
    *,
    root: Path | None = None,
    missing_labels: str = "background",
    unlabeled: Sequence[Path] = (),
    group: str | None = None,
) -> ImportPlan:
    """List the images and polygons of a data set of Ultralytics.

    Args:
        data: its data.yaml, or the folder that holds it.
        root: the folder that the paths in data.yaml are relative to, see `read_data_yaml`.
        missing_labels: what an image without a label file is: "background", as for Ultralytics,
            or "unlabeled". An empty label file always means background.
        unlabeled: folders of unlabeled images.
        group: a regular expression on image names, see `find_groups`.

    Raises:
        InputError: data.yaml is damaged or leads elsewhere, the labels are boxes, or a class is
            not in data.yaml.

    Example:
        >>> plan = list_yolo(Path("coco8-seg"))
        >>> plan.classes.names[:2]
        ['background', 'person']
    """
    if missing_labels not in MISSING:
        raise InputError(f"--missing-labels is {missing_labels[:20]!r}, must be {MISSING}")
    plan = ImportPlan([], None)
    described = read_data_yaml(data, root, plan.findings)
    plan.classes, first = _make_classes(described, plan.findings)
    used: set[Path] = set()
    num_boxes = 0
    for split, images in described.images.items():
        for image in images:
            labels = _labels_of(image, described.root)
            used.add(labels)
            name = image_name(image, described.root)
            item = ImportItem(f"{split}/{name}", split, image, None, None, described.root)
            try:
                mask = _mask_of(item, labels, described, first, missing_labels, plan.findings)
            except BadFile as error:
                num_boxes += isinstance(error, BoxLabels)
                plan.bad_files.append(str(error))
                continue
            if mask is not None or split == "train":
                plan.items.append(replace(item, mask=mask))
    _check_polygons(plan, described, used, num_boxes)
    _report_unused(used, plan.findings)
    return assemble(plan, unlabeled, group, "`val` in data.yaml")


def _mask_of(
    item: ImportItem,
    labels: Path,
    described: YoloData,
    first: int,
    missing_labels: str,
    findings: Findings,
) -> DrawnMask | None:
    """What draws an image's mask; None for an image without one, which is reported."""
    if labels.is_file():
        _report(read_labels(labels, len(described.names)), labels, findings)
        return DrawnMask(labels, _make_draw(labels, first))
    if missing_labels == "background":
        reason = "images without a label file, all background (--missing-labels)"
        findings.add("guessed", reason, item.image)
        return DrawnMask(item.image, _make_draw(None, first))
    if item.split == "train":
        reason = "images without a label file, taken as unlabeled (--missing-labels)"
        findings.add("guessed", reason, item.image)
    else:
        findings.add("left out", "images of val or test without a label file", item.image)
    return None


def _check_polygons(plan: ImportPlan, described: YoloData, used: set[Path], num_boxes: int) -> None:
    """InputError for a set without label files, or with boxes alone."""
    if not any(labels.is_file() for labels in used):
        first_image = described.images["train"][0]
        expected = _labels_of(first_image, described.root)
        raise InputError(f"no image has a label file; that of {first_image} would be {expected}")
    if num_boxes and not any(item.mask for item in plan.items):
        raise InputError(
            f"{described.path}: the labels are boxes, no polygons: {plan.bad_files[0]}"
        )


def _report_unused(used: set[Path], findings: Findings) -> None:
    for folder in sorted({labels.parent for labels in used}):
        for path in sorted(set(folder.glob("*.txt")) - used):
            findings.add("left out", "label files without an image", path)


def _make_classes(data: YoloData, findings: Findings) -> tuple[ClassList, int]:
    """The classes, and the id of data.yaml's class 0: 1, or 0 if that is background."""
    if data.names[0].lower() in BACKGROUND_NAMES:
        findings.add("guessed", "classes 0 of data.yaml, taken as background", data.names[0])
        return background_first(data.names[1:], data.names[0]), 0
    if "background" in data.names or len(data.names) >= MAX_CLASSES:
        raise InputError(
            f"{data.path}: `names` must have fewer than {MAX_CLASSES} classes, and `background` "
            "may only be the first"
        )
    return background_first(data.names), 1


def _labels_of(image: Path, root: Path) -> Path:
    """Ultralytics' rule: the last folder `images` becomes `labels`, the suffix `.txt`."""
    parts = list(image.relative_to(root).parts[:-1])
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
    return root.joinpath(*parts, f"{image.stem}.txt")


def read_labels(path: Path, num_classes: int) -> list[Polygon]:
    """The polygons of a label file; polygons of fewer than 3 points too.

    Raises:
        BadFile: it cannot be read, or a line is a box or damaged.
        InputError: a class is not in data.yaml.
    """
    try:
        lines = read_utf8(path, MAX_LABEL_BYTES).splitlines()
    except InputError as error:
        raise BadFile(str(error)) from None
    polygons = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        place = f"{path}, line {number}"
        if len(words) == BOX_NUMBERS:
            raise BoxLabels(f"{place}: this is a box (5 numbers), must be a polygon")
        try:
            values = np.array([float(word) for word in words])
        except ValueError:
            raise BadFile(f"{place}: {line[:40]!r} is not a list of numbers") from None
        class_id, points = values[0], values[1:]
        if len(points) % 2 or len(points) > 2 * MAX_POINTS or not float(class_id).is_integer():
            raise BadFile(f"{place}: {len(words)} numbers, must be a class and pairs x y")
        if not ((points >= -TOLERANCE) & (points <= 1 + TOLERANCE)).all():
            raise BadFile(f"{place}: a coordinate is not in 0..1, the image's width or height")
        if not 0 <= class_id < num_classes:
            raise InputError(
                f"{place}: class {int(class_id)}, data.yaml has 0..{num_classes - 1}; "
                "add it to `names`"
            )
        polygons.append((int(class_id), points.reshape(-1, 2)))
    return polygons


def _report(polygons: list[Polygon], path: Path, findings: Findings) -> None:
    degenerate = sum(len(points) < MIN_POINTS for _, points in polygons)
    if degenerate:
        findings.add("left out", "polygons of fewer than 3 points", path, degenerate)
    outside = sum(bool((points < 0).any() or (points > 1).any()) for _, points in polygons)
    if outside:
        findings.add("changed", "polygons cut at the image's border", path, outside)


def _make_draw(labels: Path | None, first: int) -> Callable[[int, int], Drawing]:
    """What draws a mask. The file is read again: no polygon is held in memory."""

    def draw(height: int, width: int) -> Drawing:
        polygons = read_labels(labels, MAX_CLASSES) if labels else []
        scaled = [
            (first + class_id, points * (width, height))
            for class_id, points in polygons
            if len(points) >= MIN_POINTS
        ]
        return paint_polygons((height, width), scaled)

    return draw
