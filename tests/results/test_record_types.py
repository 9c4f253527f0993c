"""Law: every record has exactly the fields of its event's type, and docs/records.md names the same.

References are the records of a real search in this process, of the kept CamVid run, and those that
other tests make up.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from typing_extensions import get_type_hints

from cid_ray.callbacks.footprint import FootprintCheck
from cid_ray.results import plan_types, pool_types, record_types
from cid_ray.results.noise_records import noise_records
from cid_ray.results.record_types import EVENTS
from cid_ray.results.records import Record, read_records
from cid_ray.results.summary import summarize
from cid_ray.search.analysis import search_records
from cid_ray.search.controller import Search
from cid_ray.search.plan import plan_search
from cid_ray.search.ray_adapter import failure_record
from cid_ray.storage.run_dir import RunDir
from cid_ray.training.launch import train
from tests.helpers.dashboard_client import KEPT_RUN
from tests.helpers.local_search import search_until, tiny_search
from tests.helpers.records import checked_pool, cost, repeated_search, small_search

DOCS = Path(__file__).parents[2] / "docs" / "records.md"
ADAPTERS: dict[str, TypeAdapter[Any]] = {
    event: TypeAdapter(record_type) for event, record_type in EVENTS.items()
}


def check_types(records: Iterable[Record]) -> set[str]:
    """Assert that the records have their types; the events that were seen."""
    seen = set()
    for record in records:
        event = record["event"]
        unknown = record.keys() - get_type_hints(EVENTS[event]).keys()
        assert not unknown, f"{event} of {record['run']}"
        ADAPTERS[event].validate_python(record, strict=True)
        seen.add(event)
    return seen


def test_records_of_real_search_have_their_types(small_demo: Path, tmp_path: Path) -> None:
    config = tiny_search(small_demo)
    search = search_until(tmp_path, config)
    records = read_records(tmp_path)
    found = search_records(search.store)
    noise = noise_records(summarize([*records, *found]))
    assert check_types([*records, *found, *noise]) == {"rung", "final", "trial", "search"}


def test_records_of_real_run_have_their_types(small_demo: Path, tmp_path: Path) -> None:
    config = tiny_search(small_demo)
    records = list(train(config, tmp_path))
    assert {"rung", "final"} <= check_types(records)
    assert all(record["trial_number"] == 0 and record["run"] == "train" for record in records)


def test_records_of_faults_have_their_types(small_demo: Path, tmp_path: Path) -> None:
    """A warning between rungs, a process that dies, an exception."""
    losses = dict.fromkeys(("total", "sup", "pseudo", "relation", "style", "mask_ratio"), 0.5)
    progress = {"event": "progress", "losses": losses, **cost(1), "warning": "no pseudo-label"}
    with Search.open(tiny_search(small_demo), RunDir(tmp_path)) as search:
        trial = search.next_trial()
        assert trial is not None
        progress = {**progress, **trial.identity_fields}
        assert check_types([progress]) == {"progress"}
        search.report(progress)
        search.report_process_died(trial.name)
        again = search.next_trial()
        assert again is not None and again.name == trial.name
        try:
            raise FloatingPointError("the loss is not finite at step 3")
        except FloatingPointError as error:
            search.report(failure_record(trial.name, error))
    expected = {"warning", "retry", "failed", "trial"}
    assert check_types(read_records(tmp_path)) == expected
    assert check_types([failure_record("run", OSError(errno.ENOSPC, "disk full"))]) == {
        "storage_error"
    }


def test_records_of_disk_and_memory_have_their_types(small_demo: Path, tmp_path: Path) -> None:
    config = tiny_search(small_demo)
    with Search.open(config, RunDir(tmp_path)) as search:
        search.add_callback(FootprintCheck(plan_search(config, tmp_path).disk, 2, 1))
        trial = search.next_trial()
        assert trial is not None
        for record in train(trial.config, tmp_path, trial.name, cpus=1):
            search.report(record)
    assert {"disk", "memory", "rung"} <= check_types(read_records(tmp_path))


def test_records_of_kept_run_have_their_types() -> None:
    records = read_records(KEPT_RUN)
    assert check_types(records) == {"rung", "final", "trial", "search"}
    assert len(records) == 62


def test_records_of_test_helpers_have_their_types() -> None:
    records = [*small_search(), *repeated_search(), checked_pool()]
    noise = noise_records(summarize(records))
    expected = {"rung", "final", "trial", "search", "noise", "pool"}
    assert check_types([*records, *noise]) == expected


# ---- docs/records.md ----


def documented_fields() -> dict[str, set[str]]:
    """Heading -> the fields in the first column of its table."""
    found: dict[str, set[str]] = {}
    heading = ""
    for line in DOCS.read_text().splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ").strip("` ")
            found[heading] = set()
        elif line.startswith("| `"):
            found[heading] |= set(re.findall(r"`([^`]+)`", line.split("|")[1]))
    return found


def documented_groups() -> dict[str, list[str]]:
    """Event -> headings of the groups of fields that its section refers to."""
    found: dict[str, list[str]] = {}
    heading = ""
    for line in DOCS.read_text().splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ").strip("` ")
        elif line.startswith("Fields: "):
            found[heading] = re.findall(r"\[([^\]]+)\]\(#", line)
    return found


@pytest.mark.parametrize("event", EVENTS)
def test_docs_name_exactly_the_fields_of_event(event: str) -> None:
    fields = documented_fields()
    named = set(fields[event])
    for group in documented_groups()[event]:
        assert not named & fields[group], f"documented twice in {event}"
        named |= fields[group]
    assert named == set(get_type_hints(EVENTS[event]))


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("Loss terms", "Losses"),
        ("Gradients", "GradientFields"),
        ("Samples", "Sample"),
        ("Measured memory", "Memory"),
        ("Pareto points", "ParetoPoint"),
        ("Plan intervals", "PlanInterval"),
        ("Critical path", "ChainPart"),
        ("Recorded trials", "MethodCost"),
        ("Unlike images", "UnlikeFields"),
        ("Pool groups", "PoolGroup"),
        ("Pool classes", "PoolClass"),
        ("Pool copies", "PoolCopies"),
        ("Pool pictures", "PoolPicture"),
    ],
)
def test_docs_name_exactly_the_fields_of_nested_object(heading: str, name: str) -> None:
    modules = (record_types, plan_types, pool_types)
    module = next(module for module in modules if hasattr(module, name))
    assert documented_fields()[heading] == set(get_type_hints(getattr(module, name)))


def test_docs_have_a_section_for_every_event() -> None:
    assert set(documented_groups()) == set(EVENTS)
