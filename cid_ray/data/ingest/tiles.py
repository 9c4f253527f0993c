"""`--tile SIZE --overlap N`: large images are cut into tiles, each a row of the table.

Images are read one after the other, by as many rows as a tile has. An image that is not larger than
a tile stays whole, byte for byte: it is one tile at 0, 0.

Evaluation stitches the tiles: in val and test each pixel is scored in one tile (`tile_grid.py`),
and the masks of the others ignore it. So the confusion matrix of a split is that of the stitched
predictions, whatever the overlap. Tiles of train keep their whole masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

import numpy as np

from cid_ray.data.image_codec import encode_png
from cid_ray.data.ingest.duplicates import Duplicates
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.image_reader import ImageContent, hash_pixels
from cid_ray.data.ingest.items import ImportItem
from cid_ray.data.ingest.mask_reader import MaskContent, MaskReader
from cid_ray.data.ingest.perceptual_hash import describe_looks
from cid_ray.data.ingest.row_source import (
    RowSource,
    decoded_source,
    open_windows,
    windowed_source,
)
from cid_ray.data.ingest.tiff_windows import TiffWindows
from cid_ray.data.ingest.tile_grid import Span, cut_axis
from cid_ray.data.tile_ids import format_tile_id

Content = tuple[ImageContent, MaskContent | None]

ENCODE_THREADS = 4
OVERVIEW_SIDE, OVERVIEW_ROWS = 1024, 32
NO_LABEL_TILES = "tiles of labeled images, without a labeled pixel to learn or to score"
BLANK_TILES = "unlabeled tiles of one colour"


@dataclass
class TileReader:
    """Reads the images of an import, and cuts those that are larger than a tile.

    Args:
        size: side of a tile, in pixels.
        overlap: pixels that neighbours share at least.
        read_whole: reads an item that is not read by windows.
        masks: reads the windows of masks.
        findings: gets what was cut and left out.
        wholes: the images before they are cut. Tiles of a copy of another size do not look alike.
    """

    size: int
    overlap: int
    read_whole: Callable[[ImportItem], Content | BadFile]
    masks: MaskReader
    findings: Findings
    wholes: Duplicates

    def read(self, items: Iterable[ImportItem]) -> Iterator[tuple[ImportItem, Content | BadFile]]:
        """The tiles of each item as items, with their content, or with what is wrong with it."""
        with ThreadPoolExecutor(ENCODE_THREADS) as threads:
            for item in items:
                try:
                    yield from self._read_item(item, threads)
                except BadFile as error:
                    yield item, error
                except OSError as error:
                    yield item, BadFile(str(error))

    def _read_item(
        self, item: ImportItem, threads: ThreadPoolExecutor
    ) -> Iterator[tuple[ImportItem, Content | BadFile]]:
        with ExitStack() as files:
            windows = open_windows(item.image, files)
            if windows is not None and max(windows.size) > self.size:
                if not self.wholes.check(item, _overview(windows)):
                    return
                source = windowed_source(item, windows, self.masks, files)
                yield from self._cut(item, source, threads)
                return
        content = self.read_whole(item)
        if isinstance(content, BadFile):
            raise content
        if not self.wholes.check(item, content[0]):
            return
        if max(content[0].size) > self.size:
            yield from self._cut(item, decoded_source(item, *content), threads)
        else:
            yield _tile_of(item, 0, 0), content

    def _cut(
        self, item: ImportItem, source: RowSource, threads: ThreadPoolExecutor
    ) -> Iterator[tuple[ImportItem, Content | BadFile]]:
        """The tiles of an image. Rows that cannot be read are bad, the other rows are not."""
        height, width = source.size
        rows = cut_axis(height, self.size, self.overlap)
        columns = cut_axis(width, self.size, self.overlap)
        shape = f"{len(rows)} x {len(columns)} tiles"
        self.findings.add("changed", "images cut into tiles", f"{item.image}: {shape}")
        for change in source.changes:
            self.findings.add_note(change, item.image)
        for row in rows:
            try:
                yield from self._cut_rows(item, source, row, columns, threads)
            except BadFile as error:
                yield item, error

    def _cut_rows(
        self,
        item: ImportItem,
        source: RowSource,
        row: Span,
        columns: list[Span],
        threads: ThreadPoolExecutor,
    ) -> Iterator[tuple[ImportItem, Content]]:
        """A row of tiles. Only its pixels are in memory."""
        pixels = source.image_rows(row.start, row.stop)
        labels = None
        if source.mask_rows is not None:
            labels = source.mask_rows(row.start, row.stop)

        def make(column: Span) -> Content:
            image = _make_image(pixels[:, column.start : column.stop], source.is_deep)
            if labels is None or source.mask_of is None:
                return image, None
            tile_labels = labels[:, column.start : column.stop]
            if item.split == "train":
                return image, source.mask_of(tile_labels)
            area = (row.scored, column.scored)
            return image, self._only_scored(source.mask_of(tile_labels[area]), image.size, area)

        for column, content in zip(columns, threads.map(make, columns), strict=True):
            yield _tile_of(item, row.start, column.start), content

    def _only_scored(
        self, scored: MaskContent, size: tuple[int, int], area: tuple[slice, slice]
    ) -> MaskContent:
        """The mask of a tile of which only an area is scored: ignored elsewhere."""
        ids = np.full(size, self.masks.ignore_index, np.uint8)
        ids[area] = scored.ids
        return replace(scored, ids=ids)


def _overview(windows: TiffWindows) -> ImageContent:
    """What a large image looks like: every n-th row and column of it. Damaged rows are left out."""
    height, width = windows.size
    step = max(1, max(height, width) // OVERVIEW_SIDE)
    blocks = []
    for top in range(0, height, OVERVIEW_ROWS * step):
        bottom = min(top + OVERVIEW_ROWS * step, height)
        with suppress(BadFile):  # reported when the rows are cut
            blocks.append(windows.rgb_rows(top, bottom)[::step, ::step].copy())
    if not blocks:
        return ImageContent(b"", windows.size, None)
    pixels = np.concatenate(blocks)
    return ImageContent(b"", windows.size, hash_pixels(pixels), looks=describe_looks(pixels))


def why_left_out(content: Content, ignore_index: int) -> str | None:
    """The reason why a tile is of no use, a noun phrase in the plural; None if it is."""
    image, mask = content
    if mask is None:
        return BLANK_TILES if image.pixel_hash is None else None
    return NO_LABEL_TILES if (mask.ids == ignore_index).all() else None


def _make_image(pixels: np.ndarray, is_deep: bool) -> ImageContent:
    """The content of a tile u8[H, W, 3]; `is_deep`: of an image of more than 8 bits."""
    pixels = np.ascontiguousarray(pixels)
    # Tiles of one colour, such as the sea or a border, are alike without being copies.
    is_blank = bool((pixels == pixels[0, 0]).all())
    pixel_hash = None if is_blank else hash_pixels(pixels)
    size = (pixels.shape[0], pixels.shape[1])
    looks = None if is_blank else describe_looks(pixels)
    return ImageContent(encode_png(pixels), size, pixel_hash, looks=looks, is_deep=is_deep)


def _tile_of(item: ImportItem, y: int, x: int) -> ImportItem:
    """The tile of an image that starts at row y and column x."""
    tile_id = format_tile_id(item.image_id, y, x)
    part = tile_id.removeprefix(item.image_id)
    return replace(item, image_id=tile_id, group=item.group or item.image_id, part=part)
