"""Law: tiles cover an image, and each pixel is scored in the tile in which it is farthest from the
border. Reference: the distances of every pixel, counted one by one.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cid_ray.data.ingest.tile_grid import Span, cut_axis

AXES = st.integers(1, 60).flatmap(
    lambda size: st.tuples(st.integers(1, 300), st.just(size), st.integers(0, size - 1))
)


def depth(span: Span, pixel: int, length: int) -> int:
    """How far a pixel is from the nearest border of a tile that is not the image's border."""
    before = length if span.start == 0 else pixel - span.start
    behind = length if span.stop == length else span.stop - 1 - pixel
    return min(before, behind)


@given(AXES)
@example((100, 48, 8))
@example((49, 48, 47))
@example((48, 48, 0))
def test_tiles_cover_every_pixel_at_full_size(axis: tuple[int, int, int]) -> None:
    length, size, overlap = axis
    spans = cut_axis(length, size, overlap)
    covered = {pixel for span in spans for pixel in range(span.start, span.stop)}
    assert covered == set(range(length))
    assert {span.stop - span.start for span in spans} == {min(size, length)}
    starts = [span.start for span in spans]
    assert starts == sorted(set(starts))
    strides = {two - one for one, two in pairwise(starts[:-1])}
    assert strides <= {size - overlap}
    assert all(one.stop - two.start >= overlap for one, two in pairwise(spans))


@given(AXES)
@example((50, 48, 8))
def test_each_pixel_is_scored_once_where_it_has_most_context(axis: tuple[int, int, int]) -> None:
    length = axis[0]
    spans = cut_axis(*axis)
    scored = [pixel for span in spans for pixel in range(span.scored_start, span.scored_stop)]
    assert scored == list(range(length))
    for span in spans:
        assert span.start <= span.scored_start < span.scored_stop <= span.stop
        for pixel in range(span.scored_start, span.scored_stop):
            others = [tile for tile in spans if tile.start <= pixel < tile.stop]
            assert depth(span, pixel, length) == max(depth(tile, pixel, length) for tile in others)


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ((100, 48, 8), [(0, 48, 0, 44), (40, 88, 44, 70), (52, 100, 70, 100)]),
        ((96, 48, 0), [(0, 48, 0, 48), (48, 96, 48, 96)]),
        ((30, 48, 8), [(0, 30, 0, 30)]),
    ],
)
def test_spans_of_known_axes(
    axis: tuple[int, int, int], expected: list[tuple[int, int, int, int]]
) -> None:
    assert cut_axis(*axis) == [Span(*edges) for edges in expected]
