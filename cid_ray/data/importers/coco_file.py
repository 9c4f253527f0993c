"""A COCO JSON file, kept compact: instances_train2017.json has 860,000 objects.

Each object is made compact while the file is parsed, so the peak is the file's text and the arrays,
not a tree of Python floats.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.ingest.foreign_json import read_json
from cid_ray.data.ingest.run_lengths import parse_counts
from cid_ray.data.ingest.shapes import MAX_COORDINATE, MAX_POINTS, MIN_POINTS
from cid_ray.data.table_meta import check_class_name
from cid_ray.storage.json_file import MEGABYTE

MAX_BYTES = 4000 * MEGABYTE


class RunLengths(NamedTuple):
    """A mask as run lengths, of (height, width)."""

    size: tuple[int, int]
    counts: np.ndarray  # u32[N]


class Annotation(NamedTuple):
    """One object of one image. `problem` says why it cannot be drawn."""

    number: Any  # its id, for messages
    image_id: Any
    category_id: Any
    is_crowd: bool
    shape: RunLengths | list[array[float]]  # or polygons: x, y, x, y, ...
    degenerate: int = 0  # polygons of fewer than 3 points, which are left out
    problem: str = ""


class Segment(NamedTuple):
    """One segment of a panoptic image."""

    number: Any  # the colour of its pixels
    category_id: Any


class PanopticImage(NamedTuple):
    """The segments of one image, whose pixels are in a PNG file."""

    image_id: Any
    file_name: str
    segments: list[Segment]


class ImageEntry(NamedTuple):
    """One image that the file lists."""

    file_name: str
    size: tuple[int, int] | None  # (height, width), if the file has it


@dataclass
class CocoFile:
    """What was read of a COCO JSON file."""

    path: Path
    names: dict[int, str]  # category id -> name, in the order of ids
    images: dict[int | str, ImageEntry]
    objects: dict[int | str, list[Annotation]] = field(default_factory=dict)
    panoptic: dict[int | str, PanopticImage] = field(default_factory=dict)
    num_foreign: int = 0  # annotations of images that are not listed
    num_boxes: int = 0  # annotations without a segmentation


def read_coco(path: Path) -> CocoFile:
    """Read an instances, stuff or panoptic JSON file.

    The peak of memory is about 2.6 times the size of the file.

    Raises:
        InputError: it is no such file, an image or category is listed twice, an annotation has a
            category that the file does not list, or no annotation has a mask.
    """
    content = read_json(path, MAX_BYTES, _make_compact)
    parts = ("images", "annotations", "categories")
    if not isinstance(content, Mapping) or not all(isinstance(content.get(p), list) for p in parts):
        raise InputError(
            f"{path} is no COCO file with annotations: it must have the lists {', '.join(parts)}"
        )
    coco = CocoFile(path, _read_categories(path, content), _read_images(path, content))
    unknown: Counter[str] = Counter()
    for entry in content["annotations"]:
        if not isinstance(entry, Annotation | PanopticImage):
            coco.num_boxes += 1
        elif not _is_id(entry.image_id) or entry.image_id not in coco.images:
            coco.num_foreign += 1
        elif isinstance(entry, PanopticImage):
            coco.panoptic[entry.image_id] = entry
            unknown.update(str(s.category_id) for s in entry.segments if _unknown(s, coco.names))
        else:
            coco.objects.setdefault(entry.image_id, []).append(entry)
            unknown.update([str(entry.category_id)] if _unknown(entry, coco.names) else [])
    if unknown:
        shown = ", ".join(f"{name[:40]} ({count} times)" for name, count in unknown.most_common(5))
        raise InputError(
            f"{path}: annotations have categories that the file does not list: {shown}; "
            "add them to its `categories`"
        )
    if not coco.objects and not coco.panoptic:
        raise InputError(
            f"{path} has no mask: {coco.num_boxes} annotations are boxes without `segmentation`, "
            f"{coco.num_foreign} belong to images that it does not list"
        )
    return coco


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)


def _unknown(entry: Annotation | Segment, names: Mapping[int, str]) -> bool:
    return type(entry.category_id) is not int or entry.category_id not in names


def _read_categories(path: Path, content: Mapping[str, Any]) -> dict[int, str]:
    names: dict[int, str] = {}
    for entry in content["categories"]:
        number, name = _fields(entry, "id", "name")
        if type(number) is not int or not isinstance(name, str):
            raise InputError(f"{path}: a category must have `id`, an integer, and `name`")
        try:
            check_class_name(name)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None
        if number in names or name in names.values():
            raise InputError(f"{path} has two categories of id {number} or name {name!r}")
        names[number] = name
    if not names:
        raise InputError(f"{path} lists no category")
    return dict(sorted(names.items()))


def _read_images(path: Path, content: Mapping[str, Any]) -> dict[int | str, ImageEntry]:
    images: dict[int | str, ImageEntry] = {}
    files = set()
    for entry in content["images"]:
        number, name, height, width = _fields(entry, "id", "file_name", "height", "width")
        if not _is_id(number) or not isinstance(name, str):
            raise InputError(f"{path}: an image must have `id` and `file_name`")
        if number in images or name in files:
            raise InputError(f"{path} lists the image {name[:200]!r} (id {number}) twice")
        has_size = type(height) is int and type(width) is int
        images[number] = ImageEntry(name, (height, width) if has_size else None)
        files.add(name)
    return images


def _fields(entry: Any, *names: str) -> list[Any]:
    values = entry if isinstance(entry, dict) else {}
    return [values.get(name) for name in names]


def _make_compact(entry: dict[str, Any]) -> Any:
    """The compact form of an object of the file, if it is one of the many."""
    if "image_id" in entry and "segmentation" in entry:
        return _to_annotation(entry)
    if "image_id" in entry and isinstance(entry.get("segments_info"), list):
        segments = [segment for segment in entry["segments_info"] if isinstance(segment, Segment)]
        return PanopticImage(entry["image_id"], str(entry.get("file_name")), segments)
    if "category_id" in entry and "image_id" not in entry:
        return Segment(entry.get("id"), entry["category_id"])
    return entry


def _to_annotation(entry: dict[str, Any]) -> Annotation:
    numbers = entry.get("id"), entry["image_id"], entry.get("category_id")
    is_crowd = bool(entry.get("iscrowd"))
    segmentation = entry["segmentation"]
    try:
        if isinstance(segmentation, dict):
            return Annotation(*numbers, is_crowd, _to_run_lengths(segmentation))
        if not isinstance(segmentation, list):
            raise ValueError("`segmentation` is neither a list of polygons nor run lengths")
        polygons = [_to_polygon(polygon) for polygon in segmentation]
    except (ValueError, TypeError, OverflowError) as error:
        return Annotation(*numbers, is_crowd, [], problem=str(error))
    kept = [polygon for polygon in polygons if len(polygon) >= 2 * MIN_POINTS]
    return Annotation(*numbers, is_crowd, kept, degenerate=len(polygons) - len(kept))


def _to_run_lengths(entry: dict[str, Any]) -> RunLengths:
    size, counts = entry.get("size"), entry.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)):
        raise ValueError("run lengths without `size`: [height, width]")
    if isinstance(counts, str):
        values = parse_counts(counts.encode())
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        values = np.array(counts, np.int64)
    else:
        raise ValueError("run lengths whose `counts` are neither integers nor text")
    if (values < 0).any() or (values > 2**32 - 1).any():
        raise ValueError("a run length is negative or too large")
    return RunLengths((size[0], size[1]), values.astype(np.uint32))


def _to_polygon(values: Any) -> array[float]:
    if not isinstance(values, list):
        raise ValueError("a polygon is no list of numbers")
    polygon = array("d", values)
    if len(polygon) % 2 or len(polygon) > 2 * MAX_POINTS:
        raise ValueError(
            f"a polygon has {len(polygon)} numbers, must be pairs of at most {MAX_POINTS:,} points"
        )
    # Not `max`: NaN compares as false.
    if not all(-MAX_COORDINATE <= value <= MAX_COORDINATE for value in polygon):
        raise ValueError("a polygon has a coordinate that is no finite number of pixels")
    return polygon
