"""`status.json`: what a search is doing now. Written by callbacks/status_file.py."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from cid_ray.config import InputError, format_validation_error
from cid_ray.results.record_lines import check_numbers, parse_json
from cid_ray.results.record_types import Losses
from cid_ray.results.records import RECORDS_FILE, Record, of_event
from cid_ray.results.score_types import Count, Method, PositiveCount, Seconds

STATUS_FILE = "status.json"
MAX_BYTES = 64 * 2**20  # of a file that is larger nothing is read


class RunningStatus(TypedDict):
    """A trial that runs: its identity, and how far it is, as in a progress record."""

    ratio: str
    method: Method
    trial_number: Count
    repeats_of: str
    repeat_index: Count
    steps: PositiveCount
    params: dict[str, Any]
    resumed: bool
    timestamp: Seconds  # when it started, since 1970
    workers: NotRequired[PositiveCount]
    step: NotRequired[Count]
    images_seen: NotRequired[Count]
    seconds: NotRequired[Seconds]
    images_per_s: NotRequired[Seconds]
    losses: NotRequired[Losses]


class Status(TypedDict):
    """A search at the time `timestamp`."""

    state: Literal["running", "closed", "stopped"]  # closed by itself or by Ctrl-C
    reason: str  # of the error that stopped it
    total: Count  # trials in all
    finished: Count  # trials whose end is in records.jsonl
    tested: Count  # runs whose test scores are
    searches: Count  # `search` records, which the end of a search writes
    finished_before: Count  # those of them that finished before this start
    started: Seconds  # this start, since 1970
    timestamp: Seconds  # this status, its heartbeat
    host: str  # see `process_namespace`
    pid: PositiveCount
    running: dict[str, RunningStatus]  # by run


def read_status(folder: Path) -> dict[str, Any]:
    """The newest status of a run folder.

    Returns:
        The fields of `Status` and `gone`: the search ran on this machine, and its process no longer
        exists. {} where there is no status.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    file = folder / STATUS_FILE
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"{file} is larger than {MAX_BYTES >> 20} MiB")
        status = parse_json(file.read_bytes())
        TypeAdapter(Status).validate_python(status, strict=True)
        check_numbers([running["params"] for running in status["running"].values()])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise InputError(f"{file} holds no status ({format_validation_error(error)})") from None
    except ValueError as error:
        raise InputError(f"{file} holds no status ({error})") from None
    is_here = status["host"] == process_namespace()
    return {**status, "gone": is_here and not _process_exists(status["pid"])}


def recorded_counts(records: Iterable[Record]) -> dict[str, int]:
    """What a status counts of the records: `finished`, `tested` and `searches` of `Status`."""
    records = list(records)
    finals = of_event(records, "final")
    return {
        "finished": len(of_event(records, "trial")),
        "tested": len({record["run"] for record in finals if "test_split" in record}),
        "searches": len(of_event(records, "search")),
    }


def lost_records(records: Iterable[Record], status: Mapping[str, Any]) -> str:
    """What the status counted and the records lack; "" when nothing is missing.

    Args:
        records: read after the status, unless the search is over.
        status: as `read_status` returns it.
    """
    words = {
        "finished": "finished trials",
        "tested": "runs with test scores",
        "searches": "`search` records",
    }
    recorded = recorded_counts(records)
    missing = [
        f"{STATUS_FILE} counted {status[name]} {what}, {RECORDS_FILE} has {recorded[name]}"
        for name, what in words.items()
        if recorded[name] < status.get(name, 0)
    ]
    return "; ".join(missing)


def process_namespace() -> str:
    """A hash of where process ids mean the same, as a run folder may be published.

    Containers and machines of a cloud often share their host name. The boot id and, on Linux, the
    namespace of process ids tell them apart.
    """
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")
        parts += [boot_id, os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:12]


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it exists, but another user owns it
    return True
