"""The records that the numbers of a report come from: shown at the end of the page, to link to."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from cid_ray.results.compact_records import UNUSED_FIELDS
from cid_ray.results.records import Record, of_event
from cid_ray.results.summary import RatioSummary
from cid_ray.results.tables import MAX_ROWS


@dataclass(frozen=True)
class LinkedRecord:
    """A record on the page: the `id` to link to, a title, and its JSON."""

    anchor: str
    title: str
    text: str


def linked_records(records: list[Record], summaries: list[RatioSummary]) -> list[LinkedRecord]:
    """The ends of the chosen runs, the noise of their repeats, and the results of the searches.

    Example:
        >>> records = read_records("runs/demo")
        >>> linked_records(records, summarize(records))[0].anchor
        'final-1_16-supervised-000'
    """
    chosen = [final for summary in summaries for final in summary.chosen.values()]
    # A resumed search writes such records again: the newest one is shown.
    noise = {anchor_of(one): one for one in of_event(records, "noise")}
    searches = {anchor_of(one): one for one in of_event(records, "search")}
    found = [*chosen, *noise.values(), *searches.values()][:MAX_ROWS]
    return [
        LinkedRecord(anchor_of(one), f"{one['event']} {one['run']}", _shown(one)) for one in found
    ]


def _shown(record: Record) -> str:
    """Without the fields that no page needs: a reader of a large search leaves them out."""
    kept = {name: value for name, value in record.items() if name not in UNUSED_FIELDS}
    return json.dumps(kept, indent=1)


def anchor_of(record: Record) -> str:
    """The `id` of a record on the page: "final-1_16-cid-003", "noise-1_16-test"."""
    if record["event"] == "noise":
        return noise_anchor(record["ratio"], record["split"])
    return _slug(f"{record['event']}-{record['run']}")


def noise_anchor(ratio: str, split: str) -> str:
    return _slug(f"noise-{ratio}-{split}")


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]", "_", text)
