"""`pool`: looks at the pool of a run, and keeps what it finds in the run folder.

records.jsonl        a record of event `pool`, with every number that is printed
pool/images.csv      the numbers of each image of the pool that was looked at
pool/leave_out.txt   ids of the images to leave out
pool/split/          the run's labels and its pool without these, as `data.split_files` takes them
pool/images/         thumbnails of the oddest images
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.band_image import as_rgb
from cid_ray.data.ingest.perceptual_hash import describe_looks
from cid_ray.data.sources import open_table
from cid_ray.data.split_files import write_lists
from cid_ray.data.splits import Split, make_split
from cid_ray.data.table import Table
from cid_ray.data.table_errors import UnreadableImage
from cid_ray.data.table_summary import image_sizes
from cid_ray.data.thumbnails import encode_thumbnail
from cid_ray.inference.pool_check import evenly_spaced, picture_colors
from cid_ray.inference.pool_findings import PoolFindings, PoolImages
from cid_ray.inference.pool_scores import PoolScores, score_image
from cid_ray.inference.predictor import Predictor
from cid_ray.inference.pseudo_labels import check_classes
from cid_ray.results.common_fields import CommonFields
from cid_ray.results.pool_types import CopyOf, PoolPicture, PoolRecord
from cid_ray.storage import paths

FOLDER = "pool"
PICTURES = 12


@dataclass(frozen=True)
class SurveyItem:
    """One image to look at."""

    purpose: str  # labeled, val, test or pool
    table: Table
    row: int
    is_scored: bool  # by the network; else its hash alone counts


class PoolSurvey:
    """One look at a pool.

    Args:
        predictor: the network of the run.
        own: the table that it was trained on: its split has labels, val and test.
        pool_table: whose pool; `own` for the run's.
        max_images: of the pool, and of val, that the network sees.

    Attributes:
        items: the images to look at.

    Raises:
        InputError: a table does not fit the network, or has no pool.
    """

    def __init__(self, predictor: Predictor, own: Table, pool_table: Table, max_images: int):
        _check_table(predictor, own)
        _check_table(predictor, pool_table)
        self._predictor = predictor
        self._own = own
        is_own = pool_table is own
        self._name = str(predictor.config.data.table if is_own else pool_table.folder)
        self._table = pool_table
        self._split = make_split(own, predictor.config.data)
        self._pool = _pool_rows(self._split, own, pool_table)
        split = self._split
        test = split.test[:0] if split.test_is_val else split.test
        val_scored = set(evenly_spaced(split.val, max_images).tolist())
        self.items = [
            *(SurveyItem("labeled", own, row, True) for row in split.labeled.tolist()),
            *(SurveyItem("val", own, row, row in val_scored) for row in split.val.tolist()),
            *(SurveyItem("test", own, row, False) for row in test.tolist()),
            *(
                SurveyItem("pool", pool_table, row, True)
                for row in evenly_spaced(self._pool, max_images).tolist()
            ),
        ]
        self._scores: dict[tuple[str, bool], dict[int, dict[str, Any]]] = {}
        self._unreadable: list[int] = []  # rows of the pool

    def look(self, item: SurveyItem) -> None:
        """Read one image and score it. One that cannot be read is counted."""
        try:
            picture, _ = item.table.read(item.row, mask=False)
            if item.is_scored:
                scores = score_image(self._predictor, picture)
                scores["colors"] = picture_colors(np.asarray(as_rgb(picture)))
            else:
                looks = describe_looks(np.asarray(picture))
                scores = {"hash": looks.hash}
        except (UnreadableImage, InputError):
            if item.purpose == "pool":
                self._unreadable.append(item.row)
            return
        self._scores.setdefault((item.purpose, item.is_scored), {})[item.row] = scores

    def findings(self) -> PoolFindings:
        """What is odd, once all items were looked at.

        Raises:
            InputError: no image of the pool can be read.
        """
        if ("pool", True) not in self._scores:
            raise InputError(f"no image of the pool of {self._table.folder} can be read")
        images = {name: self._images(name) for name in ("labeled", "val", "pool")}
        purposes: tuple[CopyOf, ...] = ("labeled", "val", "test")
        copied = {name: self._hashes(name, images.get(name)) for name in purposes}
        pixels = self._own.class_pixels[self._split.labeled].sum(0)
        return PoolFindings(
            images["pool"], images["labeled"], images["val"], copied, pixels, self._table.classes
        )

    def _images(self, purpose: str) -> PoolImages:
        table = self._table if purpose == "pool" else self._own
        found = self._scores.get((purpose, True), {})
        rows = np.array(list(found), np.int64)
        empty = not found
        records = list(self._scores["pool", True].values())[:1] if empty else list(found.values())
        scores = PoolScores.of_records(records)
        colors = np.array([one["colors"] for one in records])
        if empty:
            scores, colors = scores.take(np.arange(0)), colors[:0]
        groups, sizes = table.groups(rows), image_sizes(table, rows)
        return PoolImages(table.ids(rows), groups, sizes, scores, colors)

    def _hashes(self, purpose: str, scored: PoolImages | None) -> tuple[list[str], np.ndarray]:
        """Ids and hashes of all images of a purpose."""
        others = self._scores.get((purpose, False), {})
        ids = self._own.ids(np.array(list(others), np.int64))
        content = b"".join(one["hash"] for one in others.values())
        hashes = np.frombuffer(content, np.uint8).reshape(-1, 32)
        if scored is None:
            return ids, hashes
        return [*scored.ids, *ids], np.concatenate([scored.scores.hashes, hashes])

    def write(self, findings: PoolFindings, run: Path, timestamp: float) -> PoolRecord:
        """Write the files below a run folder; the record is returned, not written."""
        out = run / FOLDER
        out.mkdir(parents=True, exist_ok=True)
        left_out = [*findings.left_out, *self._table.ids(np.array(self._unreadable, np.int64))]
        paths.write_text(out / "leave_out.txt", "".join(f"{name}\n" for name in left_out))
        paths.write_text(out / "images.csv", _as_csv(findings.lines()))
        pictures = self._draw(findings, run)
        split_files = self._write_split(set(left_out), out)
        final = self._predictor.checkpoint.final
        identity = {key: final[key] for key in CommonFields.__annotations__}
        record = {
            **identity,
            "event": "pool",
            "timestamp": timestamp,
            "table": self._name,
            "data": self._table.fingerprint,
            "pool_count": len(self._pool),
            "unreadable": len(self._unreadable),
            **findings.fields(),
            "left_out": len(left_out),
            "split_files": split_files,
            "pictures": pictures,
        }
        return record  # type: ignore[return-value]

    def _write_split(self, left_out: set[str], out: Path) -> str:
        """The run's split without some images of its pool; where it is, relative to the run."""
        if self._table is not self._own or not left_out:
            return ""
        ids = self._own.ids(self._pool)
        kept = self._pool[[name not in left_out for name in ids]]
        if not len(kept):
            return ""
        split = self._split
        is_val_drawn = "val_ids" in split.manifest
        labels = np.concatenate([split.labeled, split.val]) if is_val_drawn else split.labeled
        manifest = {**split.manifest, "pool": len(kept), "left_out": len(ids) - len(kept)}
        write_lists(self._own, labels, kept, manifest, out / "split")
        return f"{FOLDER}/split"

    def _draw(self, findings: PoolFindings, run: Path) -> list[PoolPicture]:
        """Thumbnails of the oddest images."""
        folder = run / FOLDER / "images"
        folder.mkdir(exist_ok=True)
        for file in folder.glob("*.jpg"):
            file.unlink()
        rows = list(self._scores["pool", True])
        pictures: list[PoolPicture] = []
        for index, reason in findings.oddest(PICTURES):
            name = f"{FOLDER}/images/{len(pictures):02d}.jpg"
            picture, _ = self._table.read(rows[index], mask=False)
            with paths.atomic_write(run / name) as out:
                out.write(encode_thumbnail(as_rgb(picture)))
            image_id, group = findings.pool.ids[index], str(findings.pool.groups[index])
            about = {"image_id": image_id, "group": group, "reason": reason}
            pictures.append({"file": name, **about})  # type: ignore[typeddict-item]
        return pictures


