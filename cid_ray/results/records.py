"""`records.jsonl`: one JSON object a line, the source of truth about a run or a search.

A record says what was measured (`event`), of which run (name, ratio, method, trial and repeat
number), by which code on which data, and at what cost. record_types.py lists the fields of every
event. Reports are rebuilt from records alone, so this package needs neither torch nor ray.

One process appends, and every append reaches the disk. A resumed run repeats the record of its
last rung, so the file may hold a measurement twice: `read_records` keeps the last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RECORDS_FILE = "records.jsonl"
Record = dict[str, Any]
# Records that agree in all of these fields are the same measurement.
UNIQUE_BY = ("event", "run", "images_seen", "ratio", "message", "attempt")


class RecordWriter:
    """Appends records to a folder's `records.jsonl`.

    Args:
        folder: the run folder; it is created if absent.

    Example:
        >>> writer = RecordWriter(Path("runs/mine"))
        >>> for record in cid_ray.train(config, "runs/mine"):
        ...     if record["event"] != "progress":
        ...         writer.append(record)
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / RECORDS_FILE

    def append(self, record: Record) -> None:
        """Write one record and wait until it is on the disk.

        Raises:
            OSError: the file cannot be written.
            ValueError: a value is NaN or infinite, which JSON cannot express.
        """
        data = json.dumps(record, allow_nan=False, default=float).encode() + b"\n"
        with self.path.open("ab") as file:
            if file.tell() and not _ends_with_newline(self.path):
                file.write(b"\n")  # a kill cut the last record short: start a line of our own
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read_records(folder: str | Path) -> list[Record]:
    """Read the records of a run folder, each measurement once.

    Args:
        folder: a run folder on this machine.

    Returns:
        The records in order of first appearance, each with its last value. Lines cut short by a
        kill are left out. Empty when the folder has no `records.jsonl`.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> finals = of_event(read_records("runs/demo"), "final")
        >>> {record["run"]: record["val/miou_teacher"] for record in finals}
    """
    path = Path(folder) / RECORDS_FILE
    found: dict[tuple[Any, ...], Record] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found[tuple(record.get(name) for name in UNIQUE_BY)] = record
    return list(found.values())


def of_event(records: Iterable[Record], event: str) -> list[Record]:
    """The records of one event, in their order.

    Args:
        records: as `read_records` returns them.
        event: "rung", "final", "trial" or another event of record_types.py.

    Returns:
        The same dicts, not copies.

    Example:
        >>> rungs = of_event(read_records("runs/demo"), "rung")
    """
    return [record for record in records if record.get("event") == event]
