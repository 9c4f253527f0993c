"""Polygons, ellipses and rectangles as pixels, and how shapes of classes become one mask.

Coordinates are cut to whole pixels, and a shape includes its outline. This is what labelme's
`shape_to_mask` does with Pillow. OpenCV's `fillPoly`, which Ultralytics uses, cuts the same way and
fills up to one pixel more along slanted edges.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

MIN_POINTS = 3  # of a polygon
MAX_POINTS = 100_000  # of one shape; drawing takes time in proportion to points x rows
MAX_COORDINATE = 1_000_000.0  # in pixels; beyond it a file is damaged
IGNORED = 255  # drawn where a format says "no label"; `--map 255=ID` renumbers it
SMALLER_ON_TOP = "masks with pixels of two classes (the smaller shape is on top)"
LATER_ON_TOP = "masks with pixels of two classes (the later shape is on top)"

Kind = Literal["polygon", "ellipse", "rectangle"]


@dataclass(frozen=True)
class Patch:
    """The pixels of one shape, cut at the image's border."""

    top: int
    left: int
    mask: np.ndarray  # bool[h, w]

    @property
    def window(self) -> tuple[slice, slice]:
        """Where the mask is in the image."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


@dataclass(frozen=True)
class Drawing:
    """A drawn mask."""

    ids: np.ndarray  # u8[H, W]
    changes: tuple[str, ...] = ()  # what was decided, each a noun phrase in the plural


def to_points(values: object) -> np.ndarray:
    """f64[N, 2] of a list of [x, y], or of x, y, x, y, ...

    Raises:
        ValueError: it holds anything but numbers, or too many or too large ones.
    """
    if not isinstance(values, list):
        raise ValueError("points are no list")
    flat = values
    if values and isinstance(values[0], list):
        if not all(isinstance(point, list) and len(point) == 2 for point in values):
            raise ValueError("a point is not [x, y]")
        flat = [number for point in values for number in point]
    if len(flat) % 2 or len(flat) > 2 * MAX_POINTS:
        raise ValueError(f"{len(flat)} coordinates, must be pairs of at most {MAX_POINTS:,} points")
    if not all(type(number) in (int, float) for number in flat):
        raise ValueError("a coordinate is NaN or not a number")
    try:
        points = np.array(flat, np.float64).reshape(-1, 2)
    except OverflowError:
        raise ValueError("a coordinate is too large") from None
    if not (np.abs(points) <= MAX_COORDINATE).all():  # NaN too
        raise ValueError("a coordinate is no finite number of pixels")
    return points


def reaches_outside(points: np.ndarray, size: tuple[float, float]) -> bool:
    """Whether points f64[N, 2] leave an image of (height, width)."""
    height, width = size
    return bool((points < 0).any() or (points[:, 0] > width).any() or (points[:, 1] > height).any())


def draw_shape(kind: Kind, points: np.ndarray, size: tuple[int, int]) -> Patch:
    """The pixels of a shape.

    Args:
        kind: an ellipse and a rectangle have two points, the corners of their box.
        points: f64[N, 2] of (x, y) in pixels.
        size: (height, width) of the image.

    Example:
        >>> draw_shape("polygon", np.array([[1, 1], [3, 1], [3, 2]]), (8, 5)).mask.astype(int)
        array([[0, 1, 1, 1, 0],
               [0, 0, 1, 1, 0]])
    """
    corners = np.trunc(points).astype(np.int64)
    if kind != "polygon":
        corners = np.stack([corners.min(0), corners.max(0)])
    top, bottom = max(int(corners[:, 1].min()), 0), min(int(corners[:, 1].max()), size[0] - 1)
    if bottom < top:
        return Patch(0, 0, np.zeros((0, 0), bool))
    # Rows are drawn whole: Pillow's polygons depend on the columns that are cut off.
    canvas = Image.new("L", (size[1], bottom - top + 1))
    shifted = [(x, y - top) for x, y in corners.tolist()]
    getattr(ImageDraw.Draw(canvas), kind)(shifted, fill=1, outline=1)
    return Patch(top, 0, np.asarray(canvas, bool))


def paint(
    size: tuple[int, int],
    layers: Iterable[tuple[int, Patch]],
    overlap: str = LATER_ON_TOP,
    background: int = 0,
) -> Drawing:
    """A mask with layers painted over one another in their order.

    Args:
        size: (height, width).
        layers: class id and pixels. They may be made one by one: one is held in memory.
        overlap: what is reported when a pixel has two classes.
        background: the id of pixels that no layer covers.
    """
    ids = np.full(size, background, np.uint8)
    is_painted = np.zeros(size, bool)
    has_overlap = False
    for class_id, patch in layers:
        window = ids[patch.window]
        painted = is_painted[patch.window]
        other = painted & (window != class_id) & (window != IGNORED)
        has_overlap |= class_id != IGNORED and bool((other & patch.mask).any())
        window[patch.mask] = class_id
        painted |= patch.mask
    return Drawing(ids, (overlap,) if has_overlap else ())


def paint_polygons(size: tuple[int, int], polygons: Sequence[tuple[int, np.ndarray]]) -> Drawing:
    """A mask of (class id, points in pixels), smaller polygons over larger ones.

    Each is drawn twice, so that one is held in memory however many there are.
    """

    def draw(index: int) -> Patch:
        return draw_shape("polygon", polygons[index][1], size)

    areas = [np.count_nonzero(draw(index).mask) for index in range(len(polygons))]
    order = sorted(range(len(polygons)), key=lambda index: -areas[index])
    layers = ((polygons[index][0], draw(index)) for index in order)
    return paint(size, layers, SMALLER_ON_TOP)
