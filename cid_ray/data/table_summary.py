"""What a table holds, in numbers: read from its index and `meta.json`, without decoding an image.

The audit page (`results/audit_page.py`) shows it. Legend: K classes; a share is a fraction 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from cid_ray.config import InputError
from cid_ray.data.table import Table
from cid_ray.data.table_format import SPLITS
from cid_ray.data.table_meta import ImportNotes, read_notes
from cid_ray.storage import paths

RARE_FRACTION = 0.1  # of the even share 1/K: a class below it is called rare
SHOWN_SIZES = 5  # most frequent image sizes that are named

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class ClassShare:
    """One class in the masks of one split."""

    share: float  # of the labeled pixels
    images: int  # with at least one pixel of it
    rare: bool  # below a tenth of an even share

    @property
    def absent(self) -> bool:
        """Whether no mask has a pixel of it."""
        return not self.images


@dataclass(frozen=True)
class SplitSummary:
    """One split that has images."""

    name: str
    images: int
    masks: int
    groups: int
    shared_groups: list[str]  # "2 with val": groups that other splits have too
    void_share: float | None  # of all pixels of its masks; None without masks
    classes: list[ClassShare]  # K, in the order of the ids; [] without masks
    num_sizes: int  # distinct image sizes
    spread: list[Size]  # the smallest, the middle and the largest by area
    frequent: list[tuple[Size, int]]  # sizes with their number of images

    @property
    def unlabeled(self) -> int:
        """The number of images without a mask."""
        return self.images - self.masks


@dataclass(frozen=True)
class TableSummary:
    """What a table holds."""

    name: str
    fingerprint: str
    ignore_index: int
    classes: list[str]
    colors: list[list[int]]
    splits: list[SplitSummary]
    rare_below: float  # the fraction of pixels below which a class is called rare
    notes: ImportNotes


def summarize_table(table: Table) -> TableSummary:
    """Count what a table holds, in memory of a few numbers per image.

    Args:
        table: an opened table, of any age.

    Raises:
        InputError: the notes in `meta.json` are damaged.

    Example:
        >>> [(split.name, split.images) for split in summarize_table(open_table("demo")).splits]
        [('train', 192), ('val', 32), ('test', 48)]
    """
    try:
        notes = read_notes(table.folder)
    except ValueError as error:
        raise InputError(f"{table.folder}: {error}; import the images again") from None
    names = {split: _group_names(table, split) for split in SPLITS}
    splits = [_summarize_split(table, split, table.rows(split), names) for split in SPLITS]
    return TableSummary(
        name=paths.basename(table.folder),
        fingerprint=table.fingerprint,
        ignore_index=table.ignore_index,
        classes=table.classes,
        colors=table.colors,
        splits=[split for split in splits if split.images],
        rare_below=RARE_FRACTION / table.num_classes,
        notes=notes,
    )


def _summarize_split(
    table: Table, split: str, rows: np.ndarray, group_names: dict[str, set[str]]
) -> SplitSummary:
    masked = rows[table.labeled[rows]]
    own = group_names[split]
    shared = {name: len(own & names) for name, names in group_names.items() if name != split}
    sizes = image_sizes(table, rows)
    distinct, counts = np.unique(sizes[:, 0] << 32 | sizes[:, 1], return_counts=True)
    distinct = np.stack([distinct >> 32, distinct & 0xFFFFFFFF], 1)
    frequent = np.argsort(-counts, kind="stable")[:SHOWN_SIZES]
    pixels = table.class_pixels[masked]
    area = int(image_sizes(table, masked).prod(1).sum())
    return SplitSummary(
        name=split,
        images=len(rows),
        masks=len(masked),
        groups=len(own),
        shared_groups=[f"{count} with {name}" for name, count in shared.items() if count],
        void_share=1 - int(pixels.sum()) / area if area else None,
        classes=_class_shares(pixels) if len(masked) else [],
        num_sizes=len(distinct),
        spread=_spread(sizes),
        frequent=[(_size(distinct[index]), int(counts[index])) for index in frequent],
    )


def _group_names(table: Table, split: str) -> set[str]:
    groups = table.index["group"].filter(pc.equal(table.index["split"], split))
    return set(groups.unique().drop_null().to_pylist())


def _spread(sizes: np.ndarray) -> list[Size]:
    """The smallest, the middle and the largest by area of sizes i64[n, 2]; [] without sizes."""
    by_area = np.argsort(sizes.prod(1), kind="stable")
    return [_size(sizes[by_area[index]]) for index in (0, len(sizes) // 2, -1) if len(sizes)]


def _class_shares(pixels: np.ndarray) -> list[ClassShare]:
    """Of i64[n, K] pixels per class."""
    totals = pixels.sum(0)
    shares = totals / max(1, totals.sum())
    images = (pixels > 0).sum(0)
    limit = RARE_FRACTION / len(totals)
    return [
        ClassShare(float(share), int(count), rare=bool(0 < share < limit))
        for share, count in zip(shares, images, strict=True)
    ]


def image_sizes(table: Table, rows: np.ndarray) -> np.ndarray:
    """i64[n, 2]: width and height of some rows i64[n]."""
    columns = (table.index[name].to_numpy()[rows] for name in ("width", "height"))
    return np.stack([column.astype(np.int64) for column in columns], axis=1)


def _size(pair: np.ndarray) -> Size:
    return int(pair[0]), int(pair[1])
