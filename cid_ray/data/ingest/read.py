"""Reads the images and masks that an importer listed, in order and in bounded memory."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from cid_ray.data.ingest.band_reader import BandReader
from cid_ray.data.ingest.decode_gate import MAX_PIXELS_IN_FLIGHT, DecodeGate
from cid_ray.data.ingest.duplicates import Duplicates
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.image_reader import ImageReader, check_mask_orientation
from cid_ray.data.ingest.items import ImportItem, ImportPlan
from cid_ray.data.ingest.mask_reader import MaskReader
from cid_ray.data.ingest.options import ImportOptions
from cid_ray.data.ingest.pixel_arrays import count_pixels
from cid_ray.data.ingest.tiles import Content, TileReader
from cid_ray.data.ingest.window import Window

READ_THREADS = 4  # also the number of masks that are held decoded

Read = Callable[[ImportItem], Content | BadFile]


def open_images(plan: ImportPlan, options: ImportOptions) -> ImageReader:
    """The reader of the images, with the window that the user gave or the images to find one."""
    window = Window.parse(*options.window) if options.window else None
    return ImageReader(window, [item.image for item in plan.items if item.split == "train"])


def read_all(
    items: Sequence[ImportItem],
    images: ImageReader | BandReader,
    masks: MaskReader,
    options: ImportOptions,
    findings: Findings,
    wholes: Duplicates,
) -> Iterable[tuple[ImportItem, Content | BadFile]]:
    """Each item with its content; with `tile`, each tile as an item of its own.

    Args:
        wholes: looks for copies among images before they are cut.
    """
    read = _make_reader(images, masks)
    if options.tile is None:
        return options.progress(_read_ahead(items, read), len(items))
    tiles = TileReader(options.tile, options.overlap, read, masks, findings, wholes)
    return tiles.read(options.progress(items, len(items)))


def _make_reader(images: ImageReader | BandReader, masks: MaskReader) -> Read:
    gate = DecodeGate(MAX_PIXELS_IN_FLIGHT)

    def read(item: ImportItem) -> Content | BadFile:
        """An item's content, or what is wrong with it."""
        try:
            with gate.hold(count_pixels(item.image) or item.image.stat().st_size):
                image = images.read(item.image)
                if item.mask is None:
                    return image, None
                mask = masks.read(item.mask, image.size)
                check_mask_orientation(item.image, image, mask.ids.shape)
                return image, mask
        except BadFile as error:
            return error
        except OSError as error:
            return BadFile(str(error))

    return read


def _read_ahead(
    items: Sequence[ImportItem], read: Read
) -> Iterator[tuple[ImportItem, Content | BadFile]]:
    """Each item with its content in the order of the items; READ_THREADS are read ahead."""
    waiting: deque[tuple[ImportItem, Future[Content | BadFile]]] = deque()
    with warnings.catch_warnings(), ThreadPoolExecutor(READ_THREADS) as threads:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters of them is reported here
        for item in items:
            waiting.append((item, threads.submit(read, item)))
            if len(waiting) == READ_THREADS:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
