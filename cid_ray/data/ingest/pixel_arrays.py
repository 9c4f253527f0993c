"""The pixels of one image file as an array of the file's own values, whatever its format.

Pillow alone would lose some without a word: it keeps 8 of the 16 bits of a colour PNG or TIFF,
rescales a PGM, and opens no TIFF of float colours. Here every value is the file's own.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from PIL import Image

from cid_ray.data.image_codec import open_image
from cid_ray.data.ingest.netpbm import netpbm_maxval, read_netpbm
from cid_ray.data.ingest.orientation import UPRIGHT, read_orientation, turn
from cid_ray.data.ingest.pillow_pixels import (
    DEEP_GREY,
    PixelArray,
    UnusablePixels,
    check_size,
    raw_mode_of,
    read_8_bits,
    read_deep,
)
from cid_ray.data.ingest.tiff import is_deep_tiff, read_tiff

__all__ = [
    "DECODE_ERRORS",
    "MAX_PIXELS",
    "PixelArray",
    "UnusablePixels",
    "count_pixels",
    "is_deep",
    "read_pixels",
]

# A larger image is a decompression bomb or a mistake. Pillow itself refuses from 179 million on.
MAX_PIXELS = 150_000_000
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
# What Pillow raises on damaged files, its own errors among them.
DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError),
    Image.DecompressionBombError,
)
HEAD_BYTES = 4096  # has the depth of a PNM, whose comments are short


def read_pixels(source: bytes | Path, max_pixels: int = MAX_PIXELS) -> PixelArray:
    """Decode an image completely.

    Args:
        source: the encoded image, or its file.
        max_pixels: a larger image is refused before it is decoded.

    Raises:
        UnusablePixels: it is too large, or of a kind that has no RGB or grey pixels.
        Exception: one of DECODE_ERRORS, it is damaged or no image.

    Example:
        >>> pixels = read_pixels(Path("scan.tif"))
        >>> pixels.values.dtype, pixels.values.shape, pixels.pages
        (dtype('uint16'), (512, 512), 40)
    """
    encoded = source if isinstance(source, bytes) else source.read_bytes()
    if encoded.startswith(TIFF_STARTS):
        return read_tiff(encoded, max_pixels)
    with open_image(encoded) as image:
        check_size(image.width, image.height, max_pixels)
        if image.format == "PPM" and netpbm_maxval(encoded) > 255:
            return PixelArray(read_netpbm(encoded))
        found = read_deep(encoded, image) or read_8_bits(image)
        orientation = read_orientation(image)  # decodes a PNG, so `read_deep` comes first
        pages = getattr(image, "n_frames", 1)
    return replace(
        found,
        values=turn(found.values, orientation),
        orientation=orientation,
        pages=pages,
        is_plain=found.is_plain and orientation == UPRIGHT and pages == 1,
    )


def is_deep(source: Path) -> bool:
    """Whether a file has more than 8 bits a channel. Only its header is read.

    False for what is no image: the import names it when it reads the file.
    """
    try:
        with source.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if head.startswith(TIFF_STARTS):
            return is_deep_tiff(source)
        with open_image(source) as image:
            deep = image.mode in DEEP_GREY or ";16" in raw_mode_of(image)
            return deep or (image.format == "PPM" and netpbm_maxval(head) > 255)
    except DECODE_ERRORS:
        return False


def count_pixels(source: Path) -> int:
    """How many pixels a file has, by its header; 0 if Pillow does not open it."""
    try:
        with warnings.catch_warnings():  # Pillow warns from half of its own limit on
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with open_image(source) as image:
                return image.width * image.height
    except Image.DecompressionBombError:
        return MAX_PIXELS + 1
    except DECODE_ERRORS:
        return 0
