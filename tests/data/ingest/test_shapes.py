"""Law: a shape covers the pixels that Pillow draws on the whole image, and later layers are on top.

Reference: Pillow's ImageDraw with float coordinates, which labelme's `shape_to_mask` calls.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from cid_ray.data.ingest.shapes import (
    IGNORED,
    SMALLER_ON_TOP,
    Kind,
    Patch,
    draw_shape,
    paint,
    paint_polygons,
    reaches_outside,
    to_points,
)
from tests.helpers.fuzzing import fuzz

SIZE = (20, 30)
coordinates = st.floats(-15, 45, allow_nan=False).map(lambda value: round(value, 2))
points = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=9)


def on_whole_image(patch: Patch) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[patch.window] = patch.mask
    return mask


@fuzz(4)
@given(points=points)
@example(points=[(0.0, 1.0), (0.0, 3.0), (1.0, 0.0)])  # Pillow 10 draws beyond its corners
@example(points=[(10, 41), (5, 40), (14, 10), (18, -9), (5, 10), (6, 8)])
@example(points=[(6, 25), (4, -3), (41, 1), (43, 31), (30, 40), (13, 43), (21, 3)])
def test_polygon_has_pixels_of_pillow(points: list[tuple[float, float]]) -> None:
    image = Image.new("L", SIZE[::-1])
    ImageDraw.Draw(image).polygon(points, fill=1, outline=1)
    patch = draw_shape("polygon", np.array(points), SIZE)
    np.testing.assert_array_equal(on_whole_image(patch), np.asarray(image, bool))


@fuzz(2)
@given(corners=st.tuples(coordinates, coordinates, coordinates, coordinates))
@pytest.mark.parametrize("kind", ["ellipse", "rectangle"])
def test_box_has_pixels_of_pillow(kind: Kind, corners: tuple[float, ...]) -> None:
    given_points = np.array(corners).reshape(2, 2)
    low, high = given_points.min(0), given_points.max(0)
    image = Image.new("L", SIZE[::-1])
    draw = ImageDraw.Draw(image)
    getattr(draw, kind)([*low.tolist(), *high.tolist()], fill=1, outline=1)
    patch = draw_shape(kind, given_points, SIZE)
    np.testing.assert_array_equal(on_whole_image(patch), np.asarray(image, bool))


def test_rectangle_includes_its_last_row_and_column() -> None:
    patch = draw_shape("rectangle", np.array([[4.9, 2.2], [7.9, 3.1]]), SIZE)
    expected = np.zeros(SIZE, bool)
    expected[2:4, 4:8] = True
    np.testing.assert_array_equal(on_whole_image(patch), expected)


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def test_later_layer_is_on_top_and_overlap_is_told() -> None:
    layers = [(1, draw_shape("polygon", box(0, 0, 9, 9), SIZE))]
    layers.append((2, draw_shape("polygon", box(5, 5, 12, 12), SIZE)))
    drawing = paint(SIZE, layers, "overlaps")
    assert drawing.changes == ("overlaps",)
    assert np.bincount(drawing.ids.ravel()).tolist() == [600 - 139, 75, 64]
    assert paint(SIZE, layers[:1]).changes == ()


def test_same_class_or_no_label_is_no_overlap() -> None:
    patch = draw_shape("polygon", box(0, 0, 9, 9), SIZE)
    assert paint(SIZE, [(1, patch), (1, patch)]).changes == ()
    assert paint(SIZE, [(IGNORED, patch), (1, patch)]).changes == ()
    assert paint(SIZE, [(1, patch), (IGNORED, patch)]).changes == ()


def test_pixels_of_no_layer_are_background() -> None:
    assert np.unique(paint(SIZE, [], background=IGNORED).ids).tolist() == [IGNORED]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_smaller_polygon_is_on_top_whatever_the_order(order: tuple[int, int]) -> None:
    polygons = [(1, box(2, 2, 5, 5)), (2, box(0, 0, 9, 9))]
    drawing = paint_polygons(SIZE, [polygons[index] for index in order])
    assert drawing.ids[3, 3] == 1
    assert np.bincount(drawing.ids.ravel()).tolist() == [500, 16, 84]
    assert drawing.changes == (SMALLER_ON_TOP,)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ("12", "no list"),
        ([1, 2, 3], "3 coordinates"),
        ([[1, 2], [3]], r"not \[x, y\]"),
        ([[1, 2], 3], r"not \[x, y\]"),
        ([1, "2"], "not a number"),
        ([True, 2], "not a number"),
        ([1, float("nan")], "no finite number"),
        ([1, float("inf")], "no finite number"),
        ([1, 1e9], "no finite number"),
        ([1, 10**400], "too large"),
        ([0] * 200_002, "at most 100,000 points"),
    ],
)
def test_points_that_cannot_be_drawn_are_refused(values: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        to_points(values)


def test_points_are_pairs_or_one_list() -> None:
    np.testing.assert_array_equal(to_points([[1, 2], [3.5, 4]]), to_points([1, 2, 3.5, 4]))


def test_points_on_the_border_are_inside() -> None:
    assert not reaches_outside(box(0, 0, 30, 20), SIZE)
    assert reaches_outside(box(0, 0, 31, 20), SIZE)
    assert reaches_outside(box(-1, 0, 3, 3), SIZE)
