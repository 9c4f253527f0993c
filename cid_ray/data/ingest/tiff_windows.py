"""Reads rows of a TIFF file without decoding the rest of it.

A TIFF file holds its pixels in chunks (tiles, or strips of rows), each compressed by itself. Only
the chunks that the wanted rows touch are read. tifffile decodes them: by itself where they are
uncompressed or deflated, with the imagecodecs package for LZW, JPEG, ZSTD and others.
Format: TIFF revision 6.0 (Adobe, 1992), sections 3, 15.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType

import numpy as np
import tifffile

from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.image_reader import MAX_PIXELS
from cid_ray.data.ingest.orientation import UPRIGHT
from cid_ray.data.ingest.tiff import is_extra_page, orientation_of

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # "+": BigTIFF
JPEG_COMPRESSIONS = (6, 7, 33007)
YCBCR = tifffile.PHOTOMETRIC.YCBCR  # becomes RGB where JPEG is decoded
COLORS = (
    tifffile.PHOTOMETRIC.MINISWHITE,
    tifffile.PHOTOMETRIC.MINISBLACK,
    tifffile.PHOTOMETRIC.RGB,
    tifffile.PHOTOMETRIC.PALETTE,
)
INSTALL = "pip install 'cid_ray[tiff]'"


class NotWindowed(Exception):
    """This TIFF file cannot be read by windows. The message is the reason."""


def is_tiff(path: Path) -> bool:
    """Whether a file starts as a TIFF file does."""
    with path.open("rb") as file:
        return file.read(4) in TIFF_MAGIC


class TiffWindows:
    """An open TIFF file of 8-bit or 1-bit samples, the pixels of its first page.

    Attributes:
        size: (height, width).
        channels: samples per pixel.
        palette: u8[256, 3], the colours of a palette image; None: the samples are values.
        has_more_pages: whether there are other pages than smaller copies and masks of the first.

    Example:
        >>> with TiffWindows(Path("field.tif")) as windows:
        ...     windows.rows(0, 512).shape
        (512, 20000, 3)
    """

    def __init__(self, path: Path):
        """Open a file and read its tags.

        Raises:
            NotWindowed: the file must be decoded whole, or cannot be decoded at all.
            OSError: the file cannot be read.
        """
        self.path = path
        try:
            self._file = tifffile.TiffFile(path)
        except OSError:
            raise
        except Exception as error:  # damaged tags raise whatever their values lead to
            raise NotWindowed(f"its tags cannot be read: {error}") from None
        try:
            self._open_page()
        except NotWindowed:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise NotWindowed(f"its tags cannot be read: {error}") from None

    def _open_page(self) -> None:
        page = self._file.pages.first
        if reason := _why_not_windowed(page):
            raise NotWindowed(reason)
        planes, _, height, width, samples = page.shaped
        self._page = page
        self.size = (height, width)
        self.channels = planes * samples
        self._is_inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        self.palette = None
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            self.palette = (np.asarray(page.colormap).T >> 8).astype(np.uint8)
        others = (self._file.pages[index] for index in range(1, len(self._file.pages)))
        self.has_more_pages = any(not is_extra_page(other) for other in others)
        self._chunk_rows, self._chunk_columns = _chunk_size(page)
        # Index in the file -> the chunk at (plane, row, column). The next rows may need it too.
        self._decoded: dict[int, tuple[np.ndarray | None, tuple[int, int, int]]] = {}

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Pixels u8 or bool [bottom - top, W] of one channel, or [bottom - top, W, C].

        Reading downwards decodes each chunk once. Chunks of these rows stay in memory until other
        rows are read.

        Raises:
            BadFile: a chunk is damaged or missing.
        """
        height, width = self.size
        if (bottom - top) * width > MAX_PIXELS:
            raise BadFile(
                f"{self.path}: {bottom - top} rows of {width:,} pixels are more than "
                f"{MAX_PIXELS:,}: choose a smaller --tile"
            )
        samples = self._page.shaped[-1]
        pixels = np.empty((bottom - top, width, self.channels), self._page.dtype)
        try:
            wanted = self._chunks_of(top, bottom)
            # Those that are not wanted any more go before others are decoded: that halves the peak.
            self._decoded = {key: self._decoded[key] for key in wanted if key in self._decoded}
            for index in wanted:
                if index not in self._decoded:
                    self._decoded[index] = self._decode(index)
            for chunk, (plane, row, column) in self._decoded.values():
                first, last = max(row, top), min(row + self._chunk_rows, bottom)
                channels = slice(plane * samples, (plane + 1) * samples)
                target = pixels[first - top : last - top, column : column + self._chunk_columns]
                if chunk is None:  # a sparse file stores no chunk without data
                    target[..., channels] = self._page.nodata
                else:
                    target[..., channels] = chunk[first - row : last - row, : target.shape[1]]
        except Exception as error:  # each codec raises errors of its own
            where = f"rows {top} to {min(bottom, height) - 1}"
            raise BadFile(f"{self.path}: {where} are damaged or truncated ({error})") from None
        if self._is_inverted:
            pixels = ~pixels  # of bool and u8: the value for white becomes the highest
        return pixels[..., 0] if self.channels == 1 else pixels

    def rgb_rows(self, top: int, bottom: int) -> np.ndarray:
        """u8[bottom - top, W, 3]: the rows in RGB, as Pillow converts them: without alpha.

        Raises:
            BadFile: as `rows`.
        """
        pixels = self.rows(top, bottom)
        if pixels.dtype == bool:
            pixels = pixels * np.uint8(255)
        if self.palette is not None:
            return self.palette[pixels]
        if self.channels < 3:  # grey, or grey and alpha
            grey = pixels if self.channels == 1 else pixels[..., 0]
            return np.repeat(grey[..., None], 3, axis=-1)
        return pixels[..., :3]

    @property
    def is_plain_mask(self) -> bool:
        """Whether each pixel is an id or a colour, exactly: no alpha, palette or lossy JPEG."""
        is_exact = self._page.compression not in JPEG_COMPRESSIONS
        return is_exact and self.palette is None and self.channels in (1, 3)

    def _chunks_of(self, top: int, bottom: int) -> list[int]:
        """The indices of the chunks that hold rows top to bottom - 1, of all planes."""
        planes, _, height, width, _ = self._page.shaped
        across = math.ceil(width / self._chunk_columns)
        down = math.ceil(height / self._chunk_rows)
        first, last = top // self._chunk_rows, (bottom - 1) // self._chunk_rows
        return [
            (plane * down + row) * across + column
            for plane in range(planes)
            for row in range(first, last + 1)
            for column in range(across)
        ]

    def _decode(self, index: int) -> tuple[np.ndarray | None, tuple[int, int, int]]:
        """A chunk [h, w, samples], None if the file stores nothing, at (plane, row, column)."""
        page = self._page
        offset, num_bytes = page.dataoffsets[index], page.databytecounts[index]
        encoded = None
        if offset and num_bytes:
            self._file.filehandle.seek(offset)
            encoded = self._file.filehandle.read(num_bytes)
        tables = {}
        if page.compression in JPEG_COMPRESSIONS:
            tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        chunk, (plane, _, row, column, _), _ = page.decode(encoded, index, **tables)
        return None if chunk is None else chunk[0], (plane, row, column)

    def close(self) -> None:
        """Close the file and free its chunks."""
        self._decoded = {}
        self._file.close()

    def __enter__(self) -> TiffWindows:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _chunk_size(page: tifffile.TiffPage) -> tuple[int, int]:
    """Rows and columns of a page's chunks. A strip is as wide as the image."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def _why_not_windowed(page: tifffile.TiffPage) -> str | None:
    """The reason why a page must be decoded whole; None if it can be read by windows."""
    if not all(isinstance(number, int) for number in (*page.shaped, *_chunk_size(page))):
        return "its size is no whole number"
    is_byte = page.dtype in (np.dtype(bool), np.dtype(np.uint8))
    if not is_byte or page.bitspersample not in (1, 8) or page.shaped[1] != 1:
        return f"its samples are {page.dtype} of {page.bitspersample} bits, not of 8 bits"
    if page.compression not in tifffile.TIFF.DECOMPRESSORS:
        name = getattr(page.compression, "name", page.compression)
        return f"its compression {name} needs imagecodecs ({INSTALL})"
    if page.predictor not in tifffile.TIFF.UNPREDICTORS:
        return f"its predictor {page.predictor} needs imagecodecs ({INSTALL})"
    if orientation_of(page) != UPRIGHT:
        return "its Orientation tag turns it"
    is_jpeg = page.compression in JPEG_COMPRESSIONS
    if page.photometric not in COLORS and not (page.photometric == YCBCR and is_jpeg):
        name = getattr(page.photometric, "name", page.photometric)
        return f"its colours are {name}, not RGB"
    channels = page.shaped[0] * page.shaped[4]
    if channels > (4 if page.photometric in (tifffile.PHOTOMETRIC.RGB, YCBCR) else 2):
        return f"it has {channels} channels"
    if math.prod(_chunk_size(page)) > MAX_PIXELS:
        return "one strip or tile of it holds too many pixels"
    if len(page.dataoffsets) < math.prod(page.chunked):
        return "it has fewer strips or tiles than its size needs"
    return None
