"""Law of outlines: painted in order as labelme does it, they give the mask again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cid_ray
from cid_ray.data.ingest.shapes import draw_shape, paint
from cid_ray.inference.outlines import MIN_AREA, simplify, trace_outlines


def repainted(mask: np.ndarray, tolerance: float) -> np.ndarray:
    outlines = trace_outlines(mask, tolerance)
    layers = [(class_id, draw_shape("polygon", p, mask.shape)) for class_id, p in outlines]
    return paint(mask.shape, layers).ids


def test_nested_regions_holes_and_islands() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[5:55, 5:75] = 1
    mask[15:45, 15:65] = 0  # a hole of 1, in the class around it
    mask[20:40, 20:60] = 2
    mask[25:35, 30:50] = 1
    assert np.array_equal(repainted(mask, 0.0), mask)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_blocks_are_exact(seed: int, cell: int) -> None:
    blocks = np.random.default_rng(seed).integers(0, 3, (8, 9), dtype=np.uint8)
    mask = np.kron(blocks, np.ones((cell, cell), np.uint8))
    # Blocks that touch at corners alone are regions of their own.
    assert (repainted(mask, 0.0) == mask).mean() > 0.97


@pytest.mark.parametrize(("tolerance", "least"), [(0.0, 0.99), (1.0, 0.95)])
def test_masks_of_pictures(tolerance: float, least: float) -> None:
    table = cid_ray.open_table("demo")
    for row in table.rows("val")[:6].tolist():
        mask = table.mask(row)
        same = (repainted(mask, tolerance) == mask).mean()
        assert same > least
    points = sum(len(points) for _, points in trace_outlines(mask, tolerance))
    assert points < 1200


def test_specks_have_no_outline_and_one_class_is_the_whole_image() -> None:
    mask = np.full((200, 300), 4, np.uint8)
    ((class_id, whole), *_) = trace_outlines(mask)
    assert class_id == 4 and whole.tolist() == [[0, 0], [299, 0], [299, 199], [0, 199]]
    mask[50, 50:53] = 1  # 3 of 60,000 pixels
    mask[100:110, 100:110] = 2
    assert mask.size * MIN_AREA > 3
    assert {class_id for class_id, _ in trace_outlines(mask)} == {4, 2}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 3))
def test_simplified_lines_stay_near(seed: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 60))
    radius = rng.uniform(15, 20, 60)
    line = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    line = np.concatenate([line, line[:1]])
    simple = simplify(line, tolerance)
    closed = np.concatenate([simple, simple[:1]])
    for point in line:
        distances = []
        for start, end in itertools.pairwise(closed):
            along = end - start
            at = np.clip((point - start) @ along / max(along @ along, 1e-12), 0, 1)
            distances.append(np.linalg.norm(point - start - at * along))
        assert min(distances) <= tolerance + 1e-9
    assert len(simple) <= len(line)
