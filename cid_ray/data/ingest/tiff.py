"""The pixels of a TIFF file: by Pillow where it reads ordinary 8-bit ones, else by tifffile.

TIFF is a family: any number type, any number of channels and pages. Pillow opens 16-bit colours as
8 bits and neither float colours nor planes of more than four channels; tifffile opens all. Without
the package imagecodecs tifffile decompresses deflate, LZMA and PackBits alone, so LZW and others
come from Pillow's libtiff where it gives exact values.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import UnidentifiedImageError
from tifffile import PHOTOMETRIC, TiffFile, TiffFrame, TiffPage

from cid_ray.data.image_codec import open_image
from cid_ray.data.ingest.findings import Note
from cid_ray.data.ingest.orientation import TAG, TURNS, UPRIGHT, turn
from cid_ray.data.ingest.pillow_pixels import (
    COLORS_16,
    DEEP_GREY,
    PixelArray,
    UnusablePixels,
    check_size,
    raw_mode_of,
    read_8_bits,
    read_16_bit_colors,
)

NO_DATA_TAG = 42113  # GDAL's
ALPHA = (1, 2)  # TIFF's ExtraSamples: associated and unassociated alpha
REDUCED_OR_MASK = 1 | 4  # bits of TIFF's NewSubfileType
COLOR = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB)
CODECS_HINT = "install the package that reads it: pip install 'cid_ray[tiff]'"
GUESSED_RGB = Note(
    "TIFF files that do not say what their three channels are, read as red, green, blue",
    kind="guessed",
)


def read_tiff(encoded: bytes, max_pixels: int) -> PixelArray:
    """Decode the first page; see `read_pixels`."""
    with _open(io.BytesIO(encoded)) as file:
        try:
            page = _first_page(file)
            check_size(page.imagewidth, page.imagelength, max_pixels)
            orientation = orientation_of(page)
            pages = _count_pages(file)
        except UnusablePixels:
            raise
        except Exception as error:  # tifffile raises whatever the damage causes
            raise ValueError(f"damaged TIFF: {error}") from None
        if _is_for_pillow(page):
            plain = _read_8_bits(encoded, orientation, pages)
            if plain is not None:
                return plain
        return _read_any(encoded, page, orientation, pages)


def is_deep_tiff(path: Path) -> bool:
    """Whether the first page has values that are not 0..255; ValueError if it is damaged."""
    try:
        with path.open("rb") as stream, _open(stream) as file:
            return _first_page(file).dtype not in (np.dtype(np.uint8), np.dtype(bool))
    except Exception as error:
        raise ValueError(f"damaged TIFF: {error}") from None


def _open(stream: BinaryIO) -> TiffFile:
    try:
        return TiffFile(stream)
    except Exception as error:
        raise ValueError(f"damaged TIFF: {error}") from None


def _first_page(file: TiffFile) -> TiffPage:
    page = file.pages[0]
    assert isinstance(page, TiffPage)
    return page


def orientation_of(page: TiffPage) -> int:
    """The orientation that turns the page upright, 1 for none."""
    orientation = int(page.tags.valueof(TAG, UPRIGHT))
    return orientation if orientation in TURNS else UPRIGHT


def no_data_of(page: TiffPage) -> float | None:
    """GDAL's text for the value of pixels without data."""
    text = page.tags.valueof(NO_DATA_TAG)
    try:
        return float(str(text).strip("\0 ")) if text is not None else None
    except ValueError:
        return None


def check_complete(page: TiffPage | TiffFrame) -> None:
    """ValueError for a page with fewer strips or tiles than its size needs: zeros would fill it."""
    assert page.keyframe is not None, "tifffile sets it for every page that it lists"
    needed = math.prod(page.keyframe.chunked)
    if len(page.dataoffsets) < needed:
        raise ValueError(f"damaged TIFF: it has {len(page.dataoffsets)} of {needed} parts")


def is_extra_page(page: TiffPage | TiffFrame) -> bool:
    """Whether a page is a smaller copy or a mask of another."""
    return bool(getattr(page, "subfiletype", 0) & REDUCED_OR_MASK)


