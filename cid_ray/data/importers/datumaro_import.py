"""Any format that datumaro reads: its masks and polygons become class ids.

Shapes are painted by their z_order, then in their order, later ones on top. A label `background`
takes the pixels without a shape; without such a label background is class 0. Pixels of a label
`ignored` (PASCAL VOC's) or `__ignore__` have no label.
Formats: https://open-edge-platform.github.io/datumaro/
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.config import InputError, error_summary
from cid_ray.data.importers.assembly import assemble
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.extras import import_extra
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.items import DrawnMask, ImportItem, ImportPlan
from cid_ray.data.ingest.label_names import BACKGROUND_NAMES, IGNORE_NAMES, background_first
from cid_ray.data.ingest.shapes import (
    IGNORED,
    LATER_ON_TOP,
    MIN_POINTS,
    Drawing,
    Patch,
    draw_shape,
    paint,
    to_points,
)
from cid_ray.data.table_meta import MAX_CLASSES, check_class_name

SPLIT_OF_START = {"train": "train", "default": "train", "val": "val", "test": "test"}
NO_LABEL = ("ignored", *IGNORE_NAMES)


def list_datumaro(
    root: Path, format: str, *, unlabeled: Sequence[Path] = (), group: str | None = None
) -> ImportPlan:
    """List the images and shapes of a data set that datumaro reads.

    Args:
        root: the data set's folder.
        format: datumaro's name of its format, such as "cvat" or "mapillary_vistas".
        unlabeled: folders of unlabeled images.
        group: a regular expression on image names, see `find_groups`.

    Raises:
        InputError: datumaro is not installed or cannot read the folder, a subset's name begins
            with none of train, val and test, or an image is outside the folder.

    Example:
        >>> plan = list_datumaro(Path("export"), "cvat")
        >>> plan.classes.names
        ['background', 'cat', 'dog']
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder")
    dataset = _open(root, format)
    plan = ImportPlan([], None)
    names, background, class_of = _read_classes(root, dataset)
    plan.classes = ClassList.of_names(names)
    if background == 0:
        plan.classes = background_first(names[1:], names[0])
    try:
        for entry in dataset:
            item = _to_item(entry, root, background, class_of, plan)
            if item is not None:
                plan.items.append(item)
    except (InputError, OSError):
        raise
    except Exception as error:  # datumaro reads lazily, and its readers raise what they like
        raise _cannot_read(root, format, error) from None
    if not any(item.mask is not None for item in plan.items):
        reasons = [*plan.findings.describe(), "it has no image with masks or polygons"]
        raise InputError(f"{root} as {format}: {reasons[0]}")
    return assemble(plan, unlabeled, group, "subset `val`")


def _open(root: Path, format: str) -> Any:
    datumaro = import_extra("datumaro", "datumaro")
    known = sorted(datumaro.Environment().importers)
    if format not in known:
        raise InputError(f"--format {format[:40]!r} is none of datumaro's: {', '.join(known)}")
    try:
        return datumaro.Dataset.import_from(str(root), format)
    except Exception as error:  # its readers raise what they like
        raise _cannot_read(root, format, error) from None


def _cannot_read(root: Path, format: str, error: Exception) -> InputError:
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    reason = error_summary(cause, with_type=True)
    return InputError(f"datumaro cannot read {root} as {format} ({reason})")


def _read_classes(root: Path, dataset: Any) -> tuple[list[str], int, dict[int, int]]:
    """Class names, the id of pixels without a shape, and datumaro's label -> class id."""
    datumaro = import_extra("datumaro", "datumaro")
    labels = dataset.categories().get(datumaro.AnnotationType.label)
    given = [str(label.name) for label in labels] if labels is not None else []
    names = [name for name in given if name not in NO_LABEL]
    own = next((name for name in names if name in BACKGROUND_NAMES), None)
    if own is None:
        names = ["background", *names]
    for name in names:
        try:
            check_class_name(name)
        except ValueError as error:
            raise InputError(f"{root}: {error}") from None
    if not 2 <= len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        raise InputError(
            f"{root} has {len(names)} classes with background, must be 2 to {MAX_CLASSES} of "
            "different names"
        )
    id_of = {name: number for number, name in enumerate(names)}
    class_of = {number: id_of.get(name, IGNORED) for number, name in enumerate(given)}
    return names, id_of[own or "background"], class_of


