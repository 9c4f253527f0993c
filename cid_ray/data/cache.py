"""A cache of decoded images for all processes of a node: each image is decoded once per node.

The cache is one sparse file per file of a table and `image_size`, in a folder of this user:

    ready u8[N, 2] (image, mask), then per row: image u8[H, W, 3], and mask u8[H, W] if it has one

An image of C != 3 bands is u8[C, H, W] instead.

A row's offset depends on the table alone, so processes with different `data.cache_mb` share the
file. Rows that are read most often come first: labeled train images, val, the pool, test. Rows
beyond `cache_mb` are decoded every time. A ready flag is written AFTER its pixels. A row without
its flag is decoded again, and two processes that decode one row concurrently write the same bytes.

The file is read and written, not memory-mapped. That is as fast, a full disk raises an error
instead of a SIGBUS, and the cache does not count as memory of the process.
"""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from cid_ray.config import DataConfig
from cid_ray.data.band_image import Picture, picture_of_bytes
from cid_ray.data.sources import open_table
from cid_ray.data.table import Table
from cid_ray.storage.user_dirs import private_temp_dir

CACHE_VERSION = 1  # of the file's layout
MAX_OTHER_FILES = 4  # caches of other tables and sizes that stay on the node's disk
FALLBACK_MB = 64  # per process, where no file can be shared; a node may have many processes
READY = b"\1"
DISK_BLOCK_BYTES = 512  # the unit of st_blocks, by POSIX

# The order of rows in the file.
LABELED_PRIORITY = 0
VAL_PRIORITY = 1
POOL_PRIORITY = 2
READ_ONCE_PRIORITY = 3  # test images: read at the end of a run only

Decoded = tuple[Picture, np.ndarray | None]  # image, mask u8[H, W]


def cached_reader(data: DataConfig) -> CachedReader:
    """The CachedReader of a process that does one run after another: table and cache stay open."""
    return _last_opened(data.table, data.image_size, data.cache_mb)


@lru_cache(maxsize=1)
def _last_opened(table: str, image_size: tuple[int, int] | None, cache_mb: int) -> CachedReader:
    return CachedReader(open_table(table), image_size, cache_mb)


