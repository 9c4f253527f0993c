"""A table whose pool has the network's own confident predictions as masks: the second round of
self-training.

Labels of people stay as they are, and so do val and test. Of the first round's table only the
labels that its split had spent are kept: the masks of pool images, which a table may hold, are
never read.

Source: self-training for segmentation as in ST++ (Yang et al., CVPR 2022), without its reranking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.image_codec import encode_png
from cid_ray.data.splits import make_split, masked_rows
from cid_ray.data.table import IGNORED, Table
from cid_ray.data.table_copy import copied_meta, copied_row
from cid_ray.data.table_errors import UnreadableImage
from cid_ray.data.table_writer import TableWriter
from cid_ray.inference.image_parts import ImageParts, PredictOptions, join_rows
from cid_ray.inference.predictor import Predictor
from cid_ray.results.provenance import provenance

Progress = Callable[[Iterable[int], int], Iterable[int]]  # (rows, their number) -> the same rows


@dataclass(frozen=True)
class SelfTrainingRows:
    """Which rows of a table become what, i64 arrays."""

    labeled: np.ndarray  # keep their masks
    pool: np.ndarray  # get pseudo-labels
    val: np.ndarray
    test: np.ndarray


@dataclass
class PseudoLabelCounts:
    """What was written.

    Attributes:
        labeled: images with a mask of a person.
        pseudo: pool images with at least one confident pixel.
        unsure: pool images without one, and those that cannot be read: they stay unlabeled.
        kept: fraction of the pool's pixels that is labeled.
        class_fractions: of these, by class.
    """

    labeled: int
    pseudo: int
    unsure: int
    kept: float
    class_fractions: dict[str, float]

    def describe(self) -> list[str]:
        """Lines for a person."""
        fractions = ", ".join(f"{name} {part:.1%}" for name, part in self.class_fractions.items())
        return [
            f"{self.labeled} images keep their labels; {self.pseudo} of the pool have "
            f"pseudo-labels on {self.kept:.1%} of its pixels; {self.unsure} stay unlabeled",
            f"pseudo-labels by class: {fractions}",
        ]


def check_classes(predictor: Predictor, table: Table) -> None:
    """Raise InputError unless a table has the network's classes, in their order."""
    if table.classes != predictor.classes:
        raise InputError(
            f"{table.folder} has the classes {', '.join(table.classes)}, the network "
            f"{', '.join(predictor.classes)}"
        )


def self_training_rows(predictor: Predictor, table: Table) -> SelfTrainingRows:
    """The rows of the table: by the split of the training run if it is its table.

    Raises:
        InputError: there is no pool.
    """
    if predictor.data.table == table.fingerprint:
        split = make_split(table, predictor.config.data)
        rows = SelfTrainingRows(split.labeled, split.pool, split.val, split.test)
        if split.test_is_val:
            rows = SelfTrainingRows(split.labeled, split.pool, split.val, split.test[:0])
    else:
        train = table.rows("train")
        has_mask = table.labeled[train]
        val, test = masked_rows(table, "val"), masked_rows(table, "test")
        rows = SelfTrainingRows(train[has_mask], train[~has_mask], val, test)
    if not len(rows.pool):
        raise InputError(f"{table.folder} has no unlabeled image, so nothing to label")
    return rows


def write_pseudo_labels(
    predictor: Predictor,
    table: Table,
    out: Path,
    min_confidence: float,
    options: PredictOptions,
    progress: Progress,
) -> PseudoLabelCounts:
    """Write a table that `train` and `tune` take.

    Args:
        predictor: the network of the first round.
        table: its labels and its pool.
        out: the new table's folder.
        min_confidence: probability of the class from which on a pixel gets it, 0 to 1.
        options: how images are predicted.
        progress: shows how far it is.

    Raises:
        InputError: the classes are not the network's, there is no pool, or `out` holds other files.
    """
    check_classes(predictor, table)
    rows = self_training_rows(predictor, table)
    writer = TableWriter(out, table.classes, table.colors, IGNORED)
    tally = _Tally(len(table.classes))
    try:
        for split, chosen in (("train", rows.labeled), ("val", rows.val), ("test", rows.test)):
            for row in chosen.tolist():
                writer.add({**copied_row(table, row, with_mask=True), "split": split})
        for row in progress(rows.pool.tolist(), len(rows.pool)):
            classes = _confident(predictor, table, row, min_confidence, options)
            writer.add({**copied_row(table, row, with_mask=False), **tally.columns(classes)})
        writer.close(**_meta(predictor, table, min_confidence, tally))
    except BaseException:  # Ctrl-C too
        writer.discard()
        raise
    return tally.counts(len(rows.labeled), table.classes)


def _confident(
    predictor: Predictor, table: Table, row: int, min_confidence: float, options: PredictOptions
) -> np.ndarray | None:
    """u8[H, W]: the classes of confident pixels, 255 elsewhere; None if the image is unreadable."""
    try:
        picture, _ = table.read(row, mask=False)
        whole = join_rows(ImageParts(predictor, options, picture).rows())
    except UnreadableImage:
        return None
    return np.where(whole.confidence >= min_confidence, whole.classes, IGNORED).astype(np.uint8)


class _Tally:
    """Counts pixels, and makes the mask columns of a row."""

    def __init__(self, num_classes: int):
        self._pixels = np.zeros(num_classes, np.int64)
        self._total = 0
        self.pseudo = 0
        self.unsure = 0

    def columns(self, classes: np.ndarray | None) -> dict[str, Any]:
        """`mask` and `class_pixels`; none for an image without a confident pixel."""
        counts = np.zeros(len(self._pixels), np.int64)
        if classes is not None:
            counts = np.bincount(classes[classes != IGNORED], minlength=len(counts))
            self._total += classes.size
        if classes is None or not counts.any():
            self.unsure += 1
            return {}
        self._pixels += counts
        self.pseudo += 1
        mask = encode_png(classes)
        name = hashlib.sha256(mask).hexdigest()[:16]
        return {"mask": mask, "class_pixels": counts.tolist(), "mask_path": f"pseudo/{name}.png"}

    def counts(self, labeled: int, classes: list[str]) -> PseudoLabelCounts:
        found = int(self._pixels.sum())
        fractions = {
            name: count / max(1, found)
            for name, count in zip(classes, self._pixels.tolist(), strict=True)
        }
        kept = found / max(1, self._total)
        return PseudoLabelCounts(labeled, self.pseudo, self.unsure, kept, fractions)


def _meta(
    predictor: Predictor, table: Table, min_confidence: float, tally: _Tally
) -> dict[str, Any]:
    """What `meta.json` keeps: how images are read, and where the masks come from."""
    return copied_meta(table) | {
        "imported": {
            "format": "pseudo-labels",
            "checkpoint": str(predictor.checkpoint.path),
            "network": predictor.network,
            "step": predictor.step,
            "min_confidence": min_confidence,
            "table": table.fingerprint,
            "pseudo_labeled": tally.pseudo,
            "versions": provenance()["versions"],
        },
        "findings": [],
        "skipped": [],
        "warnings": [],
    }
