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
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from cid_ray.results.record_lines import EVENTS_OF_A_SEARCH, parse_line
from cid_ray.storage.boundary import no_follow

RECORDS_FILE = "records.jsonl"
Record = dict[str, Any]
# Records that agree in all of these fields are the same measurement.
IDENTITY = ("ratio", "method", "trial_number", "repeats_of", "repeat_index")
UNIQUE_BY = ("event", "run", "images_seen", "ratio", "message", "attempt", "nodes")


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
        end_line(self.path)
        with open(self.path, "ab", opener=no_follow) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def end_line(path: Path) -> None:
    """End the last line of a file if a kill has cut it short: the next one is then whole."""
    if not path.exists() or not path.stat().st_size:
        return
    with open(path, "rb+", opener=no_follow) as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")


class RecordReader:
    """Reads a folder's `records.jsonl`, again and again: each time only what was appended.

    Args:
        folder: a run folder on this machine.

    Attributes:
        num_lines: complete lines that were read.
        num_skipped: those of them that hold no record.
        torn: the file ends within a line: it is being written, was killed then, or was cut.

    Example:
        >>> reader = RecordReader(Path("runs/demo"))
        >>> records = reader.read()
        >>> print(len(records), reader.skipped)
    """

    def __init__(self, folder: str | Path):
        self.path = Path(folder) / RECORDS_FILE
        self._start_over()

    def _start_over(self) -> None:
        self.num_lines = 0
        self.num_skipped = 0
        self.torn = False
        self._first_skipped = ""
        self._found: dict[tuple[Any, ...], Record] = {}
        self._identities: dict[str, tuple[Any, ...]] = {}
        self._offset = 0  # of the first line that is not complete yet
        self._last_line = b""  # before the offset: tells an appended file from another one

    def read(self) -> list[Record]:
        """The records, each measurement once, as `read_records` returns them.

        Raises:
            OSError: the file cannot be read.
        """
        if not self.path.exists():
            self._start_over()
            return []
        with self.path.open("rb") as file:
            if not self._continues(file):
                self._start_over()
            file.seek(self._offset)
            self.torn = False
            for line in file:
                self._add(line)
        return list(self._found.values())

    def _continues(self, file: IO[bytes]) -> bool:
        """Whether the file is the one of the last `read`, perhaps with more at its end."""
        file.seek(self._offset - len(self._last_line))
        return file.read(len(self._last_line)) == self._last_line

    def _add(self, line: bytes) -> None:
        is_complete = line.endswith(b"\n")
        try:
            record = parse_line(line)
            self._check_identity(record)
            self._store(tuple(record.get(name) for name in UNIQUE_BY), record)
        except (ValueError, TypeError) as error:  # TypeError: a list where UNIQUE_BY needs a value
            if not is_complete:
                self.torn = True
            elif line.strip():
                self.num_skipped += 1
                self._first_skipped = self._first_skipped or (f"line {self.num_lines + 1}: {error}")
        if is_complete:
            self.num_lines += 1
            self._offset += len(line)
            self._last_line = line

    def _check_identity(self, record: Record) -> None:
        """Raise ValueError when earlier records of the run are of another trial."""
        if record["event"] in EVENTS_OF_A_SEARCH:
            return
        identity = tuple(record[name] for name in IDENTITY)
        if self._identities.setdefault(record["run"], identity) != identity:
            raise ValueError(f"{record['event']} record: {record['run']} is another trial before")

    def _store(self, key: tuple[Any, ...], record: Record) -> None:
        self._found[key] = record

    @property
    def skipped(self) -> str:
        """What was skipped, in a line; "" when nothing was."""
        if not self.num_skipped:
            return ""
        counts = f"{self.num_skipped} of {self.num_lines} lines"
        return f"{self.path}: skipped {counts} that hold no record ({self._first_skipped})"


def read_records(folder: str | Path, *, warn: bool = True) -> list[Record]:
    """Read the records of a run folder, each measurement once.

    Args:
        folder: a run folder on this machine.
        warn: give a UserWarning that counts the lines which hold no record.

    Returns:
        The records in order of first appearance, each with its last value, with the fields and
        types of its event in record_types.py. Lines without such a record are left out. Empty when
        the folder has no `records.jsonl`.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> finals = of_event(read_records("runs/demo"), "final")
        >>> {record["run"]: record["val/miou_teacher"] for record in finals}
    """
    reader = RecordReader(folder)
    records = reader.read()
    if warn and reader.skipped:
        warnings.warn(reader.skipped, stacklevel=2)
    return records


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