class CachedReader:
    """Reads decoded images of a table, resized to `image_size`. Many threads may call it."""

    def __init__(self, table: Table, image_size: tuple[int, int] | None, cache_mb: int):
        """
        Args:
            table: the data set.
            image_size: (H, W) to which images are resized; None keeps each image's own size.
            cache_mb: bound of the node's cache file in MiB; 0 turns the cache off.
        """
        self.table = table
        self.image_size = image_size
        self.decode: Callable[[int, bool], Decoded] = self._decode
        self.shared_file: SharedCacheFile | None = None
        if not cache_mb:
            return
        try:
            self.shared_file = SharedCacheFile(table, image_size, cache_mb << 20)
        except OSError as error:
            warnings.warn(f"decoded images are not shared between processes: {error}", stacklevel=2)
            heights, widths = decoded_sizes(table, image_size)
            bytes_per_pixel = table.num_channels + 1  # of an image with its mask
            largest = int(bytes_per_pixel * (heights * widths).max())
            capacity = min(cache_mb, FALLBACK_MB) << 20
            self.decode = lru_cache(capacity // largest)(self._decode)

    def __call__(self, row: int, mask: bool) -> Decoded:
        """Read one row, from the cache if it is there.

        Args:
            row: 0..N-1.
            mask: whether to read the mask too.

        Returns:
            The image, as of `Table.read`, and its mask u8[H, W] (255 is ignored), both at
            `image_size`. The mask is None if it was not asked for or if the row is unlabeled.

        Raises:
            UnreadableImage: the bytes cannot be decoded.
        """
        mask = mask and bool(self.table.labeled[row])
        found = self.shared_file.get(row, mask) if self.shared_file else None
        if found is None:
            found = self.decode(row, mask)
            if self.shared_file:
                self.shared_file.put(row, *found)
        return found

    def _decode(self, row: int, mask: bool) -> Decoded:
        image, class_ids = self.table.read(row, mask)
        if self.image_size:
            height, width = self.image_size
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            if class_ids is not None:
                resized = Image.fromarray(class_ids).resize(
                    (width, height), Image.Resampling.NEAREST
                )
                class_ids = np.asarray(resized)
        return image, class_ids


class SharedCacheFile:
    """The cache file of one table at one size. Raises OSError if the node cannot have one."""

    def __init__(self, table: Table, image_size: tuple[int, int] | None, capacity_bytes: int):
        self.num_channels = table.num_channels
        self.heights, self.widths = decoded_sizes(table, image_size)
        self.offsets, ends = cache_layout(table, self.heights, self.widths)
        self.fits = ends <= capacity_bytes  # bool[N]
        path = private_temp_dir() / cache_file_name(table, image_size)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        self._check_disk_space(path.parent, int(ends[self.fits].max(initial=0)))
        os.utime(path)  # `_remove_old_files` keeps the files that were opened last
        _remove_old_files(path)

    def _check_disk_space(self, folder: Path, size_bytes: int) -> None:
        """OSError if the file, once full, would take more than half of the free disk space."""
        growth = size_bytes - os.fstat(self._file.fileno()).st_blocks * DISK_BLOCK_BYTES
        free = shutil.disk_usage(folder).free
        if growth > free // 2:
            raise OSError(
                f"{folder} has {free >> 20} MiB free, "
                f"{growth >> 20} MiB would take more than half of it"
            )

    def get(self, row: int, mask: bool) -> Decoded | None:
        """What any process decoded before; None if the image, or the mask asked for, is missing."""
        num_parts = 2 if mask else 1
        descriptor = self._file.fileno()
        if not self.fits[row]:
            return None
        if os.pread(descriptor, num_parts, 2 * row) != READY * num_parts:
            return None
        height, width = int(self.heights[row]), int(self.widths[row])
        area = height * width
        channels = self.num_channels
        bytes_per_pixel = channels + 1 if mask else channels
        pixels = os.pread(descriptor, bytes_per_pixel * area, int(self.offsets[row]))
        image = picture_of_bytes(pixels, height, width, channels)
        if not mask:
            return image, None
        class_ids = np.frombuffer(pixels, np.uint8, area, channels * area).reshape(height, width)
        return image, class_ids

    def put(self, row: int, image: Picture, class_ids: np.ndarray | None) -> None:
        """Store a decoded row, unless it is beyond the bound or its size is not the table's."""
        shape = (int(self.heights[row]), int(self.widths[row]))
        if not self.fits[row] or (image.height, image.width) != shape:
            return
        with suppress(OSError):  # the disk is full by now: the row is decoded every time
            self._write(row, 0, 0, image.tobytes())
            if class_ids is not None and class_ids.shape == shape and class_ids.dtype == np.uint8:
                self._write(row, 1, self.num_channels * class_ids.size, class_ids.tobytes())

    def _write(self, row: int, part: int, offset: int, pixels: bytes) -> None:
        """Write the image (part 0) or the mask (part 1), then its ready flag."""
        descriptor = self._file.fileno()
        written = os.pwrite(descriptor, pixels, int(self.offsets[row]) + offset)
        if written == len(pixels):
            os.pwrite(descriptor, READY, 2 * row + part)


def decoded_sizes(
    table: Table, image_size: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """i64[N] heights and i64[N] widths of the decoded images."""
    if image_size:
        heights = np.full(len(table), image_size[0], np.int64)
        widths = np.full(len(table), image_size[1], np.int64)
        return heights, widths
    heights = table.index["height"].to_numpy().astype(np.int64)
    widths = table.index["width"].to_numpy().astype(np.int64)
    return heights, widths


def cache_layout(
    table: Table, heights: np.ndarray, widths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """i64[N] offset and i64[N] end of every row's bytes in the file."""
    lengths = (table.num_channels + table.labeled) * heights * widths  # a mask is a byte more
    order = np.argsort(_priorities(table), kind="stable")
    ends = np.empty(len(table), np.int64)
    ends[order] = 2 * len(table) + np.cumsum(lengths[order])
    return ends - lengths, ends


def _priorities(table: Table) -> np.ndarray:
    """i64[N]: rows with a small number come first in the file, so they fit in a small cache."""
    priorities = np.full(len(table), READ_ONCE_PRIORITY)
    priorities[table.rows("train")] = POOL_PRIORITY
    priorities[table.rows("val")] = VAL_PRIORITY
    priorities[(priorities == POOL_PRIORITY) & table.labeled] = LABELED_PRIORITY
    return priorities


def describe_uncached(table: Table, image_size: tuple[int, int] | None, cache_mb: int) -> str:
    """A hint if the cache cannot hold all of train and val; "" if it can, or without a cache."""
    read_often = _priorities(table) < READ_ONCE_PRIORITY
    ends = cache_layout(table, *decoded_sizes(table, image_size))[1][read_often]
    fitting = int((ends <= cache_mb << 20).sum())
    if not cache_mb or fitting == len(ends):
        return ""
    needed_mb = math.ceil(ends.max() / 2**20)
    return (
        f"data.cache_mb={cache_mb} holds {fitting} of {len(ends)} decoded images, the others are "
        f"decoded every time they are read; data.cache_mb={needed_mb} would hold all"
    )


def cache_file_name(table: Table, image_size: tuple[int, int] | None) -> str:
    """A name of everything that decides the file's bytes.

    It has the layout's version, the id of the table's file, the size and Pillow's version. It also
    has the boot id: a power cut may keep a ready flag on disk and lose the pixels.
    """
    size = f"{image_size[0]}x{image_size[1]}" if image_size else "own"
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    boot = boot_id.read_text(encoding="utf-8")[:8] if boot_id.exists() else "any"
    return f"decoded-{CACHE_VERSION}-{table.file_id}-{size}-{PIL.__version__}-{boot}"


def _remove_old_files(in_use: Path) -> None:
    """Remove all cache files but `in_use` and the MAX_OTHER_FILES that were opened last.

    A process that has a removed file open keeps it until it ends.
    """
    with suppress(FileNotFoundError):  # another process removes them too
        others = [file for file in in_use.parent.glob("decoded-*") if file != in_use]
        newest_first = sorted(others, key=lambda file: file.stat().st_mtime, reverse=True)
        for file in newest_first[MAX_OTHER_FILES:]:
            file.unlink()
