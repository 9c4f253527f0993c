"""Labels that come back from an annotator, merged into the table of their images.

Images are found by their content, else by their file's name. Classes are matched by name, so their
order and their ids may differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.image_codec import encode_png
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.table import IGNORED, Table
from cid_ray.data.table_copy import copied_meta, copied_row
from cid_ray.data.table_meta import some_names
from cid_ray.data.table_writer import TableWriter

# What tools call pixels that nobody has labeled.
BACKGROUND_NAMES = ("background", "_background_", "__background__")


@dataclass
class MergeCounts:
    """What was merged.

    Attributes:
        new: train images that had no mask before.
        replaced: train images whose mask was replaced.
        findings: what was left out or changed.
    """

    new: int = 0
    replaced: int = 0
    findings: Findings = field(default_factory=Findings)

    def describe(self) -> list[str]:
        """Lines for a person."""
        counted = f"{self.new} images have labels now, {self.replaced} have others than before"
        return [counted, *self.findings.describe()]


def annotation_name(image_id: str) -> str:
    """The name, without a suffix, of a table's image in the folder of an annotator.

    Example:
        >>> annotation_name("train/drive_1/0042")
        'train__drive_1__0042'
    """
    return image_id.replace("/", "__").replace("\\", "__")


def merge_labels(table: Table, labels: Table, out: Path, source: str) -> MergeCounts:
    """Write a table with the images of one and the masks of both.

    Masks of `labels` are taken, whatever their split, for train images of `table`. Masks of its val
    and test stay as they are.

    Args:
        table: the images, with the labels that there were.
        labels: the table of new masks, of the same images.
        out: the new table's folder.
        source: where the masks come from, for `meta.json`.

    Raises:
        InputError: no image is one of the table's, a class is not one of its classes, a mask has
            another size than its image, an image has two masks, or `out` holds other files.

    Example:
        >>> merge_labels(open_table("tables/mine"), open_table("tables/new"), Path("tables/2"), "")
        MergeCounts(new=48, replaced=2, ...)
    """
    counts = MergeCounts()
    ids = _class_ids(table, labels, counts.findings)
    label_of = _match(table, labels, counts)
    _check_sizes(table, labels, label_of)
    writer = TableWriter(out, table.classes, table.colors, IGNORED)
    try:
        for row in range(len(table)):
            columns = copied_row(table, row, with_mask=True)
            if row in label_of:
                columns |= _mask_columns(labels, label_of[row], ids, table.num_classes)
            writer.add(columns)
        merged = {"new": counts.new, "replaced": counts.replaced, "table": table.fingerprint}
        writer.close(
            **copied_meta(table),
            imported={"format": "merge", "labels": source, **merged},
            findings=counts.findings.to_json(),
            skipped=[],
            warnings=[],
        )
    except BaseException:  # Ctrl-C too
        writer.discard()
        raise
    return counts


def _mask_columns(labels: Table, row: int, ids: np.ndarray, num_classes: int) -> dict[str, Any]:
    mask = ids[labels.mask(row)]
    pixels = np.bincount(mask[mask != IGNORED], minlength=num_classes)
    path = labels.index["mask_path"][row].as_py()
    return {"mask": encode_png(mask), "class_pixels": pixels.tolist(), "mask_path": path}


def _class_ids(table: Table, labels: Table, findings: Findings) -> np.ndarray:
    """u8[256]: the table's id of each id of the labels; 255 for pixels without a label."""
    ids = np.full(256, IGNORED, np.uint8)
    pixels = labels.class_pixels.sum(0)
    for number, name in enumerate(labels.classes):
        if name in table.classes:
            ids[number] = table.classes.index(name)
        elif name.lower() in BACKGROUND_NAMES:
            if pixels[number]:
                reason = f"pixels of {name!r}, which is no class here, taken as not labeled"
                findings.add("changed", reason, labels.folder, int(pixels[number]))
        elif pixels[number]:
            raise InputError(
                f"{labels.folder} has the class {name!r}, which {table.folder} does not have: its "
                f"classes are {some_names(table.classes)}; rename it, or give it --map OLD=NEW "
                "when you import the labels"
            )
    return ids


def _match(table: Table, labels: Table, counts: MergeCounts) -> dict[int, int]:
    """Row of the table -> row of the labels; counts what is new, replaced or left out."""
    by_hash: dict[str, int] = {}
    by_name: dict[str, int] = {}
    ids = table.index["image_id"].to_pylist()
    splits = table.index["split"].to_pylist()
    hashes = table.index["sha256"].to_pylist()
    for row, (image_id, digest) in enumerate(zip(ids, hashes, strict=True)):
        by_hash.setdefault(digest, row)
        by_name[annotation_name(image_id)] = row
    found: dict[int, int] = {}
    for row in np.flatnonzero(labels.labeled).tolist():
        file = labels.index["image_path"][row].as_py()
        of_table = by_hash.get(labels.index["sha256"][row].as_py())
        if of_table is None:
            of_table = by_name.get(PurePosixPath(file).stem)
        if of_table is None:
            counts.findings.add("left out", "labels of images that the table does not have", file)
        elif splits[of_table] != "train":
            counts.findings.add("left out", "labels of val or test images", file)
        elif of_table in found:
            raise InputError(f"{labels.folder} has two masks of {ids[of_table]}, one is {file}")
        else:
            found[of_table] = row
    if not found:
        raise InputError(
            f"no labeled image of {labels.folder} is a train image of {table.folder}: images are "
            "found by their content, or by their file's name, such as "
            f"{annotation_name(ids[0])}.png"
        )
    replaced = sum(bool(table.labeled[row]) for row in found)
    counts.new, counts.replaced = len(found) - replaced, replaced
    return found


def _check_sizes(table: Table, labels: Table, label_of: dict[int, int]) -> None:
    for row, label_row in label_of.items():
        size, mask_size = _size(table, row), _size(labels, label_row)
        if size != mask_size:
            raise InputError(
                f"the mask of {table.ids(np.array([row]))[0]} has {mask_size} pixels, its image "
                f"{size}: export it at the image's size"
            )


def _size(table: Table, row: int) -> str:
    return f"{table.index['width'][row].as_py()} x {table.index['height'][row].as_py()}"
