"""A data set as one folder: `table.parquet`, `index.parquet` and `meta.json`.

`table.parquet` has one row per image, with the encoded bytes of image and mask inside.
`index.parquet` has the same rows without bytes: the part that a process holds in memory. A null
mask IS "unlabeled": there is no path, no flag and nothing to open by mistake.

What is read is what was written: `index.parquet` has a hash of every image and mask, and
`meta.json` one of `index.parquet`. (Tables of older versions have those of images alone.)

The rows are stored in row groups of 8 and uncompressed, because JPEG and PNG do not compress
further. A random image then costs one small read, from a memory map or from an object store.

Legend: N rows, K classes, H, W pixels. A "row" is an index 0..N-1 into the table.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import UnidentifiedImageError

from cid_ray.config import InputError, error_summary
from cid_ray.data.band_image import Picture
from cid_ray.data.image_codec import decode_image, open_image
from cid_ray.data.table_errors import DECODE_ERRORS, UnreadableImage, is_of_the_store, why_no_table
from cid_ray.data.table_format import (
    MASK_HASH,
    SCHEMA,
    SPLITS,
    STORED_SCHEMA,
    check_index,
)
from cid_ray.data.table_meta import read_meta, some_names
from cid_ray.data.tile_ids import TileOrigin, check_tile_ids, parse_tile_id
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri

DIGEST_BLOCK = 1 << 20  # bytes
TABLE_FILE = "table.parquet"
IGNORED = 255  # the class id of pixels without a label, in every mask that a Table returns


class Table:
    """An opened table, on this machine or in an object store. Many threads may read from it.

    Attributes:
        folder: where the table is stored, a path or `s3://bucket/path`.
        classes: the K class names, in the order of the ids in the masks.
        colors: [r, g, b] of each class, 0..255.
        ignore_index: the id that meant "no label" in the imported masks.
        tile: side of the tiles into which images were cut, in pixels; None: rows are whole images.
        overlap: pixels that neighbouring tiles share at least.
        num_channels: C of the images, 3 unless they were imported with another number of bands.
        band_stats: (mean, standard deviation) of each band over train, in stored values of 0 to
            255; None for images of three channels, which encoders know.
        model_data: what a network needs to know of the table after training.
        fingerprint: 16 hex digits that name the content: ids, splits, images, masks, classes.
        index: the columns of SCHEMA without `image` and `mask`, N rows.

    Example:
        >>> table = open_table("demo")
        >>> image, mask = table.read(table.rows("val")[0], mask=True)
        >>> image.size, mask.shape
        ((96, 64), (64, 96))
    """

    def __init__(self, folder: PathOrUri):
        """Open a table that `cid_ray.prepare` or `write_table` wrote.

        Args:
            folder: a path or `s3://bucket/path`.

        Raises:
            InputError: the folder holds no complete table.
        """
        self.folder = folder
        try:
            self._open()
        except DECODE_ERRORS as error:
            reason = why_no_table(error, folder)
            raise InputError(
                f"data.table {str(folder)!r} is not a table ({reason}); "
                "make one with `python -m cid_ray.prepare`"
            ) from None
        self._thread_local = threading.local()

    def _open(self) -> None:
        meta = read_meta(self.folder)
        self.classes = meta.classes
        self.colors = meta.colors
        self.ignore_index = meta.ignore_index
        self.fingerprint = meta.fingerprint
        self.tile = meta.tile
        self.overlap = meta.overlap
        self.num_channels = meta.num_channels
        self.band_stats = meta.band_stats
        self.model_data = meta.model_data
        with paths.open_read(paths.join(self.folder, "index.parquet")) as file:
            digest = hashlib.sha256()
            while block := file.read(DIGEST_BLOCK):
                digest.update(block)
            if meta.index_sha256 not in (None, digest.hexdigest()):
                raise ValueError("index.parquet is not the file that was imported")
            # Not from the bytes that were read: pyarrow's threads would hold on to them, and one
            # that drops them while Python exits aborts the process.
            file.seek(0)
            # `read_table` would load pyarrow.dataset: 30 MB and a third of a second.
            self.index = pq.ParquetFile(file).read()
        check_index(self.index, len(self.classes))
        if self.tile is not None:
            check_tile_ids(self.index["image_id"])
        # Before it is opened: a file that is replaced meanwhile gets an id of its own.
        self._stamp = paths.file_stamp(paths.join(self.folder, TABLE_FILE))
        opened = self._open_parquet(None)
        self._parquet_metadata = opened.metadata
        num_rows = self._parquet_metadata.num_rows
        is_ours = opened.schema_arrow in (STORED_SCHEMA, SCHEMA)  # SCHEMA: before version 3
        if not is_ours or num_rows != self.index.num_rows:
            raise ValueError("table.parquet and index.parquet come from different imports")

    def _open_parquet(self, metadata: pq.FileMetaData | None) -> pq.ParquetFile:
        name = paths.join(self.folder, TABLE_FILE)
        source = paths.open_read(name) if paths.is_remote(name) else name
        return pq.ParquetFile(source, metadata=metadata, memory_map=True)

    @property
    def _file(self) -> pq.ParquetFile:
        # A ParquetFile serves one thread at a time, so each thread opens its own. The metadata is
        # passed on: reading it again would cost a request to the object store for every thread.
        if not hasattr(self._thread_local, "file"):
            self._thread_local.file = self._open_parquet(self._parquet_metadata)
        return self._thread_local.file

    @cached_property
    def file_id(self) -> str:
        """16 hex digits of the very file that is read: last write, size and parquet footer.

        `fingerprint` is what meta.json claims, which may be older than table.parquet. The
        footer has the smallest and largest sha256 of the images of each row group.
        """
        footer = io.BytesIO()
        self._parquet_metadata.write_metadata_file(footer)
        digest = hashlib.sha256(repr(self._stamp).encode())
        digest.update(footer.getvalue())
        return digest.hexdigest()[:16]

    @cached_property
    def _group_starts(self) -> np.ndarray:
        """i64[G]: the first row of each row group; large images end one early."""
        metadata = self._parquet_metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        return np.cumsum([0, *counts[:-1]])

    def __len__(self) -> int:
        return self.index.num_rows

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @cached_property
    def labeled(self) -> np.ndarray:
        """bool[N]: which rows have a mask."""
        return self.index["class_pixels"].is_valid().to_numpy()

    @cached_property
    def class_pixels(self) -> np.ndarray:
        """i64[N, K]: pixels per class, zeros for unlabeled rows."""
        pixels = np.zeros((len(self), self.num_classes), np.int64)
        # `flatten` passes over nulls: what is left are K numbers for each labeled row.
        counts = self.index["class_pixels"].combine_chunks().flatten().to_numpy()
        pixels[self.labeled] = counts.reshape(-1, self.num_classes)
        return pixels

    def rows(self, split: str) -> np.ndarray:
        """i64[n]: the rows of `train`, `val` or `test`, in table order."""
        return np.flatnonzero(pc.equal(self.index["split"], split).to_numpy())

    def ids(self, rows: np.ndarray) -> list[str]:
        """The image ids of some rows i64[n]."""
        return self.index["image_id"].take(pa.array(rows)).to_pylist()

    def groups(self, rows: np.ndarray) -> np.ndarray:
        """str[n]: the groups of some rows i64[n]; "" for images without a group."""
        names = self.index["group"].take(pa.array(rows)).to_pylist()
        return np.array([name or "" for name in names], dtype=object)

    def image_ids(self, rows: np.ndarray) -> list[str]:
        """The ids of the images that some rows i64[n] are, or are tiles of."""
        ids = self.ids(rows)
        return ids if self.tile is None else [parse_tile_id(name).image_id for name in ids]

    def tile_of(self, row: int) -> TileOrigin | None:
        """The image of a tile and its first row and column in it; None if rows are whole images.

        Example:
            >>> table.tile_of(7)
            TileOrigin(image_id='train/field', y=512, x=0)
        """
        return None if self.tile is None else parse_tile_id(self.ids(np.array([row]))[0])

    def read(self, row: int, mask: bool) -> tuple[Picture, np.ndarray | None]:
        """Read and decode one image, with its mask if that is asked for.

        Args:
            row: 0..N-1.
            mask: whether to read the mask too. Without it the mask's bytes are not touched.

        Returns:
            The image at its stored size, and its mask u8[H, W] with ignored pixels as 255. The
            image is a PIL image in RGB, or a `BandImage` where `num_channels` is not 3; of both
            `np.asarray` is u8[H, W, C]. The mask is None if it was not asked for or if the row is
            unlabeled.

        Raises:
            UnreadableImage: the bytes cannot be decoded.

        Example:
            >>> image, mask = table.read(0, mask=True)
        """
        with self._named(row):
            encoded = self._read_columns(row, ["image", "mask"] if mask else ["image"])
            has_mask = mask and encoded[1] is not None
            class_ids = self._decode_mask(encoded[1]) if has_mask else None
            return decode_image(encoded[0], self.num_channels), class_ids

    def mask(self, row: int) -> np.ndarray:
        """u8[H, W]: the class ids of a labeled row, ignored pixels as 255."""
        with self._named(row):
            return self._decode_mask(self._read_columns(row, ["mask"])[0])

    def encoded(self, row: int, mask: bool) -> tuple[bytes, bytes | None]:
        """The stored bytes of an image, and of its mask if that is asked for and there is one."""
        with self._named(row):
            columns = ["image", "mask"] if mask else ["image"]
            image, *masks = self._read_columns(row, columns)
            return image, masks[0] if masks else None

    @contextlib.contextmanager
    def _named(self, row: int) -> Iterator[None]:
        """Raise UnreadableImage with the row's id for an error in its bytes."""
        try:
            yield
        except DECODE_ERRORS as error:
            if is_of_the_store(error):
                raise
            # The text of an UnidentifiedImageError is an address in memory: no help to anybody.
            is_picture = not isinstance(error, UnidentifiedImageError)
            reason = error_summary(error) if is_picture else "not a picture"
            image_id = self.ids(np.array([row]))[0]
            raise UnreadableImage(image_id, reason, self.folder) from error

    def _read_columns(self, row: int, columns: list[str]) -> list[bytes]:
        group = int(np.searchsorted(self._group_starts, row, side="right")) - 1
        values = self._file.read_row_group(group, columns=columns, use_threads=False)
        found = [values[name][row - self._group_starts[group]].as_py() for name in columns]
        for name, encoded in zip(columns, found, strict=True):
            hashes = "sha256" if name == "image" else MASK_HASH.name
            if hashes not in self.index.column_names:
                continue
            digest = None if encoded is None else hashlib.sha256(encoded).hexdigest()
            if self.index[hashes][row].as_py() != digest:
                raise ValueError(f"its {name} is not the one that was imported")
        return found

    def _decode_mask(self, encoded: bytes) -> np.ndarray:
        class_ids = np.array(open_image(encoded))
        if self.ignore_index == IGNORED:
            return class_ids
        return np.where(class_ids == self.ignore_index, IGNORED, class_ids).astype(np.uint8)

    def describe(self) -> list[str]:
        """Lines for a person: images and masks of each split, and the classes."""
        lines = []
        for split in SPLITS:
            rows = self.rows(split)
            masks = int(self.labeled[rows].sum())
            unlabeled = len(rows) - masks
            counted = f"{len(rows)} images"
            if self.tile is not None:
                counted = f"{len(rows)} tiles of {len(set(self.image_ids(rows)))} images"
            lines.append(f"{split}: {counted}, {masks} with masks, {unlabeled} unlabeled")
        if self.tile is not None:
            side = f"{self.tile} x {self.tile} pixels, overlap {self.overlap}"
            lines.append(f"tiles of {side}; labels are counted in tiles")
        names = some_names(self.classes)
        lines.append(f"{self.num_classes} classes: {names}; ignore_index {self.ignore_index}")
        if self.num_channels != 3:
            lines.append(f"channels of an image: {self.num_channels}")
        return lines
