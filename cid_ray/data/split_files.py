"""UniMatch's split files, read and written: `labeled.txt` and `unlabeled.txt`.

A line is an image, and the image's mask after a space if it has one. Published lists name images
in many ways: with or without mask, in other folders, as bare ids, with spaces in names. A line is
matched by its relative path first, and by the file's stem where that is unique.

The published lists of UniMatch and UniMatch V2 keep all rules that are checked here: no image is in
two lists or twice in one, and none of `val.txt` trains.
Format: https://github.com/LiheYoung/UniMatch-V2, `splits/`.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cid_ray.config import DataConfig, InputError, parse_label_ratio, read_utf8
from cid_ray.data.table import Table
from cid_ray.storage import paths
from cid_ray.storage.json_file import MEGABYTE

MAX_BYTES = 256 * MEGABYTE  # three million images
MAX_LINE_CHARS = 8192  # two paths; a line takes time with the square of its length


def write_lists(
    table: Table, labeled: np.ndarray, pool: np.ndarray, manifest: dict[str, Any], out: Path
) -> None:
    """Write `labeled.txt`, `unlabeled.txt` and `manifest.json` of labeled and pool rows i64[n]."""
    for file, rows in (("labeled.txt", labeled), ("unlabeled.txt", pool)):
        names = _row_names(table, rows)
        masks = table.index["mask_path"].take(pa.array(rows)).to_pylist()
        pairs = zip(names, masks, strict=True)
        lines = (f"{name} {mask}" if mask else name for name, mask in pairs)
        paths.write_text(out / file, "\n".join(lines) + "\n")
    paths.write_text(out / "manifest.json", json.dumps(manifest, indent=1))


def check_label_count(data: DataConfig, num_labeled: int) -> None:
    """InputError if `data.ratio` is another number than that of the labels in the list."""
    _, count = parse_label_ratio(data.ratio)
    if count not in (None, num_labeled):
        raise InputError(
            f"data.ratio is {data.ratio}, but labeled.txt of {data.split_folder} names "
            f"{num_labeled} images; set data.ratio={num_labeled} or choose other lists"
        )


def read_lists(table: Table, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """i64[n] labeled and i64[m] pool rows of a folder's two lists, in the order of the lists.

    Masks that `unlabeled.txt` names are ignored. A `val.txt` beside the folder, as in UniMatch's
    repository, must name none of these rows.

    Raises:
        InputError: a list is missing or empty, or a line names no train image, or an image twice.
    """
    lookup = _RowLookup(table)
    labeled_file = folder / "labeled.txt"
    labeled = lookup.rows_of(labeled_file)
    pool = lookup.rows_of(folder / "unlabeled.txt")
    both = np.intersect1d(labeled, pool)
    if len(both):
        first = table.ids(both[:1])[0]
        raise InputError(f"{folder}: {len(both)} images are labeled and unlabeled, first {first}")
    if not len(labeled):
        raise InputError(f"{labeled_file} names no image")
    without_mask = labeled[~table.labeled[labeled]]
    if len(without_mask):
        first = table.ids(without_mask[:1])[0]
        raise InputError(f"{labeled_file}: {first} has no mask in the table")
    lookup.check_val_list(folder.parent / "val.txt", folder, np.concatenate([labeled, pool]))
    return labeled, pool


class _RowLookup:
    """Finds the train row that a line of a split file names."""

    def __init__(self, table: Table):
        self.table = table
        self.train = _NameIndex(table, table.rows("train"))
        held_out = np.concatenate([table.rows("val"), table.rows("test")])
        self.held_out = _NameIndex(table, held_out)

    def rows_of(self, file: Path) -> np.ndarray:
        """i64[n]: the rows of a file's lines, in their order."""
        if not file.is_file():
            raise InputError(
                f"split file {file} does not exist (data.split_files). UniMatch's lists are in "
                "`splits` of https://github.com/LiheYoung/UniMatch; data.split_files=null draws "
                "labels instead"
            )
        rows = []
        text = read_utf8(file, MAX_BYTES)
        for number, untrimmed in enumerate(text.splitlines(), 1):
            line = untrimmed.strip()
            if not line:
                continue
            if len(line) > MAX_LINE_CHARS:
                raise InputError(
                    f"{file}, line {number}: has {len(line):,} characters, an image and its mask "
                    f"have at most {MAX_LINE_CHARS:,}"
                )
            where = f"{file}, line {number}"
            row = self.train_row(line, where)
            if row is None:
                raise InputError(f"{where}: {self._describe_unknown(line, where)}")
            rows.append(row)
        if len(set(rows)) != len(rows):
            first = next(row for row, count in Counter(rows).items() if count > 1)
            raise InputError(f"{file} names an image twice, first {self.name_of(first)}")
        return np.array(rows, dtype=np.int64)

    def train_row(self, line: str, where: str) -> int | None:
        """The train row that a line names. A stem counts only where no held-out path is named."""
        row = self.train.at_path(line, where)
        if row is None and self.held_out.at_path(line, where) is None:
            row = self.train.with_stem(line)
        return row

    def _describe_unknown(self, line: str, where: str) -> str:
        row = self.held_out.row_of(line, where)
        if row is not None:
            split = self.table.index["split"][row]
            return f"{line!r} is a {split} image of the table, which must not train"
        return f"no train image of the table is {line!r}"

    def check_val_list(self, file: Path, folder: Path, rows: np.ndarray) -> None:
        """InputError if a file of val images, which may be absent, names one of the rows i64[n]."""
        if not file.is_file():
            return
        lines = map(str.strip, read_utf8(file, MAX_BYTES).splitlines())
        val = {self.train_row(line[:MAX_LINE_CHARS], str(file)) for line in lines if line}
        leaked = [row for row in rows.tolist() if row in val]
        if leaked:
            raise InputError(
                f"{folder}: {len(leaked)} images of its lists are in {file} too, first "
                f"{self.name_of(leaked[0])}: a val image must not train"
            )

    def name_of(self, row: int) -> str:
        """How split files name a row."""
        return _row_names(self.table, np.array([row]))[0]


