"""Nested, seeded, class-covering label draws with a manifest; UniMatch's split files in and out.

A draw is ONE order of the train images that have masks: a ratio takes its first n, so 1/16 lies within 1/8 within 1/4.
Of 64 seeded orders the first is taken whose leading 1/16 shows every class that train has (else the one that shows
most): coverage by rejection, because picking class-rich images first would bias small ratios.

With `data.val_from_budget` the labels that a ratio gives are all there are: a share of them is val, the others train.
The table's own val then selects nothing, and is held out where the table has no test.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cid_ray.config import Data, InputError, label_share
from cid_ray.data.table import Table

CANDIDATES = 64
COVER_SHARE = 1 / 16


def _no_rows() -> np.ndarray:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Split:
    """Table rows by what they are for: labels, the pool (never with its masks), selecting, reporting."""

    ratio: str
    labeled: np.ndarray  # i64, and so are all rows
    pool: np.ndarray
    manifest: dict[str, Any]
    val: np.ndarray = field(default_factory=_no_rows)  # what selects: the table's val, or a part of the label budget
    test: np.ndarray = field(default_factory=_no_rows)  # what is reported
    held_out: str = "test"  # the table's split that `test` is

    @property
    def budget(self) -> int:
        """Labels that are spent: those that train and, with `val_from_budget`, those that select."""
        return len(self.labeled) + (len(self.val) if "val_ids" in self.manifest else 0)

    @property
    def test_selects(self) -> bool:
        """Nothing else is left to report: the held-out images are those that select."""
        return np.array_equal(self.test, self.val)

    @property
    def name(self) -> str:
        """The ratio with its count: "1/16 (23)", or "1/16 (23: 18 + 5 val)"."""
        parts = f": {len(self.labeled)} + {len(self.val)} val" if self.budget > len(self.labeled) else ""
        return f"{self.budget} labels{parts}" if self.ratio.isdigit() else f"{self.ratio} ({self.budget}{parts})"

    @property
    def split_id(self) -> str:
        return str(self.manifest["sha256"])[:12]


def make_split(table: Table, data: Data) -> Split:
    """The labeled rows, the pool and the val of one ratio and draw, or of `data.split_files`."""
    train = table.rows("train")
    if data.split_files:
        budget, pool = read_unimatch(table, Path(data.split_files))
        shuffled = np.random.default_rng([data.split_seed, data.draw]).permutation(budget)
        return _split(table, data, budget, pool, _selecting(table, data, shuffled), source=str(data.split_files))
    masked = train[table.labeled[train]]
    if not len(masked):
        raise InputError("the table has no train image with a mask: nothing can be learned from it")
    budget = draw_order(table, masked, data)[: _count(data.ratio, len(masked))]
    return _split(table, data, budget, np.setdiff1d(train, budget), _selecting(table, data, budget), source="draw")


def _selecting(table: Table, data: Data, budget: np.ndarray) -> np.ndarray:
    """The rows of a label budget that are val: evenly spaced in the order of the draw, so nested as labels are.

    With `label_from: each_group` they are evenly spaced group by group, so every group gives its part.
    """
    if not data.val_from_budget:
        return _no_rows()
    if data.label_from == "each_group":
        budget = budget[np.argsort(table.groups(budget).astype(str), kind="stable")]
    due = np.floor(np.arange(len(budget) + 1) * data.val_from_budget + 0.5)
    chosen = np.diff(due) > 0
    chosen[-1] |= not chosen.any()
    if (left := int((~chosen).sum())) < 2:
        raise InputError(
            f"data.val_from_budget={data.val_from_budget:g} leaves {left} of {len(budget)} labeled images to train on, "
            "must leave at least 2: lower it, or raise data.ratio"
        )
    return np.sort(budget[chosen])


def _masked(table: Table, split: str) -> np.ndarray:
    rows = table.rows(split)
    return rows[table.labeled[rows]]


def _count(ratio: str, masked: int) -> int:
    share, count = label_share(ratio)
    wanted = count if count is not None else int((share or 0) * masked + 0.5)
    if wanted > masked:
        raise InputError(f"data.ratio asks for {wanted} labeled images, train has {masked} masks")
    if wanted < 1:
        raise InputError(f"data.ratio {ratio} of {masked} masks is no image at all; give a count such as '4'")
    return wanted


def draw_order(table: Table, masked: np.ndarray, data: Data) -> np.ndarray:
    """All masked train rows in the order in which this draw takes them."""
    present = table.class_pixels[masked] > 0
    groups = table.groups(masked)
    lead = max(1, int(COVER_SHARE * len(masked) + 0.5))
    best, best_cover = np.arange(len(masked)), -1
    for candidate in range(CANDIDATES):
        rng = np.random.default_rng([data.split_seed, data.draw, candidate])
        order = _by_group(rng, groups, data.label_from)
        cover = int(present[order[:lead]].any(0).sum())
        if cover > best_cover:
            best, best_cover = order, cover
        if cover == int(present.any(0).sum()):
            break
    return masked[best]


def _by_group(rng: np.random.Generator, groups: np.ndarray, label_from: str) -> np.ndarray:
    order = rng.permutation(len(groups))
    if label_from == "any":
        return order
    names = rng.permutation(np.unique(groups))
    place = {name: i for i, name in enumerate(names)}
    group_of = np.array([place[g] for g in groups[order]])
    if label_from == "one_group":  # one group to its end, then the next
        return order[np.argsort(group_of, kind="stable")]
    turn = np.zeros(len(order))  # each_group: the k-th image of a group comes at (k + 1/2) / its size
    for name in range(len(names)):
        members = np.flatnonzero(group_of == name)
        turn[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(turn, kind="stable")]


def _split(table: Table, data: Data, budget: np.ndarray, pool: np.ndarray, selecting: np.ndarray, source: str) -> Split:
    labeled = budget[~np.isin(budget, selecting)]
    ids = sorted(table.ids(labeled))
    val_ids = sorted(table.ids(selecting))
    missing = [table.classes[k] for k in np.flatnonzero(table.class_pixels[labeled].sum(0) == 0)]
    groups, counts = np.unique(table.groups(labeled).astype(str), return_counts=True)
    hashed = "\n".join([*ids, "", *val_ids] if val_ids else ids)
    manifest = {
        "ratio": data.ratio,
        "labeled": len(labeled),
        "pool": len(pool),
        "draw": data.draw,
        "split_seed": data.split_seed,
        "label_from": data.label_from,
        "source": source,
        "table": table.fingerprint,
        "groups": dict(zip(groups.tolist(), counts.tolist(), strict=True)),
        "classes_without_label": missing,
        "sha256": hashlib.sha256(hashed.encode()).hexdigest(),
        "ids": ids,
    }
    if val_ids:
        manifest |= {"val_from_budget": data.val_from_budget, "val": len(val_ids), "val_ids": val_ids}
    own = {split: rows for split in ("val", "test") if len(rows := _masked(table, split))}
    val = selecting if len(selecting) else own.get("val", _no_rows())
    held_out = "test" if "test" in own else "val"
    return Split(data.ratio, labeled, pool, manifest, val, own.get(held_out, val), held_out)


def write_split(table: Table, split: Split, out: Path) -> None:
    """`manifest.json` and UniMatch's `labeled.txt` (image mask) and `unlabeled.txt` (image)."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").write_text(json.dumps(split.manifest, indent=1))
    paths, masks = _split_names(table), table.index["mask_path"]
    labeled = [f"{paths[int(r)]} {masks[int(r)]}" for r in split.labeled]
    unlabeled = [f"{paths[int(r)]} {masks[int(r)]}" if table.labeled[r] else str(paths[int(r)]) for r in split.pool]
    (out / "labeled.txt").write_text("\n".join(labeled) + "\n")
    (out / "unlabeled.txt").write_text("\n".join(unlabeled) + "\n")


