"""Pace and remaining time: one place for the log, the live table, the pages and the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def remaining_seconds(elapsed: float, done: int, total: int) -> float | None:
    """Seconds until `total` items are done, at the pace of the first `done` of them.

    Args:
        elapsed: seconds that the `done` items took together, as a search runs several at a time.
        done: items finished within `elapsed`. Leave out what an earlier process finished.
        total: `done` plus the items that are left.

    Returns:
        Seconds, or None while nothing is done: there is no pace yet.

    Example:
        >>> remaining_seconds(elapsed=60.0, done=3, total=9)
        120.0
    """
    if done < 1:
        return None
    return elapsed / done * max(0, total - done)


def run_remaining_seconds(record: Mapping[str, Any]) -> float:
    """Seconds that are left to a run, at its own pace over all its restarts.

    Args:
        record: needs `seconds` (so far), `step` (done) and `steps` (in all). At step 0 the first
            step counts as done, so that a run that has just started has an estimate too.
    """
    left = record["steps"] - record["step"]
    return float(record["seconds"] / max(1, record["step"]) * left)
