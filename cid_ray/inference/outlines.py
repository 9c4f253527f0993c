"""A mask as polygons that a person can correct.

H,W pixels   N points of an outline
"""

from __future__ import annotations

import contourpy
import numpy as np
from scipy import ndimage

TOLERANCE = 1.0  # pixels: how far an outline may leave the border that it follows
MIN_AREA = 1e-4  # of the image: smaller regions get no outline
# Between an inner pixel (1) and an outer one (0), nearer to the inner one, whose coordinates are
# taken. labelme cuts coordinates to whole pixels and fills a polygon with its outline.
LEVEL = 0.9

Outline = tuple[int, np.ndarray]  # class id, points f64[N, 2] of (x, y), pixel centers are integers


def trace_outlines(classes: np.ndarray, tolerance: float = TOLERANCE) -> list[Outline]:
    """Polygons that give the mask when they are painted in order, later ones on top.

    The first is the whole image in its most frequent class. Then each connected region comes, the
    largest first, without its holes: what is in a hole is smaller, so it is painted later.

    Args:
        classes: u8[H, W].
        tolerance: in pixels, of the simplification.

    Example:
        >>> mask = np.zeros((40, 60), np.uint8)
        >>> mask[10:20, 10:30] = 3
        >>> [class_id for class_id, _ in trace_outlines(mask)]
        [0, 3]
    """
    height, width = classes.shape
    base = int(np.bincount(classes.ravel()).argmax())
    right, bottom = width - 1.0, height - 1.0
    whole = np.array([(0.0, 0.0), (right, 0.0), (right, bottom), (0.0, bottom)])
    regions: list[tuple[float, Outline]] = []
    for class_id in np.unique(classes).tolist():
        numbered, _ = ndimage.label(classes == class_id)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbered), start=1):
            region = numbered[rows, columns] == number
            if region.sum() < max(2, MIN_AREA * classes.size):
                continue
            points = _outer_border(region) + np.array([columns.start, rows.start])
            simple = simplify(points, tolerance)
            if len(simple) >= 3:
                regions.append((_area(points), (class_id, simple)))
    # The largest region of `base` may be what `whole` already is.
    regions.sort(key=lambda one: -one[0])
    return [(base, whole), *(outline for _, outline in regions)]


def _outer_border(region: np.ndarray) -> np.ndarray:
    """f64[N, 2]: the outermost pixels of a connected region bool[h, w]; holes have no outline."""
    padded = np.pad(region, 1).astype(np.float64)
    lines: list[np.ndarray] = contourpy.contour_generator(z=padded).lines(LEVEL)  # type: ignore
    return np.asarray(np.rint(max(lines, key=_area)) - 1)


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def simplify(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Points f64[n, 2] of a closed line, without those that it can spare.

    No point that is left out is farther than `tolerance` from the new line.

    Source: Douglas and Peucker 1973.
    """
    keep = np.zeros(len(points), bool)
    far = int(np.linalg.norm(points - points[0], axis=1).argmax())
    keep[[0, far]] = True
    waiting = [(0, far), (far, len(points) - 1)]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        inner = points[first + 1 : last]
        distances = _distance_to_segment(inner, points[first], points[last])
        worst = int(distances.argmax())
        if distances[worst] > tolerance:
            middle = first + 1 + worst
            keep[middle] = True
            waiting += [(first, middle), (middle, last)]
    return points[keep]


def _distance_to_segment(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    along = end - start
    length = float(along @ along)
    fraction = ((points - start) @ along / length).clip(0, 1) if length else np.zeros(len(points))
    return np.asarray(np.linalg.norm(points - start - fraction[:, None] * along, axis=1))
