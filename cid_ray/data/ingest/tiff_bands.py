"""The bands of an image file as planes [C, H, W], in the file's own numbers.

TIFF files are read by tifffile: bands that are stored pixel by pixel (contiguous), one after the
other (planar), or as a page each. It decodes uncompressed and deflated files by itself, and LZW,
JPEG, ZSTD and others with the package imagecodecs.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
from tifffile import PHOTOMETRIC

from cid_ray.data.band_image import MAX_VALUES
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Note
from cid_ray.data.ingest.orientation import UPRIGHT, turn
from cid_ray.data.ingest.pixel_arrays import read_pixels
from cid_ray.data.ingest.tiff import check_complete, no_data_of, orientation_of

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # "+": BigTIFF
PAGES = "files of several pages, of which the first is used"


@dataclass(frozen=True)
class RawBands:
    """Chosen bands of one file.

    Attributes:
        planes: [C, H, W] of whole numbers or floats.
        nodata: the value of pixels without data, where the file names one.
        orientation: the EXIF orientation by which the planes were turned, 1 for none.
        notes: what its reader changed or guessed.
    """

    planes: np.ndarray
    nodata: float | None = None
    orientation: int = UPRIGHT
    notes: tuple[Note, ...] = ()


def count_samples(path: Path) -> int:
    """The channels of a pixel of a TIFF file, from its tags.

    0 for a file of another kind, and for one that cannot be read: its reader says why.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) not in TIFF_MAGIC:
                return 0
        with tifffile.TiffFile(path) as tiff:
            return int(tiff.pages.first.samplesperpixel)
    except Exception:  # damaged tags raise whatever their values lead to
        return 0


def read_bands(path: Path, encoded: bytes, numbers: Sequence[int]) -> RawBands:
    """Read chosen bands of an image file.

    Args:
        path: the file, for messages.
        encoded: its bytes.
        numbers: the bands in the order in which they are wanted, counted from 1.

    Returns:
        The bands. Those of PNG and other formats are their colour channels.

    Raises:
        BadFile: it cannot be decoded, is too large, or lacks a band.

    Example:
        >>> path = Path("field.tif")
        >>> read_bands(path, path.read_bytes(), [4, 3, 2]).planes.shape
        (3, 512, 512)
    """
    try:
        raw = _read_tiff(encoded) if encoded[:4] in TIFF_MAGIC else _read_other(encoded)
    except BadFile as error:
        raise BadFile(f"{path}: {error}") from None
    # tifffile and Pillow raise errors of many types for damaged bytes.
    except Exception as error:
        hint = "; pip install 'cid_ray[tiff]'" if "imagecodecs" in str(error) else ""
        raise BadFile(f"{path}: unreadable or truncated image ({error}){hint}") from None
    if raw.planes.dtype.kind not in "buif":
        raise BadFile(f"{path}: its values are {raw.planes.dtype}, must be plain numbers")
    count = len(raw.planes)
    if max(numbers) > count:
        raise BadFile(
            f"{path}: has {count} band(s), so no band {max(numbers)}; "
            "--bands chooses those that all images have"
        )
    if list(numbers) == list(range(1, count + 1)):
        return raw
    return replace(raw, planes=raw.planes[[number - 1 for number in numbers]])


def _read_tiff(encoded: bytes) -> RawBands:
    with tifffile.TiffFile(io.BytesIO(encoded)) as file:
        series = file.series[0]  # all pages of the first one's kind; no overviews
        _check_size(math.prod(series.shape))
        page = series.keyframe
        for each in series.pages:
            if each is not None:
                check_complete(each)
        nodata, orientation = no_data_of(page), orientation_of(page)
        values = series.asarray(maxworkers=1)  # the import has threads of its own
    if page.photometric == PHOTOMETRIC.PALETTE:
        raise BadFile("its pixels are indices into a palette, not bands; save it as RGB")
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        if values.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
            raise BadFile(f"its lowest {values.dtype} is white; save it with black as the lowest")
        values = ~values  # the value for white becomes the highest
    # The axes of pixels, and one of bands: S samples of a page, or pages.
    bands = [axis for axis, name in enumerate(series.axes) if name not in "YX"]
    several = [axis for axis in bands if values.shape[axis] > 1]
    if len(several) > 1 or not {"Y", "X"} <= set(series.axes):
        raise BadFile(f"has the axes {series.axes} of {list(series.shape)}, must have one of bands")
    pixels = [series.axes.index(name) for name in "YX"]
    ordered = values.transpose(*bands, *pixels)
    planes = ordered.reshape(-1, *ordered.shape[-2:])
    return RawBands(_turn_planes(planes, orientation), nodata, orientation)


def _read_other(encoded: bytes) -> RawBands:
    """The colour channels of a picture, exact and upright, with what its reader notes."""
    picture = read_pixels(encoded, MAX_VALUES // 3)
    values = picture.values
    planes = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    pages = Note(PAGES, f"{picture.pages} pages")
    notes = (*picture.notes, *((pages,) if picture.pages > 1 else ()))
    return RawBands(planes, orientation=picture.orientation, notes=notes)


def _turn_planes(planes: np.ndarray, orientation: int) -> np.ndarray:
    return np.moveaxis(turn(np.moveaxis(planes, 0, -1), orientation), -1, 0)


def _check_size(num_values: int) -> None:
    if num_values > MAX_VALUES:
        raise BadFile(f"{num_values:,} values are more than {MAX_VALUES:,}")