class _NameIndex:
    """Rows i64[n] by the path and, where it is unique, by the stem of their names."""

    def __init__(self, table: Table, rows: np.ndarray):
        self.by_path = dict(zip(_row_names(table, rows), rows.tolist(), strict=True))

    @cached_property
    def by_stem(self) -> dict[str, int | None]:
        """Stem -> row; None: several images share the stem. Lists of full paths need none of it."""
        found: dict[str, int | None] = {}
        for name, row in self.by_path.items():
            stem = PurePosixPath(name).stem
            found[stem] = None if stem in found else row
        return found

    def row_of(self, line: str, where: str) -> int | None:
        """The row that a line names, by path or by stem; `where`: as in `at_path`."""
        row = self.at_path(line, where)
        return self.with_stem(line) if row is None else row

    def at_path(self, line: str, where: str) -> int | None:
        """The row whose path a line names, or None; `where` is the line's place, for messages."""
        if line in self.by_path:  # most lines of a large pool
            return self.by_path[line]
        candidates = _image_candidates(line)
        for candidate in candidates:
            path = PurePosixPath(candidate)
            if path.is_absolute() or ".." in path.parts:
                raise InputError(
                    f"{where}: {candidate!r} leaves the data root; paths must be relative to it"
                )
        for candidate in reversed(candidates):
            if candidate in self.by_path:
                return self.by_path[candidate]
        return None

    def with_stem(self, line: str) -> int | None:
        """The row whose stem a line names, or None."""
        candidates = _image_candidates(line)
        # Candidates with a suffix are files, and the image comes before
        # the mask, so the shortest is tried first. Of bare ids the longest is the most specific.
        files = [name for name in candidates if PurePosixPath(name).suffix]
        bare = [name for name in reversed(candidates) if not PurePosixPath(name).suffix]
        for candidate in (*files, *bare):
            row = self.by_stem.get(PurePosixPath(candidate).stem)
            if row is not None:
                return row
        return None


def _image_candidates(line: str) -> list[str]:
    """What may be the image of a line. A path may hold spaces, so each may end the image."""
    words = line.split(" ")
    return [" ".join(words[:end]) for end in range(1, len(words) + 1)]


def _row_names(table: Table, rows: np.ndarray) -> list[str]:
    """How split files name rows i64[n]: by path, or by id where several rows share the path."""
    counts = table.index["image_path"].value_counts()
    shared = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    path = table.index["image_path"].take(pa.array(rows))
    image_id = table.index["image_id"].take(pa.array(rows))
    names: list[str] = pc.if_else(pc.is_in(path, shared), image_id, path).to_pylist()
    return names
