"""Numbers that other people published on the same data, labels and val images (`published.yaml`).

A run is compared with them only where its records name the classes and the number of val images of
a known data set, and the `split_id` of a published list of labels. Everything else (crop, schedule,
weights of the encoder, choice of the epoch) may differ, and the reports say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cid_ray.config.yaml_reader import parse_yaml
from cid_ray.results.records import Record
from cid_ray.results.summary import RatioSummary

FILE = Path(__file__).with_name("published.yaml")
NOTE = (
    "Other people's results, in percent mIoU on val, as their sources print them. Most are of the "
    "best epoch on val, and crop, schedule and pretrained weights differ."
)


@dataclass(frozen=True)
class PublishedRow:
    """A method's numbers."""

    backbone: str
    method: str
    source: str
    scores: tuple[float | None, ...]  # percent mIoU, one per ratio of the table


@dataclass(frozen=True)
class PublishedTable:
    """The numbers of one data set and family of label lists, at the ratios of a report."""

    data_set: str
    lists: str
    ratios: tuple[str, ...]  # as the report names them: "92 labels", "1/16 (186)"
    rows: tuple[PublishedRow, ...]

    @property
    def title(self) -> str:
        """What the numbers are of: "PASCAL VOC 2012, high-quality lists"."""
        return f"{self.data_set}, {self.lists}"

    def of_encoder(self, encoder: str) -> PublishedTable:
        """The rows with the backbone of a timm encoder; all of them if none has."""
        own = [
            row for row in self.rows if encoder.startswith(row.backbone.lower().replace("-", ""))
        ]
        return PublishedTable(self.data_set, self.lists, self.ratios, tuple(own) or self.rows)


def published_tables(
    records: Sequence[Record], summaries: Sequence[RatioSummary]
) -> list[PublishedTable]:
    """The published numbers for the ratios of a report; none for any other data set or labels.

    Args:
        records: as `read_records` returns them.
        summaries: of these records.

    Example:
        >>> records = read_records("runs/demo")
        >>> published_tables(records, summarize(records))
        []
    """
    classes = next((list(r["colors"]) for r in reversed(records) if r.get("colors")), None)
    found = []
    for data_set in load_published():
        if classes != data_set["classes"]:
            continue
        for table in data_set["tables"]:
            column_of = {split_id: k for k, split_id in enumerate(table["splits"].values())}
            shown = {
                summary.name: column_of[split_id]
                for summary in summaries
                if (split_id := _split_id(summary, data_set["val_images"])) in column_of
            }
            if shown:
                rows = tuple(_rows(table["backbones"], list(shown.values())))
                found.append(PublishedTable(data_set["name"], table["lists"], tuple(shown), rows))
    return found


@lru_cache(maxsize=1)
def load_published() -> list[dict[str, Any]]:
    """The data sets of `published.yaml`."""
    data_sets: list[dict[str, Any]] = parse_yaml(FILE.read_text(encoding="utf-8"))["data_sets"]
    return data_sets


def _split_id(summary: RatioSummary, val_images: int) -> str | None:
    """The labels of a ratio; None if its runs differ in them or val is another one."""
    rungs = [rung for curve in summary.rungs.values() for rung in curve]
    seen = {(rung["split_id"], rung["val_count"]) for rung in [*rungs, *summary.finals.values()]}
    if len(seen) != 1:
        return None
    split_id, val_count = seen.pop()
    return split_id if val_count == val_images else None


def _rows(backbones: dict[str, Any], columns: list[int]) -> list[PublishedRow]:
    """The rows of a table with the columns that are shown; without those that have no values."""
    rows = [
        PublishedRow(backbone, method, source, tuple(scores[k] for k in columns))
        for backbone, methods in backbones.items()
        for method, (source, *scores) in methods.items()
    ]
    return [row for row in rows if any(score is not None for score in row.scores)]
