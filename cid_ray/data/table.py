"""A data set as one folder: `table.parquet` (a row per image, its encoded bytes inside), `index.parquet`, `meta.json`.

A null mask IS "unlabeled": no path, no flag, nothing to open. The bytes lie in row groups of 8, uncompressed (JPEG
does not compress), so that a random image costs one small read, of a memory map or of an object store, and a process
holds only the index, which is the same rows without bytes: some 100 bytes an image.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from cid_ray import places
from cid_ray.config import InputError
from cid_ray.places import Name

LAYOUT = 2  # version of the files
GROUP_ROWS = 8
SPLITS = ("train", "val", "test")
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),  # train, val or test; a pool image is a train row without a mask
        ("group", pa.string()),  # what images share that makes them alike: a drive, a patient, a site
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image_path", pa.string()),  # where it came from, relative to the import's root
        ("mask_path", pa.string()),
        ("sha256", pa.string()),
        ("class_pixels", pa.list_(pa.int64())),  # pixels of each class in the mask; null when unlabeled
        ("image", pa.binary()),
        ("mask", pa.binary()),
    ]
)
INDEX = [name for name in SCHEMA.names if name not in ("image", "mask")]


class UnreadableImage(InputError):
    """The bytes of one image are no picture."""

    def __init__(self, image_id: str, why: str, folder: Name):
        super().__init__(f"image {image_id} of {folder} cannot be read ({why}); import again with --skip-bad")
        self.image_id, self.why = image_id, why

    def __reduce__(self) -> tuple[Any, ...]:
        return InputError, (str(self),)  # as what others need to know


class TableWriter:
    """Writes rows as they come (bounded memory); `close` adds the meta file, without which the folder is no table."""

    def __init__(self, folder: Path, classes: list[str], colors: list[list[int]], ignore_index: int):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "meta.json").unlink(missing_ok=True)
        self.folder, self.rows, self.hash = folder, list[dict[str, Any]](), hashlib.sha256()
        self.index: list[pa.Table] = []
        self.meta = {"version": LAYOUT, "classes": classes, "colors": colors, "ignore_index": ignore_index}
        self.file = pq.ParquetWriter(folder / "table.parquet", SCHEMA, compression="none", use_dictionary=False)

    def add(self, row: dict[str, Any]) -> None:
        mask = row["mask"]
        key = [row["image_id"], row["split"], row["sha256"], hashlib.sha256(mask).hexdigest() if mask else None]
        self.hash.update(json.dumps(key).encode())
        self.rows.append(row)
        if len(self.rows) == GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self.rows:
            group = pa.Table.from_pylist(self.rows, SCHEMA)
            self.file.write_table(group, row_group_size=GROUP_ROWS)
            self.index.append(group.select(INDEX))
            self.rows = []

    def close(self, **meta: Any) -> None:
        self._flush()
        self.file.close()
        index = pa.concat_tables(self.index) if self.index else SCHEMA.empty_table().select(INDEX)
        pq.write_table(index, self.folder / "index.parquet")
        self.hash.update(json.dumps([self.meta["classes"], self.meta["ignore_index"]]).encode())
        meta = {**self.meta, "fingerprint": self.hash.hexdigest()[:16], **meta}
        (self.folder / "meta.json").write_text(json.dumps(meta, indent=1))


class Table:
    """An opened table, on this machine or in an object store: classes, index, the decoded image or mask of any row."""

    def __init__(self, folder: Name):
        self.folder = folder
        try:
            with places.reading(places.join(folder, "meta.json")) as file:
                meta = self.meta = json.loads(file.read())
            self.classes: list[str] = meta["classes"]
            self.colors: list[list[int]] = meta["colors"]
            self.ignore_index: int = meta["ignore_index"]
            self.fingerprint: str = meta["fingerprint"]
            with places.reading(places.join(folder, "index.parquet")) as file:
                self.index = pq.read_table(file)
            opened = self._open(None)
            self.layout = opened.metadata
            if opened.schema_arrow.names != SCHEMA.names or self.layout.num_rows != self.index.num_rows:
                raise ValueError("table.parquet and index.parquet are not of one import")
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {places.reason(error)}"
            raise InputError(
                f"data.table {str(folder)!r} is not a table ({reason}); make one with `python -m cid_ray.prepare`"
            ) from None
        self._own = threading.local()  # a ParquetFile serves one thread at a time

    def __len__(self) -> int:
        return self.index.num_rows

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def _open(self, layout: pq.FileMetaData | None) -> pq.ParquetFile:
        name = places.join(self.folder, "table.parquet")
        source = places.reading(name) if places.is_remote(name) else name
        return pq.ParquetFile(source, metadata=layout, memory_map=True)

    @property
    def _file(self) -> pq.ParquetFile:
        if not hasattr(self._own, "file"):
            self._own.file = self._open(self.layout)
        return self._own.file

    @cached_property
    def labeled(self) -> np.ndarray:
        """bool[N]: which rows have a mask."""
        return self.index["class_pixels"].is_valid().to_numpy()

    @cached_property
    def class_pixels(self) -> np.ndarray:
        """i64[N, K] pixels per class; zeros for unlabeled rows."""
        pixels = np.zeros((len(self), self.num_classes), np.int64)
        for row in np.flatnonzero(self.labeled):
            pixels[row] = self.index["class_pixels"][int(row)].as_py()
        return pixels

    def rows(self, split: str) -> np.ndarray:
        """i64: the rows of a split, in table order."""
        return np.flatnonzero(self.index["split"].to_numpy(zero_copy_only=False) == split)

    def ids(self, rows: np.ndarray) -> list[str]:
        return self.index["image_id"].take(pa.array(rows)).to_pylist()

    def groups(self, rows: np.ndarray) -> np.ndarray:
        return np.array([g or "" for g in self.index["group"].take(pa.array(rows)).to_pylist()], dtype=object)

    def read(self, row: int, mask: bool) -> tuple[Image.Image, np.ndarray | None]:
        """The RGB image of a row and, if asked for and there is one, its mask u8[H, W]; UnreadableImage."""
        encoded = self._cells(row, ["image", "mask"] if mask else ["image"])
        try:
            ids = self._ids(encoded[1]) if mask and encoded[1] is not None else None
            return decode(encoded[0]), ids
        except (OSError, ValueError, SyntaxError, TypeError, EOFError, Image.DecompressionBombError) as error:
            strange = isinstance(error, UnidentifiedImageError)  # its text is an address in memory
            why = "not a picture" if strange or not encoded[0] else str(error) or type(error).__name__
            raise UnreadableImage(self.ids(np.array([row]))[0], why, self.folder) from error

    def mask(self, row: int) -> np.ndarray:
        """The mask u8[H, W] of a labeled row, ignored pixels as 255."""
        return self._ids(self._cells(row, ["mask"])[0])

    def _cells(self, row: int, columns: list[str]) -> list[bytes]:
        group = self._file.read_row_group(row // GROUP_ROWS, columns=columns, use_threads=False)
        return [group[name][row % GROUP_ROWS].as_py() for name in columns]

    def _ids(self, encoded: bytes) -> np.ndarray:
        ids = np.array(Image.open(io.BytesIO(encoded)))
        return ids if self.ignore_index == 255 else np.where(ids == self.ignore_index, 255, ids).astype(np.uint8)


def decode(encoded: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(encoded))
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()  # convert would copy it
    return image


def png(array: np.ndarray, palette: list[list[int]] | None = None) -> bytes:
    """A u8 array [H, W] or [H, W, 3] as PNG bytes; with a palette as an indexed picture."""
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette([value for color in palette for value in color])
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def default_colors(count: int) -> list[list[int]]:
    """PASCAL VOC's colour map without its black: distinct, and the same for everybody."""
    colors = []
    for index in range(1, count + 1):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append(color)
    return colors


def open_table(name: str) -> Table:
    """The table of `data.table`: a folder, or "demo" for the generated set."""
    if name == "demo":
        from cid_ray.data.demo import demo_folder

        return Table(demo_folder())
    return Table(name if places.is_remote(name) else Path(name))
