"""The id of a tile: the id of its image, and where the tile starts in it.

In a table that was imported with `--tile`, every row is a tile and has such an id. An image that is
not larger than a tile is one tile at 0, 0.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

PATTERN = r"(?P<image_id>.+)@y(?P<y>[0-9]+)_x(?P<x>[0-9]+)"  # for Python and for Arrow
TILE_ID = re.compile(PATTERN, re.DOTALL)


class TileOrigin(NamedTuple):
    """The image of a tile, and the tile's first row and column in it, in pixels."""

    image_id: str
    y: int
    x: int


def format_tile_id(image_id: str, y: int, x: int) -> str:
    """The id of a tile, which is also safe as the name of a file.

    Example:
        >>> format_tile_id("train/field", 512, 0)
        'train/field@y512_x0'
    """
    return f"{image_id}@y{y}_x{x}"


def parse_tile_id(tile_id: str) -> TileOrigin:
    """The image and origin that an id names.

    Raises:
        ValueError: it is not the id of a tile.

    Example:
        >>> parse_tile_id("train/field@y512_x0")
        TileOrigin(image_id='train/field', y=512, x=0)
    """
    found = TILE_ID.fullmatch(tile_id)
    if found is None:
        raise ValueError(f"{tile_id[:200]!r} is not the id of a tile, IMAGE@yROW_xCOLUMN")
    return TileOrigin(found["image_id"], int(found["y"]), int(found["x"]))


def check_tile_ids(ids: pa.ChunkedArray) -> None:
    """Raise ValueError unless every id of a table's index is the id of a tile."""
    is_tile = pc.match_substring_regex(ids, f"(?s)^(?:{PATTERN})$")
    if not pc.all(is_tile).as_py():
        parse_tile_id(ids.filter(pc.invert(is_tile))[0].as_py())
