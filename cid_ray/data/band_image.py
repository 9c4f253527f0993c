"""Images of 1 or of 4 to 16 channels ("bands"): satellites, microscopes, depth cameras.

Three channels are a PIL image, which decodes, resizes and stores them fastest. Pillow has no image
of five channels, so any other number is a `BandImage`: it has those methods of a PIL image that
loader and cache call, and resizes each band by Pillow.

A table stores it as a TIFF of one page, compressed by zlib: lossless, read by tifffile without its
codecs of C, and GIS programs open it too.

    C bands   H, W pixels   planes u8[C, H, W]
"""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np
from PIL import Image

MAX_CHANNELS = 16
# A larger image is a decompression bomb or a mistake: as many bytes as the largest RGB image.
MAX_VALUES = 3 * 150_000_000

# What it would log is in the errors that are raised.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class BandImage:
    """An image of C bands u8[C, H, W].

    `np.asarray(image)` is u8[H, W, C], as of a PIL image.

    Args:
        planes: u8[C, H, W].

    Raises:
        ValueError: another type or shape, or more than MAX_CHANNELS bands.

    Example:
        >>> image = BandImage(np.zeros((5, 24, 32), np.uint8))
        >>> image.resize((16, 12)).size, np.asarray(image).shape
        ((16, 12), (24, 32, 5))
    """

    def __init__(self, planes: np.ndarray):
        if planes.ndim != 3 or planes.dtype != np.uint8 or not 1 <= len(planes) <= MAX_CHANNELS:
            raise ValueError(f"bands must be u8[1..{MAX_CHANNELS}, H, W], not {describe(planes)}")
        self.planes = np.ascontiguousarray(planes)

    @property
    def height(self) -> int:
        return int(self.planes.shape[1])

    @property
    def width(self) -> int:
        return int(self.planes.shape[2])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as of a PIL image."""
        return self.width, self.height

    def resize(
        self,
        size: tuple[int, int],
        resample: Image.Resampling = Image.Resampling.BILINEAR,
        box: tuple[float, float, float, float] | None = None,
    ) -> BandImage:
        """The image, or the part of it inside `box`, at (width, height): each band by Pillow."""
        resized = [Image.fromarray(band).resize(size, resample, box=box) for band in self.planes]
        return BandImage(np.stack([np.asarray(band) for band in resized]))

    def tobytes(self) -> bytes:
        """The values, band by band."""
        return self.planes.tobytes()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(np.moveaxis(self.planes, 0, -1), dtype=dtype, copy=copy)


Picture = Image.Image | BandImage  # in RGB, or of another number of channels


def picture_of_bytes(values: bytes, height: int, width: int, num_channels: int) -> Picture:
    """The picture whose `tobytes()` are these values."""
    flat = np.frombuffer(values, np.uint8, num_channels * height * width)
    if num_channels == 3:
        return Image.fromarray(flat.reshape(height, width, 3))
    return BandImage(flat.reshape(num_channels, height, width))


def encode_bands(planes: np.ndarray) -> bytes:
    """TIFF bytes of planes u8[C, H, W]."""
    import tifffile

    out = io.BytesIO()
    is_single = len(planes) == 1  # which has no axis of bands in a TIFF
    # One strip a band, and level 1: a higher level takes longer and is no smaller.
    tifffile.imwrite(
        out,
        planes[0] if is_single else planes,
        photometric="minisblack",
        planarconfig=None if is_single else "separate",
        compression="zlib",
        compressionargs={"level": 1},
        predictor=True,
        rowsperstrip=planes.shape[1],
        metadata=None,
    )
    return out.getvalue()


def decode_bands(encoded: bytes, num_channels: int) -> BandImage:
    """The image that `encode_bands` wrote.

    Raises:
        ValueError: the bytes are damaged, or are no image of `num_channels` bands.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(encoded)) as file:
            page = file.pages.first
            shape = (num_channels, page.imagelength, page.imagewidth)
            if page.shape not in (shape, shape[1:]) or page.size > MAX_VALUES:
                raise ValueError(f"its shape is {page.shape}")
            # One thread: loaders have threads of their own.
            return BandImage(page.asarray(maxworkers=1).reshape(shape))
    # tifffile raises errors of many types for damaged bytes.
    except Exception as error:
        raise ValueError(f"no image of {num_channels} bands ({error})") from error


def to_rgb(image: np.ndarray) -> np.ndarray:
    """u8[H, W, 3] that shows an image u8[H, W, C]: its first three bands, or the first in grey."""
    if image.shape[-1] < 3:
        image = np.repeat(image[..., :1], 3, axis=-1)
    return np.ascontiguousarray(image[..., :3])


def as_rgb(picture: Picture) -> Image.Image:
    """A picture as a PIL image that shows it."""
    if isinstance(picture, BandImage):
        return Image.fromarray(to_rgb(np.asarray(picture)))
    return picture


def describe(array: np.ndarray) -> str:
    """Type and shape for a message: "uint16[5, 24, 32]"."""
    return f"{array.dtype}{list(array.shape)}"
