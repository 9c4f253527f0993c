"""The records of a large search in little memory, for pages.

A page draws curves of all rungs, but reads lists and dicts of the newest one only. And most of what
a record holds (versions, colors, words about the device) is the same in all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cid_ray.results.records import Record, RecordReader

# Which class scored how much is shown for the test images of chosen runs, never for val.
UNUSED_FIELDS = ("val/iou", "val/iou_teacher", "best/val/iou", "best/val/iou_teacher")
SHARED_FIELDS = ("versions", "colors")


class CompactRecordReader(RecordReader):
    """Reads records without what no page shows.

    The scores of val by class are left out, and every list and dict of a rung that is not its run's
    newest. Otherwise the records are those of `RecordReader`.
    """

    def __init__(self, folder: str | Path):
        self._latest: dict[str, Any] = {}
        self._newest_rung: dict[str, Record] = {}
        super().__init__(folder)

    def _start_over(self) -> None:
        super()._start_over()
        self._latest.clear()
        self._newest_rung.clear()

    def _store(self, key: tuple[Any, ...], record: Record) -> None:
        for field in SHARED_FIELDS:
            if field in record:
                if record[field] != self._latest.get(field):
                    self._latest[field] = record[field]
                record[field] = self._latest[field]  # one object for equal neighbours
        for field in UNUSED_FIELDS:
            record.pop(field, None)
        super()._store(key, record)
        if record["event"] == "rung":
            former = self._newest_rung.get(record["run"])
            if former is not None:
                for name in [n for n, value in former.items() if isinstance(value, dict | list)]:
                    del former[name]
            self._newest_rung[record["run"]] = record
