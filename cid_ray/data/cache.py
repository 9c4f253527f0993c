"""Decoded images that all processes of a node share: an image is decoded once per node, not once per process.

They lie in one sparse file per table content and `image_size`, in this user's folder of the node. Every row has its
place in it, train images with masks first, then val, the rest of train, test; what lies beyond `data.cache_mb` is
decoded each time. A place depends on the table alone, so processes with different bounds share the file.

    ready u8[N, 2] (image, mask), then for every row: image u8[H, W, 3], mask u8[H, W] where it has one
A flag is written after its pixels: a place without it is decoded again, and two processes that decode one image at
once write the same bytes. The name of a file says what decides its bytes: this layout, the table's fingerprint, the
size, Pillow's version, and the boot, because a power cut may keep a flag and lose its pixels.

Files are read and written, not mapped: as fast, a full disk is an error instead of a SIGBUS, and what is cached is no
memory of any process. Of files that were opened before, the KEPT last ones stay.
"""

from __future__ import annotations

import math
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from cid_ray.data.table import Table

VERSION = 1
KEPT = 4  # files besides the one in use, each of at most cache_mb
FALLBACK_MB = 64  # of a process where nothing can be shared: there may be many on a node
READY = b"\1"
ONCE = 3  # the turn of what is read at the end of a run alone
Decoded = tuple[Image.Image, np.ndarray | None]


class Reader:
    """The decoded image and mask of any row, resized to `image_size`; many threads may call it."""

    def __init__(self, table: Table, image_size: tuple[int, int] | None, cache_mb: int):
        self.table, self.image_size = table, image_size
        self.decode: Callable[[int, bool], Decoded] = self._decode
        self.shared: SharedFile | None = None
        heights, widths = sizes(table, image_size)
        try:
            self.shared = SharedFile(table, image_size, heights, widths, cache_mb << 20) if cache_mb else None
        except OSError as error:
            warnings.warn(f"decoded images are not shared between processes: {error}", stacklevel=2)
            room = min(cache_mb, FALLBACK_MB) << 20
            self.decode = lru_cache(room // int(4 * (heights * widths).max()))(self._decode)

    def __call__(self, row: int, mask: bool) -> Decoded:
        mask = mask and bool(self.table.labeled[row])
        found = self.shared.get(row, mask) if self.shared else None
        if found is None:
            found = self.decode(row, mask)
            if self.shared:
                self.shared.put(row, *found)
        return found

    def _decode(self, row: int, mask: bool) -> Decoded:
        image, ids = self.table.read(row, mask)
        if self.image_size:
            size = (self.image_size[1], self.image_size[0])
            image = image.resize(size, Image.Resampling.BILINEAR)
            ids = None if ids is None else np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
        return image, ids


def sizes(table: Table, image_size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """i64[N] heights and widths of the decoded images."""
    if image_size:
        return np.full(len(table), image_size[0], np.int64), np.full(len(table), image_size[1], np.int64)
    return table.index["height"].to_numpy().astype(np.int64), table.index["width"].to_numpy().astype(np.int64)


class SharedFile:
    """The file of one table at one size; OSError where there can be none."""

    def __init__(
        self, table: Table, image_size: tuple[int, int] | None, heights: np.ndarray, widths: np.ndarray, room: int
    ):
        self.heights, self.widths = heights, widths
        self.first, ends = layout(table, heights, widths)
        self.fits = ends <= room
        path = node_folder() / name_of(table, image_size)
        self.file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
        growth = int(ends[self.fits].max(initial=0)) - os.fstat(self.file.fileno()).st_blocks * 512
        free = shutil.disk_usage(path.parent).free
        if growth > free // 2:
            raise OSError(
                f"{path.parent} has {free >> 20} MiB free, {growth >> 20} MiB would take more than half of it"
            )
        os.utime(path)
        _drop_old(path)

    def get(self, row: int, mask: bool) -> Decoded | None:
        """What was decoded before, by any process; None where image or mask is not there."""
        parts, file = 2 if mask else 1, self.file.fileno()
        if not self.fits[row] or os.pread(file, parts, 2 * row) != READY * parts:
            return None
        high, wide = int(self.heights[row]), int(self.widths[row])
        area = high * wide
        pixels = os.pread(file, (4 if mask else 3) * area, int(self.first[row]))
        image = Image.fromarray(np.frombuffer(pixels, np.uint8, 3 * area).reshape(high, wide, 3))
        return image, np.frombuffer(pixels, np.uint8, area, 3 * area).reshape(high, wide) if mask else None

    def put(self, row: int, image: Image.Image, ids: np.ndarray | None) -> None:
        """Keep what was decoded, unless it lies beyond the bound or is not of the size that the table says."""
        shape = (int(self.heights[row]), int(self.widths[row]))
        if not self.fits[row] or (image.height, image.width) != shape:
            return
        with suppress(OSError):  # a disk that is full by now: decoded each time
            self._write(row, 0, 0, image.tobytes())
            if ids is not None and ids.shape == shape and ids.dtype == np.uint8:
                self._write(row, 1, 3 * ids.size, ids.tobytes())

    def _write(self, row: int, part: int, offset: int, pixels: bytes) -> None:
        file = self.file.fileno()
        if os.pwrite(file, pixels, int(self.first[row]) + offset) == len(pixels):
            os.pwrite(file, READY, 2 * row + part)


def layout(table: Table, heights: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """i64[N] first and end of every row's bytes in the file."""
    lengths = np.where(table.labeled, 4, 3) * heights * widths
    order = np.argsort(_turn(table), kind="stable")
    ends = np.empty(len(table), np.int64)
    ends[order] = 2 * len(table) + np.cumsum(lengths[order])
    return ends - lengths, ends


def left_out(table: Table, image_size: tuple[int, int] | None, cache_mb: int) -> str:
    """What the bound leaves out of train and val, for whoever may raise it; empty where they have room, or no cache."""
    ends = layout(table, *sizes(table, image_size))[1][_turn(table) < ONCE]
    fits = int((ends <= cache_mb << 20).sum())
    if not cache_mb or fits == len(ends):
        return ""
    return (
        f"data.cache_mb={cache_mb} keeps {fits} of {len(ends)} images decoded, the others are decoded every time; "
        f"{math.ceil(ends.max() / 2**20)} would keep all"
    )


def _turn(table: Table) -> np.ndarray:
    """Which rows get the room first: those that come most often."""
    turn = np.full(len(table), ONCE)
    for number, rows in ((2, table.rows("train")), (1, table.rows("val"))):
        turn[rows] = number
    turn[(turn == 2) & table.labeled] = 0
    return turn


def name_of(table: Table, image_size: tuple[int, int] | None) -> str:
    size = f"{image_size[0]}x{image_size[1]}" if image_size else "own"
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text()[:8] if boot.exists() else "any"
    return f"decoded-{VERSION}-{table.fingerprint}-{size}-{PIL.__version__}-{started}"


def node_folder() -> Path:
    """This user's folder on this machine, made on first use; OSError when it is not for this user alone."""
    if not hasattr(os, "getuid"):
        raise OSError("this platform has no user ids")
    folder = Path(tempfile.gettempdir()) / f"cid_ray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} must be a folder that belongs to this user and that nobody else may enter")
    return folder


def _drop_old(path: Path) -> None:
    """Remove all but the last opened files besides this one; a process that has one open keeps it until its end."""
    with suppress(FileNotFoundError):  # another process drops them too
        others = [file for file in path.parent.glob("decoded-*") if file != path]
        for file in sorted(others, key=lambda f: f.stat().st_mtime, reverse=True)[KEPT:]:
            file.unlink()
