"""`label_next`: scores the pool of a table, chooses images, and writes what an annotator needs.

settings.json   what decides the choice; the same command continues, another is refused
pool.jsonl      the scores of each labeled and each pool image
next.csv        the chosen images, the most useful first
next.json       every number that the command prints
next.html       the same with pictures
images/, cvat.zip, cvat_labels.json, classes.txt   see annotation_files.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.band_image import as_rgb
from cid_ray.data.merge import annotation_name
from cid_ray.data.table import Table
from cid_ray.data.table_errors import UnreadableImage
from cid_ray.data.thumbnails import encode_thumbnail, overlay
from cid_ray.inference.annotation_files import AnnotationFiles
from cid_ray.inference.choose_images import Strategy, choose_images
from cid_ray.inference.image_parts import ImageParts, PredictOptions, join_rows
from cid_ray.inference.inputs import InputImage
from cid_ray.inference.next_report import NextReport
from cid_ray.inference.pool_scores import PoolScores, score_image
from cid_ray.inference.prediction_run import PredictionRun
from cid_ray.inference.predictor import Predictor
from cid_ray.inference.pseudo_labels import check_classes, self_training_rows

POOL_FILE = "pool.jsonl"


@dataclass(frozen=True)
class NextImage:
    """A chosen image on the page; the pictures are JPEG."""

    rank: int
    image_id: str
    uncertainty: float
    classes: str
    photo: bytes
    prediction: bytes


class NextLabels:
    """One choice of images to label.

    Args:
        predictor: the network that chooses.
        table: its labels and its pool. Of the table that the network was trained on, the labels
            are those that its run has spent; of another one, all masks of train.
        count: how many images to choose.
        by: "combined", "uncertainty" or "random".
        seed: of the choice.

    Attributes:
        items: the labeled images, then the pool.
        message: after `draw`, what could not be written; "" if everything was.

    Raises:
        InputError: the table has no pool or other classes, or `count` is not positive.
    """

    def __init__(self, predictor: Predictor, table: Table, count: int, by: Strategy, seed: int = 0):
        if count < 1:
            raise InputError(f"--count is {count}, must be at least 1")
        check_classes(predictor, table)
        self._predictor = predictor
        self._table = table
        self._count, self._by, self._seed = count, by, seed
        rows = self_training_rows(predictor, table)
        self._labeled = rows.labeled
        self.message = ""
        self._row_of: dict[str, int] = {}
        self.items: list[InputImage] = []
        every = np.concatenate([rows.labeled, rows.pool])
        for name, row in zip(table.ids(every), every.tolist(), strict=True):
            self._row_of[name] = row
            self.items.append(InputImage(name, str(table.folder), row))

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the choice, besides the network."""
        return {
            "pool_table": str(self._table.folder),
            "table": self._table.fingerprint,
            "count": self._count,
            "by": self._by,
            "seed": self._seed,
        }

    def score(self, item: InputImage) -> dict[str, Any]:
        """The record of an image."""
        row = item.row or 0
        record = {"name": item.name, "source": item.source, "row": row}
        try:
            picture, _ = self._table.read(row, mask=False)
            scores = score_image(self._predictor, picture)
        except (UnreadableImage, InputError) as error:
            return {"event": "unreadable", **record, "reason": str(error)}
        return {"event": "prediction", **record, "files": {}, **scores}

    def choose(self, run: PredictionRun) -> NextReport:
        """Choose from the records of a run, which has one of each image.

        Raises:
            InputError: no image of the pool can be read, or all look like labeled images.
        """
        known = {self._row_of[name]: one for name, one in run.done.items() if name in self._row_of}
        readable = {row: one for row, one in known.items() if one["event"] == "prediction"}
        is_labeled = set(self._labeled.tolist())
        pool = [row for row in readable if row not in is_labeled]
        labeled = [row for row in readable if row in is_labeled]
        if not pool:
            raise InputError(f"no image of the pool of {self._table.folder} can be read")
        pool_scores = PoolScores.of_records(readable[row] for row in pool)
        labeled_scores = (
            PoolScores.of_records(readable[row] for row in labeled)
            if labeled
            else pool_scores.take(np.arange(0))
        )
        area = self._class_area()
        selection = choose_images(
            pool_scores, labeled_scores, area, self._count, self._by, self._seed
        )
        if not selection.choices:
            raise InputError(
                f"every image of the pool of {self._table.folder} looks like a labeled image"
            )
        unreadable = [one for one in known.values() if one["event"] == "unreadable"]
        return NextReport(
            self._table, self._labeled, pool, pool_scores, area, selection, unreadable
        )

    def _class_area(self) -> np.ndarray:
        """f64[K]: the area of each class in the labels, in images."""
        pixels = self._table.class_pixels[self._labeled].astype(float)
        return np.asarray((pixels / np.maximum(1, pixels.sum(1, keepdims=True))).sum(0))

    def draw(self, report: NextReport, out: Path) -> Iterator[NextImage]:
        """Write the files of each chosen image; yields what the page shows of it."""
        files = AnnotationFiles(out, self._table.classes, self._table.colors)
        for rank, line in enumerate(report.lines(), start=1):
            row = self._row_of[line["image_id"]]
            picture, _ = self._table.read(row, mask=False)
            encoded, _ = self._table.encoded(row, mask=False)
            parts = ImageParts(self._predictor, PredictOptions(), picture)
            classes = join_rows(parts.rows()).classes
            files.add(annotation_name(line["image_id"]), encoded, picture, classes)
            shown = overlay(as_rgb(picture), classes, self._table.colors)
            pictures = [encode_thumbnail(as_rgb(picture)), encode_thumbnail(shown)]
            yield NextImage(rank, line["image_id"], line["uncertainty"], line["classes"], *pictures)
        self.message = files.close()
