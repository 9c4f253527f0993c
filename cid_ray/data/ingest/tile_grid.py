"""Where the tiles of an image lie, and which pixels of each are scored in evaluation.

Tiles have the stride SIZE - OVERLAP. The last one is moved back to end at the border, so no pixel
is left out, and every tile has the full size where the image has it.

A pixel in several tiles is scored in that in which it is farthest from the border: its neighbour
sees less of what is around the pixel. Rows and columns are decided each by itself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """The pixels start to stop - 1 of a tile along one axis, and those that it is scored on."""

    start: int
    stop: int
    scored_start: int
    scored_stop: int

    @property
    def scored(self) -> slice:
        """The scored pixels, counted from the tile's start."""
        return slice(self.scored_start - self.start, self.scored_stop - self.start)


def cut_axis(length: int, size: int, overlap: int) -> list[Span]:
    """The tiles along an axis of `length` pixels.

    Args:
        length: pixels of the image, at least 1.
        size: pixels of a tile, at least 1.
        overlap: pixels that neighbours share at least, less than `size`.

    Returns:
        The spans in order. Their scored parts meet halfway through each overlap, and cover the axis
        without sharing a pixel.

    Example:
        >>> [(span.start, span.stop) for span in cut_axis(100, 48, 8)]
        [(0, 48), (40, 88), (52, 100)]
    """
    starts = [0]
    if length > size:
        starts = [*range(0, length - size, size - overlap), length - size]
    stops = [min(start + size, length) for start in starts]
    halfway = [(stop + start) // 2 for stop, start in zip(stops, starts[1:], strict=False)]
    return [
        Span(*edges) for edges in zip(starts, stops, [0, *halfway], [*halfway, length], strict=True)
    ]
