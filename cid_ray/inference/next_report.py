"""What `label_next` chose, as the numbers of next.csv, next.json and the page."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.data.merge import annotation_name
from cid_ray.data.table import Table
from cid_ray.inference.choose_images import Choice, Selection
from cid_ray.inference.pool_scores import PoolScores
from cid_ray.storage import paths

CSV_FILE = "next.csv"
JSON_FILE = "next.json"
MAX_NAMED_CLASSES = 3  # of an image, in next.csv
SHOWN_CLASS = 0.01  # of an image: less is no class of it


@dataclass(frozen=True)
class NextReport:
    """What was chosen, and why: the numbers of next.csv, next.json and the page."""

    table: Table
    labeled: np.ndarray  # rows
    pool: list[int]  # rows
    scores: PoolScores  # of the pool
    class_area: np.ndarray  # f64[K], of the labels, in images
    selection: Selection
    unreadable: list[dict[str, Any]]  # records

    def lines(self) -> list[dict[str, Any]]:
        """A line of next.csv for each chosen image."""
        return [self._line(rank, one) for rank, one in enumerate(self.selection.choices, start=1)]

    def _line(self, rank: int, choice: Choice) -> dict[str, Any]:
        fractions = self.scores.fractions[choice.index]
        order = np.argsort(-fractions)[:MAX_NAMED_CLASSES].tolist()
        image_id = self._id(choice.index)
        return {
            "rank": rank,
            "image_id": image_id,
            "file": annotation_name(image_id),
            "uncertainty": round(float(self.scores.uncertainty[choice.index]), 4),
            "represent": round(choice.represent, 5),
            "class_gain": round(choice.classes, 5),
            "classes": ", ".join(
                f"{self.table.classes[k]} {fractions[k]:.0%}"
                for k in order
                if fractions[k] >= SHOWN_CLASS
            ),
        }

    def _id(self, index: int) -> str:
        return self.table.ids(np.array([self.pool[index]]))[0]

    def to_json(self) -> dict[str, Any]:
        """Every number that is printed."""
        chosen = [choice.index for choice in self.selection.choices]
        expected = self.scores.fractions[chosen].astype(float).sum(0)
        return {
            "labeled": len(self.labeled),
            "pool": len(self.pool),
            "chosen": len(chosen),
            "near_labels": [self._id(index) for index in self.selection.near_labels],
            "near_chosen": [self._id(index) for index in self.selection.near_chosen],
            "unreadable": [one["reason"] for one in self.unreadable],
            "pool_uncertainty": round(float(self.scores.uncertainty.mean()), 4),
            "chosen_uncertainty": round(float(self.scores.uncertainty[chosen].mean()), 4),
            "classes": [
                {"name": name, "labeled": round(now, 4), "expected": round(more, 4)}
                for name, now, more in zip(
                    self.table.classes, self.class_area.tolist(), expected.tolist(), strict=True
                )
            ],
        }

    def write(self, out: Path, content: dict[str, Any]) -> None:
        """Write next.csv, and `content` as next.json."""
        lines = self.lines()
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        paths.write_text(out / CSV_FILE, buffer.getvalue())
        paths.write_text(out / JSON_FILE, json.dumps(content, indent=1) + "\n")
