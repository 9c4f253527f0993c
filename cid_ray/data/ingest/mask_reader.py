"""How the pixels of a mask file become class ids.

Masks come as ids (single channel or palette), as one bit, or as colours. All become u8[H, W] ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from cid_ray.data.image_codec import open_image
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.items import DrawnMask
from cid_ray.data.ingest.orientation import read_orientation, turn

ID_MODES = ("1", "L", "P", "I;16", "I")  # Pillow's modes of which a pixel is an id


@dataclass(frozen=True)
class MaskContent:
    """What was read of one mask."""

    ids: np.ndarray  # u8[H, W]
    unmatched: Counter[tuple[int, int, int]] = field(default_factory=Counter)  # colour -> pixels


class MaskReader:
    """Reads the masks of one import.

    Args:
        classes: their colours translate colour masks. Pixels of other colours are ignored.
        mappings: old id -> new id, applied one after the other: the format's own and `--map`.
        ignore_index: the id of pixels without a label.
    """

    def __init__(self, classes: ClassList, mappings: list[Mapping[int, int]], ignore_index: int):
        self.classes = classes
        self.ignore_index = ignore_index
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
            BadFile: it cannot be decoded, or its pixels are neither ids nor the classes' colours.
        """
        if isinstance(mask, DrawnMask):
            return MaskContent(self._new_ids[mask.draw(*size)])
        return self.read_file(mask)

    def read_file(self, path: Path) -> MaskContent:
        """Read a mask that is an image file."""
        try:
            # From a path Pillow would map some TIFFs into memory, and not turn those.
            with open_image(path.read_bytes()) as image:
                pixels = np.asarray(image if image.mode in ID_MODES else image.convert("RGB"))
                pixels = turn(pixels, read_orientation(image))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BadFile(f"{path}: unreadable mask ({error})") from None
        if pixels.ndim == 3:
            return MaskContent(self._new_ids[self._ids_of_colors(path, pixels)])
        if pixels.max(initial=0) > 255:
            raise BadFile(f"{path}: mask ids up to {pixels.max()}, must be below 256")
        return MaskContent(self._new_ids[pixels.astype(np.uint8)])

    def _ids_of_colors(self, path: Path, pixels: np.ndarray) -> np.ndarray:
        """u8[H, W]: the class ids of colours u8[H, W, 3]."""
        class_ids = np.full(pixels.shape[:2], self.ignore_index, np.uint8)
        for index, color in enumerate(self.classes.colors):
            class_ids[(pixels == color).all(-1)] = index
        if (class_ids == self.ignore_index).all():
            raise BadFile(
                f"{path}: a colour mask without one pixel of the classes' colours; "
                "give the colours in the classes file (`name r g b`)"
            )
        return class_ids
