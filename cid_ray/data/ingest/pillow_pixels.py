"""The exact pixels of an open Pillow image, and what `read_pixels` gives for any file."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cid_ray.data.image_codec import open_image
from cid_ray.data.ingest.findings import Note
from cid_ray.data.ingest.orientation import UPRIGHT

DEEP_GREY = ("I;16", "I;16B", "I;16L", "I", "F")  # Pillow's modes of more than 8 bits
COLORS_16 = re.compile(r"(RGB|RGBA|RGBX);16[BLN]")  # Pillow's raw modes of 16-bit colours
TRANSPARENCY = Note("images with transparency, of which the colours alone are used")
CMYK = Note("CMYK images, converted to RGB without a colour profile")


class UnusablePixels(ValueError):
    """The file is whole, and its pixels are no image for this program. The message says why."""


@dataclass(frozen=True)
class PixelArray:
    """The pixels of one file, turned upright.

    Attributes:
        values: [H, W] or [H, W, C] in the file's own dtype. The last channel may be alpha.
        has_alpha: whether it is.
        white_is_low: whether the smallest value is white (a TIFF's MinIsWhite).
        orientation: the EXIF orientation that was applied, 1 for none.
        pages: how many pages or frames the file has. These are the pixels of the first.
        invalid: the file's own value for "no data", if it names one.
        is_plain: whether Pillow's RGB of the file's bytes are these very pixels.
        notes: what was lost or guessed.
    """

    values: np.ndarray
    has_alpha: bool = False
    white_is_low: bool = False
    orientation: int = UPRIGHT
    pages: int = 1
    invalid: float | None = None
    is_plain: bool = False
    notes: tuple[Note, ...] = ()

    @property
    def num_colors(self) -> int:
        """C without alpha, 1 for [H, W]."""
        return 1 if self.values.ndim == 2 else self.values.shape[2] - self.has_alpha

    @property
    def colors(self) -> np.ndarray:
        """Grey [H, W] or RGB [H, W, 3]: the values without alpha and without a fourth colour."""
        if self.values.ndim == 2:
            return self.values
        return self.values[..., 0] if self.num_colors == 1 else self.values[..., :3]

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) of the file's own rows, before they were turned."""
        height, width = self.values.shape[:2]
        return (width, height) if self.orientation >= 5 else (height, width)

    @property
    def is_deep(self) -> bool:
        """Whether the values are not 0..255 and need a window to become so."""
        return self.values.dtype != np.uint8


def check_size(width: int, height: int, max_pixels: int) -> None:
    """UnusablePixels for an image of more pixels, or of none."""
    if width * height == 0:
        raise UnusablePixels(f"{width} x {height} pixels: nothing to see")
    if width * height > max_pixels:
        raise UnusablePixels(f"{width} x {height} pixels is more than {max_pixels:,}")


def read_deep(encoded: bytes, image: Image.Image) -> PixelArray | None:
    """The pixels of an open image of more than 8 bits a sample; None for 8 bits or fewer."""
    raw_mode = raw_mode_of(image)
    if COLORS_16.fullmatch(raw_mode) or raw_mode == "LA;16B":
        values = read_16_bit_colors(encoded, raw_mode)
        has_alpha = values.shape[2] in (2, 4)
        return PixelArray(values, has_alpha, notes=note_transparency(image, values, has_alpha))
    if image.mode in DEEP_GREY:
        values = np.asarray(image)
        # Pillow 10 opens a 16-bit PNG as 32 bits.
        is_16 = raw_mode in ("I;16", "I;16B", "I;16N")
        own = np.dtype(np.uint16) if is_16 else values.dtype.newbyteorder("=")
        native = values.astype(own, copy=False)
        return PixelArray(native, notes=note_transparency(image, native, has_alpha=False))
    return None


def read_8_bits(image: Image.Image) -> PixelArray:
    """The pixels of an open image of at most 8 bits a sample, as Pillow decodes them."""
    # Pillow would warn at each decoding of a transparent palette.
    transparent_palette = image.mode == "P" and "transparency" in image.info
    is_plain = not transparent_palette
    if image.mode == "CMYK":
        return PixelArray(np.asarray(image.convert("RGB")), is_plain=is_plain, notes=(CMYK,))
    has_alpha = image.mode in ("LA", "RGBA") or transparent_palette
    if transparent_palette:
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "LA", "RGBA"):
        image = image.convert("RGB")
    values = np.asarray(image)
    notes = note_transparency(image, values, has_alpha)
    return PixelArray(values, has_alpha, is_plain=is_plain, notes=notes)


def note_transparency(image: Image.Image, values: np.ndarray, has_alpha: bool) -> tuple[Note, ...]:
    """A note if something is transparent: opaque alpha is dropped without loss."""
    if has_alpha:
        is_transparent = values[..., -1].min() < np.iinfo(values.dtype).max
    else:
        is_transparent = "transparency" in image.info  # one colour of all
    return (TRANSPARENCY,) if is_transparent else ()


def raw_mode_of(image: Image.Image) -> str:
    """What Pillow calls the file's own samples: "RGB;16B" where `mode` says "RGB"."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def read_16_bit_colors(encoded: bytes, raw_mode: str) -> np.ndarray:
    """u16[H, W, C] of an image of which Pillow would keep one byte a sample.

    Pillow has no mode for such pixels. But it decodes the same data once as the first and once as
    the second bytes.
    """
    if raw_mode == "LA;16B":
        pair = _decode_as(encoded, "RGBA")  # four bytes a pixel: two of grey, two of alpha
        first, second = pair[..., 0::2], pair[..., 1::2]
    else:
        channels = raw_mode.partition(";")[0]
        first = _decode_as(encoded, f"{channels};16B")
        second = _decode_as(encoded, f"{channels};16L")
    big_endian = raw_mode.endswith("B") or (raw_mode.endswith("N") and sys.byteorder == "big")
    high, low = (first, second) if big_endian else (second, first)
    values = high.astype(np.uint16)
    values <<= 8
    values |= low
    return values


def _decode_as(encoded: bytes, raw_mode: str) -> np.ndarray:
    """u8[H, W, C] of the file's samples, unpacked as another raw mode of equal size."""
    with open_image(encoded) as image:
        tiles = []
        for codec, box, offset, arguments in image.tile:  # type: ignore[attr-defined]
            is_tuple = isinstance(arguments, tuple)
            changed = (raw_mode, *arguments[1:]) if is_tuple else raw_mode
            tiles.append((codec, box, offset, changed))
        image.tile = tiles  # type: ignore[attr-defined]
        return np.asarray(image)
