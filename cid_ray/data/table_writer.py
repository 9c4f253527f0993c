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
    INDEX_SCHEMA,
    MASK_HASH,
    ROW_GROUP_BYTES,
    ROW_GROUP_SIZE,
    SCHEMA,
    STORED_SCHEMA,
)
from cid_ray.storage import boundary, paths
from cid_ray.storage.lock import LOCK_FILE, RunLock

PARTS_PER_CHUNK = 512
AUDIT_FILE = "audit.html"  # a page about the table, which can be made again
PARTIAL = ".partial"  # of a file that is still being written
TABLE_FILES = {"meta.json", "table.parquet", "index.parquet"}


def check_only_table(folder: Path) -> None:
    """Raise InputError when a folder to write a table into holds anything but an older table.

    A link in it that leads elsewhere is refused too: writing the table would follow it.
    """
    boundary.check_links(folder)
    names = {path.name for path in folder.iterdir()} - {LOCK_FILE, AUDIT_FILE}
    leftovers = {name for name in names if is_leftover(name)}
    # With a description of it, or the one that a killed import was about to name, it is a table.
    is_table = bool(names & {"meta.json", "meta.json.partial"})
    others = sorted(names - leftovers - (TABLE_FILES if is_table else set()))
    if others:
        listed = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise InputError(
            f"--out {folder} holds files that are not of a table ({listed}); choose a new folder"
        )


def is_leftover(name: str) -> bool:
    """Whether a file is what an import leaves that was killed: a table's file, not yet named so."""
    return name.startswith(tuple(TABLE_FILES)) and name.endswith(PARTIAL)


def remove_leftovers(folder: Path) -> None:
    """Remove what is half written."""
    for path in list(folder.glob(f"*{PARTIAL}")):
        if is_leftover(path.name):
            path.unlink(missing_ok=True)


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
        self._mask_hashes: list[str | None] = []  # of the pending rows
        self._index_parts: list[pa.Table] = []  # a row group each, until there are PARTS_PER_CHUNK
        self._index_chunks: list[pa.Table] = []
        self._digest = hashlib.sha256()
        remove_leftovers(folder)
        self._partial = folder / f"table.parquet{PARTIAL}"
        self._file = pq.ParquetWriter(
            self._partial,
            STORED_SCHEMA,
            compression="none",
            use_dictionary=False,
            write_statistics=["sha256"],
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
            stored = row_group.select(STORED_SCHEMA.names)
            hashes = pa.array(self._mask_hashes, MASK_HASH.type)
            part = row_group.select(INDEX_COLUMNS).append_column(MASK_HASH, hashes)
            self._index_parts.append(part)
            self._pending = []  # before the file's own buffers are filled
            self._pending_bytes = 0
            self._mask_hashes = []
            del row_group
            self._file.write_table(stored, row_group_size=ROW_GROUP_SIZE)
        if len(self._index_parts) == PARTS_PER_CHUNK:
            self._pack_index()

    def _pack_index(self) -> None:
        """Make one chunk of many small tables, which take kilobytes each."""
        if self._index_parts:
            self._index_chunks.append(pa.concat_tables(self._index_parts).combine_chunks())
            self._index_parts = []

    def close(self, **meta: Any) -> None:
        """Complete the table. `meta` is stored in `meta.json` too."""
        self._flush()
        self._file.close()
        self._pack_index()
        index = pa.concat_tables([INDEX_SCHEMA.empty_table(), *self._index_chunks])
        encoded = pa.BufferOutputStream()
        pq.write_table(index, encoded)
        (self.folder / f"index.parquet{PARTIAL}").write_bytes(encoded.getvalue())
        self.meta["index_sha256"] = hashlib.sha256(encoded.getvalue()).hexdigest()
        described = [self.meta["classes"], self.meta["ignore_index"]]
        if meta.get("num_channels", 3) != 3:  # these decide how images are decoded and normalised
            described += [meta[name] for name in ("num_channels", "band_mean", "band_std")]
        self._digest.update(json.dumps(described).encode())
        meta = {**self.meta, "fingerprint": self._digest.hexdigest()[:16], **meta}
        paths.write_text(self.folder / f"meta.json{PARTIAL}", json.dumps(meta, indent=1))
        # All is on the disk, and only names are left to be given.
        (self.folder / "meta.json").unlink(missing_ok=True)
        (self.folder / AUDIT_FILE).unlink(missing_ok=True)  # of the table that is replaced
        for name in ("table.parquet", "index.parquet", "meta.json"):
            (self.folder / f"{name}{PARTIAL}").replace(self.folder / name)
        self._lock.remove()

    def discard(self) -> None:
        """Remove what was written: the import failed. A folder that is empty then goes too."""
        with contextlib.suppress(OSError, pa.ArrowException):  # a full disk cannot be flushed
            self._file.close()
        remove_leftovers(self.folder)
        if not (self.folder / "meta.json").exists():
            (self.folder / AUDIT_FILE).unlink(missing_ok=True)
        self._lock.remove()
        with contextlib.suppress(OSError):
            self.folder.rmdir()
