"""Writes a table row by row. See `data/table_format.py` for the columns of its files."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cid_ray.config import InputError
from cid_ray.data.table_format import (
    FORMAT_VERSION,
    INDEX_COLUMNS,
    MASK_HASH,
    ROW_GROUP_BYTES,
    ROW_GROUP_SIZE,
    SCHEMA,
)
from cid_ray.storage import boundary, paths
from cid_ray.storage.lock import LOCK_FILE, RunLock

TABLE_FILES = {"meta.json", "table.parquet", "index.parquet"}


def check_only_table(folder: Path) -> None:
    """Raise InputError when a folder to write a table into holds anything but an older table.

    A link in it that leads elsewhere is refused too: writing the table would follow it.
    """
    boundary.check_links(folder)
    names = {path.name for path in folder.iterdir()} - {LOCK_FILE, "table.parquet.partial"}
    others = sorted(names - TABLE_FILES if "meta.json" in names else names)
    if others:
        listed = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise InputError(
            f"--out {folder} holds files that are not of a table ({listed}); choose a new folder"
        )


class TableWriter:
    """Writes rows as they come, in bounded memory. No other process may write into the folder.

    `close` gives the files their names, `meta.json` last. A folder without that file is not a
    table, so a half-written table is never opened. A table that is replaced stays until then.

    Raises:
        InputError: the folder holds other files, or another process writes into it.
    """

    def __init__(
        self, folder: Path, classes: list[str], colors: list[list[int]], ignore_index: int
    ):
        self._lock = RunLock(folder)
        try:
            check_only_table(folder)
        except InputError:
            self._lock.remove()
            raise
        self.folder = folder
        self.meta = {
            "version": FORMAT_VERSION,
            "classes": classes,
            "colors": colors,
            "ignore_index": ignore_index,
        }
        self._pending: list[dict[str, Any]] = []  # rows of the row group that is being filled
        self._pending_bytes = 0  # of their images and masks
        self._index_parts: list[pa.Table] = []
        self._mask_hashes: list[str | None] = []
        self._digest = hashlib.sha256()
        self._partial = folder / "table.parquet.partial"
        self._file = pq.ParquetWriter(
            self._partial, SCHEMA, compression="none", use_dictionary=False
        )

    def add(self, row: dict[str, Any]) -> None:
        """Append one row. Its keys are the columns of SCHEMA."""
        mask = row["mask"]
        mask_hash = hashlib.sha256(mask).hexdigest() if mask else None
        key = [row["image_id"], row["split"], row["sha256"], mask_hash]
        self._digest.update(json.dumps(key).encode())
        self._pending.append(row)
        self._mask_hashes.append(mask_hash)
        self._pending_bytes += len(row["image"]) + len(mask or b"")
        if len(self._pending) == ROW_GROUP_SIZE or self._pending_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            row_group = pa.Table.from_pylist(self._pending, SCHEMA)
            self._pending = []  # before the file's own buffers are filled
            self._pending_bytes = 0
            self._file.write_table(row_group, row_group_size=ROW_GROUP_SIZE)
            self._index_parts.append(row_group.select(INDEX_COLUMNS))

    def close(self, **meta: Any) -> None:
        """Complete the table. `meta` is stored in `meta.json` too."""
        self._flush()
        self._file.close()
        if self._index_parts:
            index = pa.concat_tables(self._index_parts)
        else:
            index = SCHEMA.empty_table().select(INDEX_COLUMNS)
        (self.folder / "meta.json").unlink(missing_ok=True)
        self._partial.replace(self.folder / "table.parquet")
        index = index.append_column(MASK_HASH, pa.array(self._mask_hashes, MASK_HASH.type))
        encoded = pa.BufferOutputStream()
        pq.write_table(index, encoded)
        (self.folder / "index.parquet").write_bytes(encoded.getvalue())
        self.meta["index_sha256"] = hashlib.sha256(encoded.getvalue()).hexdigest()
        described = [self.meta["classes"], self.meta["ignore_index"]]
        if meta.get("num_channels", 3) != 3:  # these decide how images are decoded and normalised
            described += [meta[name] for name in ("num_channels", "band_mean", "band_std")]
        self._digest.update(json.dumps(described).encode())
        meta = {**self.meta, "fingerprint": self._digest.hexdigest()[:16], **meta}
        paths.write_text(self.folder / "meta.json", json.dumps(meta, indent=1))
        self._lock.remove()

    def discard(self) -> None:
        """Remove what was written: the import failed. A folder that is empty then goes too."""
        with contextlib.suppress(OSError, pa.ArrowException):  # a full disk cannot be flushed
            self._file.close()
        self._partial.unlink(missing_ok=True)
        self._lock.remove()
        with contextlib.suppress(OSError):
            self.folder.rmdir()