def _to_item(
    entry: Any, root: Path, background: int, class_of: dict[int, int], plan: ImportPlan
) -> ImportItem | None:
    """The item of an image; None if there is no image."""
    split = _split_of(entry.subset, root)
    name = f"{entry.subset}/{entry.id}"
    shapes = [one for one in entry.annotations if _has_area(one, name, plan.findings)]
    path = getattr(entry.media, "path", None)
    if path and Path(path).is_file():
        image, image_root = Path(os.path.abspath(path)), Path(os.path.abspath(root))
        if not image.is_relative_to(image_root):
            raise InputError(f"{root}: the image {path} of {name} is outside the folder")
    else:
        encoded = getattr(entry.media, "bytes", None)
        if not encoded:
            plan.findings.add("left out", "items whose image is missing", name)
            return None
        image = plan.unpacked.write(f"{len(plan.items)}.image", encoded)
        image_root = image.parent
    if not shapes:
        plan.findings.add("guessed", "images without a shape, all background", name)
    shapes.sort(key=lambda one: one.z_order)
    mask = DrawnMask(image, _make_draw(name, shapes, background, class_of))
    return ImportItem(name, split, image, mask, None, image_root)


def _split_of(subset: str, root: Path) -> str:
    for start, split in SPLIT_OF_START.items():
        if subset.lower().startswith(start):
            return split
    raise InputError(
        f"{root}: the subset {subset[:40]!r} is neither train, val nor test; rename it"
    )


def _has_area(annotation: Any, name: str, findings: Findings) -> bool:
    """Whether it is a labeled mask or polygon. Others are reported."""
    kind = annotation.type.name
    if kind not in ("mask", "polygon"):
        findings.add("left out", f"annotations of type {kind}", name)
        return False
    if annotation.label is None:
        findings.add("left out", f"annotations of type {kind} without a label", name)
        return False
    if kind == "polygon" and len(annotation.points) < 2 * MIN_POINTS:
        findings.add("left out", "polygons of fewer than 3 points", name)
        return False
    if annotation.attributes.get("is_crowd"):
        # datumaro writes every mask as a crowd to COCO, so one may be a single object.
        findings.add("guessed", "shapes marked is_crowd, taken as their class", name)
    return True


def _make_draw(
    name: str, shapes: list[Any], background: int, class_of: dict[int, int]
) -> Callable[[int, int], Drawing]:
    # datumaro keeps its settings in context variables, which another thread does not have.
    context = copy_context()

    def draw(height: int, width: int) -> Drawing:
        size = height, width
        layers = _layers(shapes, class_of, size)
        try:
            return context.run(paint, size, layers, LATER_ON_TOP, background)
        except Exception as error:  # masks are read lazily, by the readers of datumaro
            raise BadFile(f"{name}: {error_summary(error, with_type=True)}") from None

    return draw


def _layers(
    shapes: list[Any], class_of: dict[int, int], size: tuple[int, int]
) -> Iterator[tuple[int, Patch]]:
    for one in shapes:
        class_id = class_of[one.label]
        if one.type.name == "polygon":
            points = to_points([float(number) for number in one.points])
            yield class_id, draw_shape("polygon", points, size)
            continue
        mask = np.asarray(one.image) > 0
        if mask.shape != size:
            raise ValueError(
                f"the mask is {mask.shape[1]} x {mask.shape[0]}, its image {size[1]} x {size[0]}"
            )
        yield class_id, Patch(0, 0, mask)
