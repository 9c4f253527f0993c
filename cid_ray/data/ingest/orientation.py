"""The orientation that a camera wrote into an image file (EXIF), and pixels turned by it.

A camera stores its sensor's rows as they are and a number that says how to turn them. Viewers turn
the picture; a decoder does not.
Source: EXIF 2.32, tag 274; TIFF 6.0 has the same tag.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

TAG = 274
UPRIGHT = 1
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),  # clockwise
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


def read_orientation(image: Image.Image) -> int:
    """1..8 by the EXIF of an open image, to `turn` its pixels by. 1: upright, or not said.

    Of a TIFF always 1: Pillow turns its pixels when it decodes them from bytes.
    """
    if image.format == "TIFF":
        return UPRIGHT
    try:
        value = image.getexif().get(TAG)
    except Exception:  # Pillow raises whatever the damage causes; the pixels may be whole
        return UPRIGHT
    return int(value) if value in TURNS else UPRIGHT


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H, W, ...] as a viewer shows them: a view, [W, H, ...] for orientation 5 to 8."""
    return TURNS[orientation](pixels) if orientation in TURNS else pixels
