"""The near-duplicates that an import found, as rows of its table.

`meta.json` has names as the import knew them: an image's id, or the path of its file. An image that
was left out for its likeness is in no row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cid_ray.data.table import Table
from cid_ray.data.table_meta import PairNote


@dataclass(frozen=True)
class NearPair:
    """Two images that look alike."""

    note: PairNote
    rows: tuple[int | None, int | None]  # of the first and the second; None: not in the table


def find_pairs(table: Table, notes: Iterable[PairNote], count: int) -> list[NearPair]:
    """The first `count` pairs of which at least one image is in the table."""
    notes = list(notes)
    row_of = _find_rows(table, {name for note in notes for name in (note.first, note.second)})
    pairs = [NearPair(note, (row_of.get(note.first), row_of.get(note.second))) for note in notes]
    return [pair for pair in pairs if pair.rows != (None, None)][:count]


def _find_rows(table: Table, names: set[str]) -> dict[str, int]:
    """Name -> row, of the names that one row alone has: as its id, or at the end of its path."""
    found = {}
    by_id = _rows_with(table, "image_id", names)
    endings = {name: _endings(name) for name in names - by_id.keys()}
    by_path = _rows_with(table, "image_path", {end for ends in endings.values() for end in ends})
    for name in names:
        rows = by_id.get(name)
        if rows is None:  # the longest ending that a row has
            rows = next((by_path[end] for end in endings[name] if end in by_path), [])
        if len(rows) == 1:
            found[name] = rows[0]
    return found


def _endings(path: str) -> list[str]:
    """`/a/b/c.png` -> ["a/b/c.png", "b/c.png", "c.png"], with the path itself first."""
    parts = PurePosixPath(path).parts
    return [path, *("/".join(parts[start:]) for start in range(len(parts)))]


def _rows_with(table: Table, column: str, values: set[str]) -> dict[str, list[int]]:
    """Value -> the rows that have it. Memory does not grow with the table."""
    is_one = pc.is_in(table.index[column], pa.array(sorted(values), pa.string()))
    rows: dict[str, list[int]] = {}
    for row in np.flatnonzero(is_one.to_numpy()).tolist():
        rows.setdefault(table.index[column][row].as_py(), []).append(row)
    return rows