def read_unimatch(table: Table, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labeled and pool rows of `labeled.txt` and `unlabeled.txt`; masks named in unlabeled.txt are never opened."""
    rows = _Lookup(table)
    labeled = rows.of(folder / "labeled.txt")
    pool = rows.of(folder / "unlabeled.txt")
    both = np.intersect1d(labeled, pool)
    if len(both):
        raise InputError(f"{folder}: {len(both)} images are labeled and unlabeled, first {table.ids(both[:1])[0]}")
    if not len(labeled):
        raise InputError(f"{folder / 'labeled.txt'} names no image")
    without = labeled[~table.labeled[labeled]]
    if len(without):
        raise InputError(f"{folder / 'labeled.txt'}: {table.ids(without[:1])[0]} has no mask in the table")
    return labeled, pool


class _Lookup:
    """Lines of a split file -> train rows, by relative path or, where unique, by file stem."""

    def __init__(self, table: Table):
        self.paths: dict[str, int] = {}
        self.stems: dict[str, int | None] = {}
        names = _split_names(table)
        for row in table.rows("train").tolist():
            self.paths[names[row]] = row
            stem = PurePosixPath(names[row]).stem
            self.stems[stem] = None if stem in self.stems else row

    def of(self, file: Path) -> np.ndarray:
        if not file.is_file():
            raise InputError(f"split file {file} does not exist")
        found = []
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if not line.strip():
                continue
            row = self._row(line.strip(), f"{file}, line {number}")
            if row is None:
                raise InputError(f"{file}, line {number}: no train image of the table is {line.strip()!r}")
            found.append(row)
        if len(set(found)) != len(found):
            raise InputError(f"{file} names an image twice")
        return np.array(found, dtype=np.int64)

    def _row(self, line: str, where: str) -> int | None:
        words = line.split(" ")  # a path may hold spaces: try every place where the mask's path could begin
        heads = [" ".join(words[:cut]) for cut in range(1, len(words) + 1)]
        for head in heads:
            path = PurePosixPath(head)
            if path.is_absolute() or ".." in path.parts:
                raise InputError(f"{where}: {head!r} leaves the data root; paths must be relative to it")
        exact = [self.paths[head] for head in reversed(heads) if head in self.paths]
        files = [head for head in heads if PurePosixPath(head).suffix]  # the image stands before the mask
        bare = [head for head in reversed(heads) if not PurePosixPath(head).suffix]
        by_stem = [self.stems.get(PurePosixPath(head).stem) for head in (*files, *bare)]
        return next((row for row in [*exact, *by_stem] if row is not None), None)


def _split_names(table: Table) -> list[str]:
    """How split files name each row: its relative path, or its id where several rows share that path."""
    paths, ids = table.index["image_path"].to_pylist(), table.index["image_id"].to_pylist()
    often = Counter(paths)
    return [path if often[path] == 1 else name for path, name in zip(paths, ids, strict=True)]
