"""Predicts an image of any size by overlapping tiles, in memory that does not grow with its height.

Neighbouring tiles share OVERLAP pixels. At a tile's border the network sees less of what is around
a pixel, so the outer quarter of the overlap is not used. Over its inner half two tiles are blended:
their weights are linear and sum to 1. A finished block of probabilities
is handed out as soon as no later tile can change it.

    K classes   h,w pixels of a block
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cid_ray.data.ingest.tile_grid import cut_axis

TilePixels = Callable[[int, int, int, int], Tensor]  # (top, bottom, left, right) -> f32[K,h,w]


@dataclass(frozen=True)
class Block:
    """Probabilities f32[K, h, w] of a part of an image that begins at (top, left)."""

    top: int
    left: int
    probabilities: Tensor


@dataclass(frozen=True)
class BlendSpan:
    """A tile along one axis: what it predicts, what of it is used, and with which weight.

    Attributes:
        start: its first pixel.
        stop: after its last.
        first: the first pixel that is used.
        weights: f32 of the used pixels: ramps where it is blended with its neighbours.
        shared: used pixels that it shares with the next tile; 0 for the last one.
    """

    start: int
    stop: int
    first: int
    weights: Tensor
    shared: int

    @property
    def last(self) -> int:
        """After the last pixel that is used."""
        return self.first + len(self.weights)

    @property
    def used(self) -> slice:
        """The used pixels, counted from the tile's start."""
        return slice(self.first - self.start, self.last - self.start)


def blend_axis(length: int, tile: int, overlap: int) -> list[BlendSpan]:
    """The tiles along an axis of `length` pixels.

    Args:
        length: pixels of the image.
        tile: pixels of a tile.
        overlap: pixels that neighbours share at least; a multiple of 4, at most a third of a tile.

    Returns:
        Tiles in order. At each pixel the weights sum to 1, and at most two tiles are used.
    """
    spans = cut_axis(length, tile, overlap)
    ramp = overlap // 2
    rising = (torch.arange(ramp, dtype=torch.float32) + 0.5) / max(1, ramp)
    found = []
    for number, span in enumerate(spans):
        has_previous, has_next = number > 0, number < len(spans) - 1
        first = span.scored_start - ramp // 2 * has_previous
        last = span.scored_stop + ramp // 2 * has_next
        weights = torch.ones(last - first)
        if has_previous and ramp:
            weights[:ramp] *= rising
        if has_next and ramp:
            weights[-ramp:] *= rising.flip(0)
        found.append(BlendSpan(span.start, span.stop, first, weights, ramp if has_next else 0))
    return found


def predict_by_tiles(
    probabilities: TilePixels, size: tuple[int, int], tile: int, overlap: int
) -> Iterator[Block]:
    """Predict an image tile by tile, from its top to its bottom.

    Args:
        probabilities: predicts the tile of rows top to bottom - 1 and columns left to right - 1.
        size: (height, width) of the image.
        tile: side of a tile in pixels.
        overlap: as of `blend_axis`.

    Yields:
        Blocks that cover each pixel once.
    """
    across = blend_axis(size[1], tile, overlap)
    above: list[Tensor] = []  # of each block: what the row of tiles above adds to its first rows
    for row in blend_axis(size[0], tile, overlap):
        below: list[Tensor] = []
        left: Tensor | None = None  # what the former tile adds to the first columns
        for number, column in enumerate(across):
            probs = probabilities(row.start, row.stop, column.start, column.stop)
            part = probs[:, row.used, column.used]
            part = part * row.weights[:, None] * column.weights
            if left is not None:
                part[:, :, : left.shape[2]] += left
            finished = part.shape[2] - column.shared
            left, part = part[:, :, finished:], part[:, :, :finished]
            if above:
                part[:, : above[number].shape[1]] += above[number]
            done = part.shape[1] - row.shared
            if row.shared:
                below.append(part[:, done:].clone())  # else the whole part would stay in memory
            yield Block(row.first, column.first, part[:, :done])
        above = below
