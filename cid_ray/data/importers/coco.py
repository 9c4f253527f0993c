"""COCO: instances_*.json and stuff_*.json (polygons, run lengths) or panoptic_*.json with its PNGs.

Objects become classes: 0 is background, then the categories in the order of their ids. A pixel of
two classes has that of the smaller object, as an object in front of another usually is smaller.
Crowds (`iscrowd`) have no label where no other object is. Masks are drawn as by pycocotools, when
an image is read.

COCO's own tools disagree about overlaps: `cocoSegmentationToSegmentationMap` takes the later
object, torchvision's reference script ignores the pixel. Here overlaps are counted and reported.
Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.importers.assembly import assemble
from cid_ray.data.importers.coco_file import (
    Annotation,
    CocoFile,
    ImageEntry,
    RunLengths,
    read_coco,
)
from cid_ray.data.importers.coco_panoptic import draw_panoptic
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.extras import import_extra
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.foreign_json import path_below
from cid_ray.data.ingest.items import DrawnMask, ImportItem, ImportPlan
from cid_ray.data.ingest.label_names import background_first
from cid_ray.data.ingest.listing import list_images
from cid_ray.data.ingest.names import image_name
from cid_ray.data.ingest.run_lengths import check_counts, decode_counts, parse_counts
from cid_ray.data.ingest.shapes import (
    IGNORED,
    SMALLER_ON_TOP,
    Drawing,
    Patch,
    paint,
    reaches_outside,
)
from cid_ray.data.input_spec import MAX_CLASSES

STUFF_OTHER = (183, "other")  # the last category of stuff_*.json, which has no background
MAX_PERIMETER = 20_000_000.0  # pixels; pycocotools holds five points for each


def list_coco(
    annotations: Path,
    images: Path,
    *,
    val_annotations: Path | None = None,
    val_images: Path | None = None,
    test_annotations: Path | None = None,
    test_images: Path | None = None,
    unlabeled: Sequence[Path] = (),
    group: str | None = None,
) -> ImportPlan:
    """List the images and objects of COCO JSON files.

    Args:
        annotations: the JSON file of the training images.
        images: the folder of its images.
        val_annotations, test_annotations: JSON files of the other splits. Without val every fifth
            labeled image is val.
        val_images, test_images: folders of their images; `images` by default.
        unlabeled: folders of unlabeled images, e.g. `unlabeled2017`.
        group: a regular expression on file names, see `find_groups`.

    Raises:
        InputError: a file is no COCO file, files list different categories, no image is found, or
            pycocotools is not installed.

    Example:
        >>> plan = list_coco(Path("annotations/instances_train2017.json"), Path("train2017"))
        >>> plan.classes.names[:3]
        ['background', 'person', 'bicycle']
    """
    mask_api = import_extra("pycocotools.mask", "coco")
    findings = Findings()
    given = {
        "train": (annotations, images),
        "val": (val_annotations, val_images or images),
        "test": (test_annotations, test_images or images),
    }
    items: list[ImportItem] = []
    bad_files: list[str] = []
    first: CocoFile | None = None
    listed: dict[Path, set[Path]] = {}
    for split, (file, folder) in given.items():
        if file is None:
            continue
        coco = read_coco(file)
        first = first or coco
        if coco.names != first.names:
            raise InputError(f"{coco.path} and {first.path} list different categories")
        found = _find_images(coco, folder, findings)
        listed.setdefault(folder, set()).update(found.values())
        items += _list_items(coco, found, split, folder, mask_api, findings, bad_files)
    assert first is not None
    for folder, paths in listed.items():
        for path in sorted(set(list_images(folder, findings)) - paths):
            findings.add("left out", f"images of {folder} that no JSON file lists", path)
    plan = ImportPlan(items, _make_classes(first), findings, bad_files=bad_files)
    return assemble(plan, unlabeled, group, "--val-annotations")


def _make_classes(coco: CocoFile) -> ClassList:
    """The categories, after background if the file has pixels without a category."""
    names = list(coco.names.values())
    if len(names) >= MAX_CLASSES:
        raise InputError(f"{coco.path} has {len(names)} categories, must be below {MAX_CLASSES}")
    if coco.panoptic or _is_stuff(coco):
        return ClassList.of_names(names)
    if "background" in names:
        raise InputError(f"{coco.path}: rename its category `background`, which is class 0")
    return background_first(names)


def _is_stuff(coco: CocoFile) -> bool:
    """Whether this is stuff_*.json: its `other` covers all things, so the rest has no label."""
    return coco.names.get(STUFF_OTHER[0]) == STUFF_OTHER[1] and not coco.panoptic


def _find_images(coco: CocoFile, folder: Path, findings: Findings) -> dict[int | str, Path]:
    """Image id -> file, of the images that are on the disk."""
    found = {}
    for number, entry in coco.images.items():
        path = path_below(folder, folder, entry.file_name)
        if path is None:
            raise InputError(
                f"{coco.path}: the image name {entry.file_name[:200]!r} leads out of {folder}; "
                "only names below the folder of images are read"
            )
        if not path.is_file() and (folder / path.name).is_file():
            path = folder / path.name  # `train2017/1.jpg`, with train2017 as the folder of images
        if path.is_file():
            found[number] = path
        else:
            findings.add("left out", f"images of {coco.path.name} that are not in {folder}", path)
    if not found:
        name = next(iter(coco.images.values())).file_name if coco.images else "no image"
        raise InputError(f"no image of {coco.path} is in {folder}; it lists {name[:200]}")
    return found


def _list_items(
    coco: CocoFile,
    found: dict[int | str, Path],
    split: str,
    folder: Path,
    mask_api: Any,
    findings: Findings,
    bad_files: list[str],
) -> list[ImportItem]:
    reason = "annotations of images that their file does not list"
    if coco.num_foreign:
        findings.add("left out", reason, coco.path, coco.num_foreign)
    if coco.num_boxes:
        reason = "annotations without a mask (boxes, key points)"
        findings.add("left out", reason, coco.path, coco.num_boxes)
    items = []
    start = 0 if coco.panoptic or _is_stuff(coco) else 1
    class_of = {number: index + start for index, number in enumerate(coco.names)}
    for number, path in sorted(found.items(), key=lambda pair: pair[1]):
        name = image_name(path, folder)
        entry = coco.images[number]
        draw: Callable[[int, int], Drawing]
        if coco.panoptic:
            if number not in coco.panoptic:
                findings.add("left out", "images without a panoptic mask", path)
                continue
            draw = draw_panoptic(coco, coco.panoptic[number], class_of)
        else:
            objects = coco.objects.get(number, [])
            problems = [one for one in objects if one.problem]
            if problems:
                bad_files.append(
                    f"{path}: annotation {problems[0].number} of {coco.path}: {problems[0].problem}"
                )
                continue
            _count_objects(objects, entry, path, findings)
            draw = _make_draw(coco, path, entry, objects, class_of, mask_api)
        mask = DrawnMask(coco.path, draw)
        items.append(ImportItem(f"{split}/{name}", split, path, mask, None, folder))
    return items


def _count_objects(
    objects: list[Annotation], entry: ImageEntry, path: Path, findings: Findings
) -> None:
    """Tell what is left out, changed or guessed of the objects of one image."""
    degenerate = sum(one.degenerate for one in objects)
    if degenerate:
        findings.add("left out", "polygons of fewer than 3 points", path, degenerate)
    if not objects:
        findings.add("guessed", "images without annotations, all background", path)
    crowds = sum(one.is_crowd for one in objects)
    if crowds:
        findings.add("changed", "crowds (iscrowd), which have no label now", path, crowds)
    polygons = [p for one in objects if not isinstance(one.shape, RunLengths) for p in one.shape]
    outside = sum(
        entry.size is not None and reaches_outside(np.array(p).reshape(-1, 2), entry.size)
        for p in polygons
    )
    if outside:
        findings.add("changed", "polygons cut at the image's border", path, outside)


def _make_draw(
    coco: CocoFile,
    path: Path,
    entry: ImageEntry,
    objects: list[Annotation],
    class_of: dict[int, int],
    mask_api: Any,
) -> Callable[[int, int], Drawing]:
    background = IGNORED if _is_stuff(coco) else 0

    def draw(height: int, width: int) -> Drawing:
        size = height, width
        if entry.size not in (None, size):
            said = f"{entry.size[1]} x {entry.size[0]}" if entry.size else ""
            raise BadFile(f"{path}: {width} x {height} pixels, {coco.path} says {said}")
        layers = []
        for one in objects:
            try:
                counts = _to_counts(one.shape, size, mask_api)
            except ValueError as error:
                raise BadFile(f"{path}: annotation {one.number} of {coco.path}: {error}") from None
            class_id = IGNORED if one.is_crowd else class_of[one.category_id]
            layers.append((class_id, counts))
        # Crowds first, then larger objects before smaller ones.
        layers.sort(key=lambda layer: (layer[0] != IGNORED, -int(layer[1][1::2].sum())))
        patches = ((number, Patch(0, 0, decode_counts(c, size))) for number, c in layers)
        return paint(size, patches, SMALLER_ON_TOP, background)

    return draw


def _to_counts(shape: Any, size: tuple[int, int], mask_api: Any) -> np.ndarray:
    """i64[N]: the run lengths of a shape in an image; ValueError if they do not fit."""
    if isinstance(shape, RunLengths):
        if shape.size != size:
            raise ValueError(f"run lengths of {shape.size[1]} x {shape.size[0]} pixels")
        counts = shape.counts.astype(np.int64)
        check_counts(counts, size)
        return counts
    if not shape:
        return np.array([size[0] * size[1]], np.int64)
    for polygon in shape:
        points = np.array(polygon).reshape(-1, 2)
        if np.abs(np.diff(points, axis=0, append=points[:1])).sum() > MAX_PERIMETER:
            raise ValueError("a polygon's outline is far longer than the image's border")
    rles = mask_api.frPyObjects([list(polygon) for polygon in shape], *size)
    return parse_counts(mask_api.merge(rles)["counts"])
