"""The columns of a table's files, and the checks that a table is of this format."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

FORMAT_VERSION = 3  # of the three files; 2 had all columns in table.parquet
ROW_GROUP_SIZE = 8  # images, at most, that one read from the file brings in
ROW_GROUP_BYTES = 64 << 20  # of encoded images and masks, after which a row group ends
SPLITS = ("train", "val", "test")
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),  # train, val or test; unlabeled images are in train
        ("group", pa.string()),  # images of one drive, patient or site look alike
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image_path", pa.string()),  # relative to the root of the import
        ("mask_path", pa.string()),
        ("sha256", pa.string()),  # of the encoded image
        ("class_pixels", pa.list_(pa.int64())),  # pixels per class of the mask; null: unlabeled
        ("image", pa.binary()),
        ("mask", pa.binary()),
    ]
)
# Of table.parquet. Its footer describes every column of every row group, about 1 kB in memory, so
# it has few: with all columns a million images took 3 GB of every process that opened the table.
STORED_SCHEMA = pa.schema([SCHEMA.field(name) for name in ("sha256", "image", "mask")])
INDEX_COLUMNS = [name for name in SCHEMA.names if name not in ("image", "mask")]
MASK_HASH = pa.field("mask_sha256", pa.string())  # of the index alone; null: unlabeled
INDEX_SCHEMA = pa.schema([*map(SCHEMA.field, INDEX_COLUMNS), MASK_HASH])


def check_index(index: pa.Table, num_classes: int) -> None:
    """Raise ValueError for an `index.parquet` of other columns or of impossible values."""
    if index.schema not in (INDEX_SCHEMA, INDEX_SCHEMA.remove(len(INDEX_COLUMNS))):
        raise ValueError("index.parquet has other columns than a table's")
    if unknown := set(index["split"].unique().to_pylist()) - set(SPLITS):
        raise ValueError(f"index.parquet has a split {unknown.pop()!r}")
    for name in ("image_id", "image_path", "height", "width", "sha256"):
        if index[name].null_count:
            raise ValueError(f"index.parquet has an image without {name}")
    lengths = pc.list_value_length(index["class_pixels"]).unique().drop_null().to_pylist()
    if lengths not in ([], [num_classes]):
        raise ValueError(f"index.parquet counts pixels of {lengths[0]} classes, not {num_classes}")
    if index["class_pixels"].combine_chunks().flatten().null_count:
        raise ValueError("index.parquet lacks a number of pixels")
