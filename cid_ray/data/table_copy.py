"""Rows and facts of a table, for another table that is made of it."""

from __future__ import annotations

from typing import Any

from cid_ray.data.image_codec import encode_png
from cid_ray.data.table import IGNORED, Table


def copied_row(table: Table, row: int, with_mask: bool) -> dict[str, Any]:
    """A row as it is stored, with its mask or without. Ignored pixels of masks become 255.

    Raises:
        UnreadableImage: the stored bytes are not those that were imported.
    """
    (columns,) = table.index.slice(row, 1).to_pylist()
    columns.pop("mask_sha256", None)
    image, mask = table.encoded(row, with_mask)
    if mask is not None and table.ignore_index != IGNORED:
        mask = encode_png(table.mask(row))
    pixels = columns["class_pixels"] if with_mask else None
    path = columns["mask_path"] if with_mask else None
    return {**columns, "class_pixels": pixels, "mask_path": path, "image": image, "mask": mask}


def copied_meta(table: Table) -> dict[str, Any]:
    """How image files are read, as `meta.json` stores it: bands, window, tiles."""
    spec = table.model_data.model_dump(exclude={"classes", "colors", "table"}, exclude_none=True)
    found: dict[str, Any] = {key: value for key, value in spec.items() if key != "num_channels"}
    if table.band_stats is not None:
        mean, std = table.band_stats
        found |= {"num_channels": table.num_channels, "band_mean": mean, "band_std": std}
    if table.tile is not None:
        found |= {"tile": table.tile, "overlap": table.overlap}
    return found