def open_tables(predictor: Predictor, named: Table | None) -> tuple[Table, Table]:
    """The table that the network was trained on, and the one whose pool is meant.

    Args:
        predictor: the network of the run.
        named: the table that the user named: a copy of the run's own, or another one.

    Raises:
        InputError: the run's own table cannot be opened, or is another one now.
    """
    if named is not None and named.fingerprint == predictor.data.table:
        return named, named
    own = open_table(predictor.config.data.table)
    if own.fingerprint != predictor.data.table:
        raise InputError(
            f"{own.folder} is not the table that the network was trained on: its content is "
            f"{own.fingerprint}, was {predictor.data.table}; name that one by --table"
        )
    return own, named or own


def _check_table(predictor: Predictor, table: Table) -> None:
    check_classes(predictor, table)
    if table.num_channels != predictor.data.num_channels:
        raise InputError(
            f"{table.folder} has images of {table.num_channels} channels, the network takes "
            f"{predictor.data.num_channels}; choose another --table"
        )


def _pool_rows(split: Split, own: Table, table: Table) -> np.ndarray:
    if table is own:
        rows = split.pool
    else:
        train = table.rows("train")
        rows = train[~table.labeled[train]]
    if not len(rows):
        raise InputError(
            f"{table.folder} has no pool for this run: every train image is labeled; choose a "
            "smaller RATIO, or a table with unlabeled images by --table"
        )
    return rows


def _as_csv(lines: list[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()