def _count_pages(file: TiffFile) -> int:
    """How many images the file has, without smaller copies and masks."""
    count = 1 + sum(not is_extra_page(page) for page in list(file.pages)[1:])
    # ImageJ writes one page and all images of a large stack behind it.
    stacked = (file.imagej_metadata or {}).get("images", 1)
    return max(count, int(stacked))


def _is_for_pillow(page: TiffPage) -> bool:
    """Whether these are 8 bits or fewer, of channels that Pillow names."""
    if page.dtype not in (np.dtype(np.uint8), np.dtype(bool)):
        return False
    extra = page.extrasamples
    return not extra or (len(extra) == 1 and extra[0] in ALPHA)


def _read_8_bits(encoded: bytes, orientation: int, pages: int) -> PixelArray | None:
    """By Pillow, None if it does not know this kind."""
    try:
        image = open_image(encoded)
    except UnidentifiedImageError:
        return None
    with image:
        image.load()  # turns the pixels by their orientation
        found = read_8_bits(image)
    is_plain = found.is_plain and orientation == UPRIGHT and pages == 1
    return replace(found, orientation=orientation, pages=pages, is_plain=is_plain)


def _read_any(encoded: bytes, page: TiffPage, orientation: int, pages: int) -> PixelArray:
    """By tifffile, or where it has no decompressor by Pillow."""
    dtype = page.dtype
    if dtype is None or dtype.kind not in "buif":
        raise UnusablePixels(f"its pixels are {dtype}, must be whole numbers or floats")
    if page.photometric not in COLOR:
        kind = getattr(page.photometric, "name", page.photometric)
        raise UnusablePixels(f"its pixels are {kind} of {dtype}; save them as RGB or grey")
    if page.axes not in ("YX", "YXS", "SYX"):
        raise UnusablePixels(f"its pages have the axes {page.axes}, must be flat images")
    values = _decode(encoded, page, orientation).astype(dtype.newbyteorder("="), copy=False)
    has_alpha = page.extrasamples[-1:] in ((1,), (2,))
    white_is_low = page.photometric == PHOTOMETRIC.MINISWHITE
    if white_is_low and dtype == np.uint8:
        values = 255 - values
        white_is_low = False
    notes = []
    if values.ndim == 3 and values.shape[2] == 3 and page.photometric != PHOTOMETRIC.RGB:
        notes.append(GUESSED_RGB)
    return PixelArray(
        values, has_alpha, white_is_low, orientation, pages, no_data_of(page), notes=tuple(notes)
    )


def _decode(encoded: bytes, page: TiffPage, orientation: int) -> np.ndarray:
    """[H, W] or [H, W, C], turned upright."""
    check_complete(page)
    try:
        values = page.asarray()
    except Exception as error:
        if "imagecodecs" not in str(error):
            raise ValueError(f"damaged TIFF: {error}") from None
        values_of_pillow = _decode_by_pillow(encoded, page)
        if values_of_pillow is None:
            compression = getattr(page.compression, "name", page.compression)
            raise UnusablePixels(
                f"a TIFF of {page.dtype} compressed by {compression}; {CODECS_HINT}"
            ) from None
        return values_of_pillow
    if values.shape != page.shape:  # empty where the header names no data
        raise ValueError(f"damaged TIFF: pixels of shape {values.shape}, must be {page.shape}")
    if page.axes == "SYX":  # a plane for each channel
        values = values.transpose(1, 2, 0)
    return turn(values, orientation)


def _decode_by_pillow(encoded: bytes, page: TiffPage) -> np.ndarray | None:
    """The exact values, turned upright; None where Pillow does not have them."""
    try:
        image = open_image(encoded)
    except UnidentifiedImageError:
        return None
    with image:
        raw_mode = raw_mode_of(image)
        if COLORS_16.fullmatch(raw_mode) and page.planarconfig == 1:
            return read_16_bit_colors(encoded, raw_mode)
        if image.mode in DEEP_GREY:
            return np.asarray(image)
    return None
