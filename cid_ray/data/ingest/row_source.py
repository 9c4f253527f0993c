"""An image and its mask, read by rows: a large TIFF file is never decoded whole.

What is not such a TIFF file is decoded whole, by the readers of every other import, and rows of it
are handed out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from cid_ray.data.image_codec import decode_image
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Note
from cid_ray.data.ingest.image_reader import ImageContent
from cid_ray.data.ingest.items import DrawnMask, ImportItem
from cid_ray.data.ingest.mask_file import MaskPixels, pack_colors
from cid_ray.data.ingest.mask_reader import MaskContent, MaskReader
from cid_ray.data.ingest.pixel_arrays import MAX_PIXELS, count_pixels
from cid_ray.data.ingest.tiff_windows import NotWindowed, TiffWindows, is_tiff

PART_ROWS = 512
Rows = Callable[[int, int], np.ndarray]  # (top, bottom) -> rows top to bottom - 1
SEVERAL_PAGES = Note("TIFF files of several pages, of which the first was read")
MORE_CHANNELS = Note("TIFF files with a channel besides grey or RGB, which was not read")


@dataclass(frozen=True)
class RowSource:
    """Rows of an image and of its mask."""

    size: tuple[int, int]  # (height, width)
    image_rows: Rows  # u8[h, W, 3]
    mask_rows: Rows | None  # what `mask_of` takes, [h, W] or [h, W, 3]; None: unlabeled
    mask_of: Callable[[np.ndarray], MaskContent] | None  # class ids of a part of these rows
    changes: tuple[Note, ...] = ()  # as in ImageContent
    is_deep: bool = False  # as in ImageContent


def open_windows(path: Path, files: ExitStack, is_mask: bool = False) -> TiffWindows | None:
    """The windows of an image file, closed by `files`; None if it has to be decoded whole.

    Raises:
        BadFile: it is too large to be decoded whole.
        OSError: the file cannot be read.
    """
    reason = "convert it to TIFF, the format that can"
    if is_tiff(path):
        try:
            windows = files.enter_context(TiffWindows(path))
        except NotWindowed as error:
            reason = str(error)
        else:
            if not is_mask or windows.is_plain_mask:
                return windows
            reason = "a mask must have one channel of ids, or three of colours, without loss"
    if count_pixels(path) > MAX_PIXELS:
        raise BadFile(
            f"{path}: more than {MAX_PIXELS:,} pixels, and not to be read by windows: {reason}"
        )
    return None


def windowed_source(
    item: ImportItem, windows: TiffWindows, masks: MaskReader, files: ExitStack
) -> RowSource:
    """An image that is read by windows. So is its mask, if it is such a TIFF file too.

    Raises:
        BadFile: the mask cannot be read, or its size is not the image's.
    """
    found = {SEVERAL_PAGES: windows.has_more_pages, MORE_CHANNELS: windows.channels in (2, 4)}
    changes = tuple(change for change, is_so in found.items() if is_so)
    height, width = windows.size
    if item.mask is None:
        return RowSource(windows.size, windows.rgb_rows, None, None, changes)
    if isinstance(item.mask, DrawnMask):
        mask_windows = None
        if height * width > MAX_PIXELS:
            raise BadFile(
                f"{item.mask.path}: its image has more than {MAX_PIXELS:,} pixels, and a mask of "
                "polygons is drawn whole; draw it elsewhere and import it as a TIFF file"
            )
    else:
        mask_windows = open_windows(item.mask, files, is_mask=True)
    if mask_windows is None:
        mask = masks.read(item.mask, windows.size)
        mask_size = (mask.ids.shape[0], mask.ids.shape[1])
        mask_rows = _rows_of(mask.ids)
        mask_of = _with_remarks_once(mask)
    else:
        mask_size = mask_windows.size
        mask_rows = mask_windows.rows
        mask_of = partial(_ids_of_window, masks, mask_windows.path)
    _check_mask_size(item, mask_size, windows.size)
    return RowSource(windows.size, windows.rgb_rows, mask_rows, mask_of, changes)


def decoded_source(item: ImportItem, image: ImageContent, mask: MaskContent | None) -> RowSource:
    """An image and its mask that were read whole.

    Raises:
        BadFile: the mask has not the size of the image.
    """
    image_rows = _rows_of(np.asarray(decode_image(image.encoded)))
    if mask is None:
        return RowSource(image.size, image_rows, None, None, image.changes, image.is_deep)
    _check_mask_size(item, (mask.ids.shape[0], mask.ids.shape[1]), image.size)
    mask_of = _with_remarks_once(mask)
    rows = _rows_of(mask.ids)
    return RowSource(image.size, image_rows, rows, mask_of, image.changes, image.is_deep)


def _with_remarks_once(mask: MaskContent) -> Callable[[np.ndarray], MaskContent]:
    """Makes the content of parts of a mask; one of them has what was found in the whole mask."""
    whole = [mask]

    def mask_of(ids: np.ndarray) -> MaskContent:
        try:  # in several threads, of which one gets it
            return replace(whole.pop(), ids=ids)
        except IndexError:
            return MaskContent(ids)

    return mask_of


def _check_mask_size(
    item: ImportItem, mask_size: tuple[int, int], image_size: tuple[int, int]
) -> None:
    if mask_size != image_size:
        raise BadFile(
            f"{item.mask_path}: the mask is {mask_size[1]} x {mask_size[0]}, "
            f"its image {image_size[1]} x {image_size[0]} pixels"
        )


def mask_parts(path: Path, masks: MaskReader) -> Iterator[MaskContent]:
    """A mask file in parts of at most PART_ROWS rows if it can be read by windows, else whole.

    Raises:
        BadFile: it cannot be read.
    """
    with ExitStack() as files:
        windows = open_windows(path, files, is_mask=True)
        if windows is None:
            yield masks.read_file(path)
            return
        for top in range(0, windows.size[0], PART_ROWS):
            bottom = min(top + PART_ROWS, windows.size[0])
            yield _ids_of_window(masks, path, windows.rows(top, bottom))


def _ids_of_window(masks: MaskReader, path: Path, pixels: np.ndarray) -> MaskContent:
    """The class ids of a part of a mask: ids u8 or bool [h, W], or colours u8[h, W, 3]."""
    if pixels.ndim == 3:
        values = pack_colors(pixels).reshape(pixels.shape[:2])
    else:
        values = np.ascontiguousarray(pixels).astype(np.uint8)
    return masks.ids_of(path, MaskPixels(values))


def _rows_of(pixels: np.ndarray) -> Rows:
    """Rows of an array [H, W] or [H, W, 3]."""
    return lambda top, bottom: pixels[top:bottom]
