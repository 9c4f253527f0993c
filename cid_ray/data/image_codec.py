"""Encoded bytes to pixels and back, and the colours that show class ids."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from cid_ray.data.band_image import Picture, decode_bands

# Pillow would also open EPS, for which it runs Ghostscript, and many formats that nobody tested.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM")


def open_image(source: bytes | Path, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open an image, encoded or in a file, of one of some formats, whatever its name ends with."""
    # A table's row may hold no bytes at all, which Pillow then cannot identify.
    return Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=formats)


def decode_image(encoded: bytes, num_channels: int = 3) -> Picture:
    """An image in RGB, or of another number of channels, decoded completely."""
    if num_channels != 3:
        return decode_bands(encoded, num_channels)
    image = open_image(encoded)
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()  # `convert` would copy the pixels
    return image


def encode_png(array: np.ndarray, palette: list[list[int]] | None = None) -> bytes:
    """PNG bytes of a u8 array [H, W] or [H, W, 3].

    With a palette [[r, g, b], ...] the values are stored as indices into it.
    """
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette([value for color in palette for value in color])
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def shrink(image: Image.Image, side: int) -> Image.Image:
    """An image whose longer side has at most `side` pixels, by the mean of the pixels."""
    if max(image.size) <= side:
        return image
    width, height = (max(1, round(length * side / max(image.size))) for length in image.size)
    return image.resize((width, height), Image.Resampling.BOX, reducing_gap=3.0)


def resize_nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask u8[H, W] at another (width, height): no class id is mixed with its neighbour's."""
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def default_colors(count: int) -> list[list[int]]:
    """[r, g, b] of `count` classes: PASCAL VOC's colour map without its black.

    The bits of the index are spread over the three channels, so the colours are distinct.
    """
    colors = []
    for index in range(1, count + 1):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append(color)
    return colors
