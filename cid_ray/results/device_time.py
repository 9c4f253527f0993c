"""What a search has spent its device time on, for the live page."""

from __future__ import annotations

from cid_ray.results.records import Record

BASELINES = "baselines"
COMPLETED = "CID, completed"
PRUNED = "CID, pruned"
REPEATS = "repeats"
FAILED = "failed"
UNFINISHED = "unfinished"
TIME_KINDS = (BASELINES, COMPLETED, PRUNED, REPEATS, FAILED, UNFINISHED)


def device_seconds(records: list[Record], running: dict[str, Record]) -> dict[str, float]:
    """run -> seconds of training and scoring, over all its workers and restarts."""
    spent: dict[str, float] = {}
    for record in records:
        if record["event"] in ("rung", "final"):
            seconds = record["seconds"] * record["workers"]
            spent[record["run"]] = max(spent.get(record["run"], 0.0), seconds)
    for run, position in running.items():
        seconds = position.get("seconds", 0.0) * position.get("workers", 1)
        spent[run] = max(spent.get(run, 0.0), seconds)
    return spent


def seconds_by_kind(
    records: list[Record], ratio: str, finished: dict[str, Record], spent: dict[str, float]
) -> dict[str, float]:
    """What the device-seconds of one ratio were spent on."""
    found = dict.fromkeys(TIME_KINDS, 0.0)
    measured = [r for r in records if r["event"] in ("rung", "final") and r["ratio"] == ratio]
    newest = {record["run"]: record for record in measured}
    for run, record in newest.items():
        found[_time_kind(record, finished.get(run))] += spent[run]
    return found


def _time_kind(newest: Record, finished: Record | None) -> str:
    """The kind of a run from its newest measurement and its trial record."""
    is_final = newest["event"] == "final"
    if finished is None and not is_final:
        return UNFINISHED
    state = finished["state"] if finished else "complete"
    if state == "failed":
        return FAILED
    if newest["repeats_of"]:
        return REPEATS
    if newest["method"] != "cid":
        return BASELINES
    return PRUNED if state == "pruned" else COMPLETED
