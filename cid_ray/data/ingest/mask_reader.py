"""How the pixels of a mask file become class ids.

Masks come as ids (single channel or palette), as one bit, or as colours. All become u8[H, W] ids.
What the colours of a set stand for is decided once for all its masks (`mask_survey.py`): one mask
alone may look like another code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from cid_ray.data.ingest.blur import EdgeCounts, count_edges
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.items import DrawnMask
from cid_ray.data.ingest.mask_colors import (
    CHANNELS,
    Color,
    ColorTable,
    UnmatchedColors,
    channel_ids,
    count_unmatched,
)
from cid_ray.data.ingest.mask_file import MaskPixels, read_pixels


@dataclass(frozen=True)
class ColorCode:
    """What the colours of a set's masks stand for."""

    channel: int | None = None  # of CHANNELS: ids are in it. None: colours are those of the classes
    void: tuple[Color, ...] = ()  # colours that mean "no label"
    palette_by_color: bool = False  # palette masks are colour masks: the index means nothing


@dataclass(frozen=True)
class MaskContent:
    """What was read of one mask."""

    ids: np.ndarray  # u8[H, W]
    unmatched: UnmatchedColors = field(default_factory=UnmatchedColors)
    changes: tuple[str, ...] = ()  # what was changed, each a noun phrase in the plural
    edges: EdgeCounts | None = None  # of ids before they are renumbered; None: colours, or drawn


class MaskReader:
    """Reads the masks of one import.

    Args:
        classes: their colours translate colour masks. Pixels of other colours are ignored.
        mappings: old id -> new id, applied one after the other: the format's own and `--map`.
        ignore_index: the id of pixels without a label.
        code: what the colours of colour masks stand for.
    """

    def __init__(
        self,
        classes: ClassList,
        mappings: Sequence[Mapping[int, int]],
        ignore_index: int,
        code: ColorCode | None = None,
    ):
        self.classes = classes
        self.ignore_index = ignore_index
        self.code = code or ColorCode()
        self._new_ids = np.arange(256, dtype=np.uint8)
        for mapping in mappings:
            step = np.arange(256, dtype=np.uint8)
            for old, new in mapping.items():
                step[old] = new
            self._new_ids = step[self._new_ids]

    def read(self, mask: Path | DrawnMask, size: tuple[int, int]) -> MaskContent:
        """Read a mask.

        Args:
            mask: an image file, or what draws the mask.
            size: (height, width) of its image; polygons are drawn at it.

        Raises:
            BadFile: it cannot be decoded, was compressed with loss, or its pixels are neither ids
                nor the classes' colours.
        """
        if isinstance(mask, DrawnMask):
            drawing = mask.draw(*size)
            return MaskContent(self._new_ids[drawing.ids], changes=drawing.changes)
        return self.read_file(mask)

    def read_file(self, path: Path) -> MaskContent:
        """Read a mask that is an image file."""
        content = self.ids_of(path, read_pixels(path))
        if content.unmatched.pixels == content.ids.size:
            raise BadFile(
                f"{path}: a colour mask without one pixel of the classes' colours; "
                "give the colours in the classes file (`name r g b`)"
            )
        return content

    def ids_of(self, path: Path, pixels: MaskPixels) -> MaskContent:
        """The class ids of a mask's pixels, or of a part of them.

        Args:
            path: the file, for messages.
            pixels: ids or colours.

        Raises:
            BadFile: it has colours where the other masks of the set have ids.
        """
        values = pixels.values
        if self.code.palette_by_color and pixels.palette is not None:
            values = pixels.palette[values]
        elif pixels.is_color and self.code.channel is not None:
            ids = channel_ids(values, self.code.channel)
            if ids is None:
                channel = CHANNELS[self.code.channel]
                raise BadFile(f"{path}: a colour mask, the others hold ids in {channel} alone")
            values = ids
        if values.dtype == np.uint8:
            edges = count_edges(values)
            return MaskContent(self._new_ids[values], changes=pixels.changes, edges=edges)
        ids, unmatched = self._color_table.ids(values, self.ignore_index)
        counts = count_unmatched(values, unmatched)
        return MaskContent(self._new_ids[ids], counts, pixels.changes)

    @cached_property
    def _color_table(self) -> ColorTable:
        # 16 MB that most sets do not need. Two threads may make it twice, which harms nothing.
        return ColorTable(self.classes.colors, self.code.void)
