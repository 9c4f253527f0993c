"""Law: tiles cover each pixel once, and where they predict the same the result is that."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cid_ray.inference.tiles import blend_axis, predict_by_tiles

sides = st.integers(1, 300)
tiles = st.sampled_from([(32, 8), (48, 16), (64, 0), (33, 4)])  # side, overlap


@given(length=sides, tile=tiles)
def test_weights_sum_to_one_and_at_most_two_tiles_share_a_pixel(
    length: int, tile: tuple[int, int]
) -> None:
    total, count = torch.zeros(length), torch.zeros(length)
    for span in blend_axis(length, *tile):
        assert span.start <= span.first < span.last <= span.stop
        total[span.first : span.last] += span.weights
        count[span.first : span.last] += 1
    assert torch.allclose(total, torch.ones(length)) and count.max() <= 2


@given(height=sides, width=sides, tile=tiles)
def test_blocks_cover_each_pixel_once_with_its_own_value(
    height: int, width: int, tile: tuple[int, int]
) -> None:
    whole = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    found, count = torch.zeros_like(whole), torch.zeros(height, width)

    def cut(top: int, bottom: int, left: int, right: int) -> torch.Tensor:
        return whole[:, top:bottom, left:right]

    for block in predict_by_tiles(cut, (height, width), *tile):
        rows, columns = block.probabilities.shape[1:]
        area = (slice(block.top, block.top + rows), slice(block.left, block.left + columns))
        found[:, *area] = block.probabilities
        count[area] += 1
    assert (count == 1).all()
    assert torch.allclose(found, whole, atol=1e-6)


@pytest.mark.parametrize("tile", [96, 128, 160])
def test_border_of_a_tile_is_not_used(tile: int) -> None:
    """What a network says of pixels at a tile's edge, an eighth of the overlap, changes nothing."""
    overlap = 32

    def disturbed(top: int, bottom: int, left: int, right: int) -> torch.Tensor:
        probs = torch.full((1, bottom - top, right - left), 99.0)
        edge = overlap // 4
        rows = slice(edge if top else 0, bottom - top - edge if bottom < 300 else None)
        columns = slice(edge if left else 0, right - left - edge if right < 400 else None)
        probs[:, rows, columns] = 1.0
        return probs

    for block in predict_by_tiles(disturbed, (300, 400), tile, overlap):
        assert torch.allclose(block.probabilities, torch.ones(1), atol=1e-6)
