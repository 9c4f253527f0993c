"""The split of one run: which rows are labeled, in the pool, val and test, with a manifest of it.

The labels are drawn (`data/label_draw.py`) or read from UniMatch's lists (`data/split_files.py`).
All other train images are the pool, whose masks are never read.

With `data.val_from_budget` a ratio names ALL labels that are spent: a part of them is val, the
others train. The table's own val then selects nothing, and is reported if the table has no test
split.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.config import DataConfig
from cid_ray.data import split_files
from cid_ray.data.label_draw import choose_val, draw_labels, draw_pool, leave_out_val_images
from cid_ray.data.table import Table

MAX_SHOWN_GROUPS = 12  # with tiles, each image may be a group


def _no_rows() -> np.ndarray:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Split:
    """The rows of a table, i64 arrays, by their purpose."""

    ratio: str  # as configured: "1/16", or a count such as "23"; of split files their count
    labeled: np.ndarray  # rows to train on with their masks
    pool: np.ndarray  # rows to train on without masks
    manifest: dict[str, Any]  # what was drawn, from what, by which seeds
    # Val selects trials and checkpoints: the table's val, or a part of the label budget.
    val: np.ndarray = field(default_factory=_no_rows)
    test: np.ndarray = field(default_factory=_no_rows)  # is reported
    test_split: str = "test"  # the split of the table that `test` comes from: "test" or "val"

    @property
    def label_budget(self) -> int:
        """The number of labels that are spent: train's and, with `val_from_budget`, val's."""
        return len(self.labeled) + (len(self.val) if "val_ids" in self.manifest else 0)

    @property
    def test_is_val(self) -> bool:
        """Whether the reported images are those that select: the table has no others."""
        return np.array_equal(self.test, self.val)

    @property
    def ratio_name(self) -> str:
        """The ratio with its count: "1/16 (23)", "1/16 (23: 18 + 5 val)" or "23 labels"."""
        parts = ""
        if self.label_budget > len(self.labeled):
            parts = f": {len(self.labeled)} + {len(self.val)} val"
        if self.ratio.isdigit():
            return f"{self.label_budget} labels{parts}"
        return f"{self.ratio} ({self.label_budget}{parts})"

    @property
    def split_id(self) -> str:
        """12 hex digits that name the labeled images and, with `val_from_budget`, val."""
        return str(self.manifest["sha256"])[:12]

    def describe(self) -> list[str]:
        """Lines for a person: counts and groups, and a warning if labels lack a class."""
        groups = list(self.manifest["groups"].items())
        shown = [f"{name or '(none)'} {count}" for name, count in groups[:MAX_SHOWN_GROUPS]]
        if len(groups) > len(shown):
            shown.append(f"and {len(groups) - len(shown)} more")
        counts = ", ".join(shown)
        lines = [
            f"{self.ratio_name} labeled, {len(self.pool)} in the pool; "
            f"groups: {counts}; id {self.split_id}"
        ]
        if missing := self.manifest["classes_without_label"]:
            lines.append(f"warning: no labeled pixel of {', '.join(missing)}")
        return lines


def make_split(table: Table, data: DataConfig) -> Split:
    """The split of one ratio and label draw, or of `data.split_files`.

    Args:
        table: the data set.
        data: `ratio`, `draw`, `split_seed`, `label_from`, `val_from_budget`, `pool_fraction` and
            `split_files` count.

    Returns:
        The split. The same arguments always give the same split.

    Raises:
        InputError: there are fewer masks than the ratio asks for, or a list does not fit the table.

    Example:
        >>> split = make_split(open_table("demo"), DataConfig(ratio="1/8"))
        >>> split.ratio_name, len(split.pool)
        ('1/8 (24)', 168)
    """
    if data.split_folder:
        budget, pool = split_files.read_lists(table, Path(data.split_folder))
        split_files.check_label_count(data, len(budget))
        # A list may be sorted by name or drive, so its order is not a draw. Val needs one.
        order = np.random.default_rng([data.split_seed, data.draw]).permutation(budget)
        val_of_budget = choose_val(table, data, order)
        source = data.split_folder
        # One list for any ratio: data.ratio says nothing about it.
        ratio = data.ratio if data.has_list_per_ratio else str(len(budget))
    else:
        budget = draw_labels(table, data)
        pool = np.setdiff1d(table.rows("train"), budget)
        val_of_budget = choose_val(table, data, budget)
        source = "draw"
        ratio = data.ratio
    labeled = budget[~np.isin(budget, val_of_budget)]
    pool = draw_pool(leave_out_val_images(table, pool, val_of_budget), data)
    manifest = _make_manifest(table, data, labeled, pool, val_of_budget, source)
    masked = {split: masked_rows(table, split) for split in ("val", "test")}
    val = val_of_budget if len(val_of_budget) else masked["val"]
    test_split = "test" if len(masked["test"]) else "val"
    test = masked[test_split] if len(masked[test_split]) else val
    return Split(ratio, labeled, pool, manifest, val, test, test_split)


def masked_rows(table: Table, split: str) -> np.ndarray:
    """The rows of a split that have a mask, i64[n]."""
    rows = table.rows(split)
    return rows[table.labeled[rows]]


def _make_manifest(
    table: Table,
    data: DataConfig,
    labeled: np.ndarray,
    pool: np.ndarray,
    val_of_budget: np.ndarray,
    source: str,
) -> dict[str, Any]:
    """What was drawn, as JSON values. `sha256` names the split by its image ids alone."""
    ids = sorted(table.ids(labeled))
    val_ids = sorted(table.ids(val_of_budget))
    pixels = table.class_pixels[labeled].sum(0)
    groups, counts = np.unique(table.groups(labeled).astype(str), return_counts=True)
    hashed_lines = [*ids, "", *val_ids] if val_ids else ids
    manifest: dict[str, Any] = {
        "ratio": data.ratio,
        "labeled": len(labeled),
        "pool": len(pool),
        "draw": data.draw,
        "split_seed": data.split_seed,
        "label_from": data.label_from,
        "source": source,
        "table": table.fingerprint,
        "groups": dict(zip(groups.tolist(), counts.tolist(), strict=True)),
        "classes_without_label": [table.classes[k] for k in np.flatnonzero(pixels == 0)],
        "sha256": hashlib.sha256("\n".join(hashed_lines).encode()).hexdigest(),
        "ids": ids,
    }
    if val_ids:
        manifest["val_from_budget"] = data.val_from_budget
        manifest["val"] = len(val_ids)
        manifest["val_ids"] = val_ids
    return manifest


def write_split(table: Table, split: Split, out: Path) -> None:
    """Write a split as `manifest.json` and UniMatch's `labeled.txt` and `unlabeled.txt`.

    Args:
        table: the table that the split was made from.
        split: what `make_split` returned.
        out: the folder, made if it does not exist. `data.split_files` takes it.
    """
    split_files.write_lists(table, split.labeled, split.pool, split.manifest, out)
