"""Everything that went wrong in a run, collected from its records for the live page."""

from __future__ import annotations

from dataclasses import dataclass

from cid_ray.results.records import Record


@dataclass
class Issue:
    kind: str  # failed, stale, retry, warning or unreadable
    run: str
    text: str


def find_issues(records: list[Record]) -> list[Issue]:
    """Failed, retried and stale trials, unreadable images and warnings, in order."""
    found: dict[tuple[str, ...], Issue] = {}
    warned: dict[str, None] = {}
    for record in records:
        event = record["event"]
        run = record["run"]
        if event == "trial" and record["state"] == "failed":
            found["failed", run] = Issue("failed", run, record["reason"])
        elif event == "stale":
            found["stale", run] = Issue("stale", run, record["reason"])
        elif event == "retry":
            attempt = str(record["attempt"])
            found["retry", run, attempt] = Issue("retry", run, record["reason"])
        elif event == "rung" and record.get("unreadable"):
            names = ", ".join(record["unreadable_ids"])
            text = f"{record['unreadable']} pool images: {names}"
            found["unreadable", run] = Issue("unreadable", run, text)
        for text in _warnings(record):
            # Several trials give the same warning, and a rung's warning joins several:
            # each is shown once.
            if text not in warned and not any(text in other for other in warned):
                warned[text] = None
                found["warning", text] = Issue("warning", run, text)
    return list(found.values())


def _warnings(record: Record) -> list[str]:
    if record["event"] == "warning":
        return [record["message"]]
    if record["event"] == "rung":
        return [record["warning"]] if record.get("warning") else []
    if record["event"] == "final":
        return list(record.get("warnings", []))
    return []
