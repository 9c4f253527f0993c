"""One line of `records.jsonl` -> a record of its event's type, or why it is none.

A line may be torn by a kill, damaged on the disk, or written by another program. Whatever reads
records relies on the types of record_types.py, so they are checked here, once.
"""

from __future__ import annotations

import functools
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from cid_ray.config import format_validation_error
from cid_ray.results.record_types import EVENTS
from cid_ray.storage import paths

EVENTS_OF_A_SEARCH = ("search", "noise", "disk", "memory", "plan")
FIELDS_OF_ANY_TYPE = {"params", "best_hyperparameters", "pareto"}
MAX_NUMBER = 1e300  # what arithmetic on a page can still bear


def parse_line(line: bytes) -> dict[str, Any]:
    """The record in a line.

    Raises:
        ValueError: the line is no record; the message says why, in a few words.
    """
    record = parse_json(line)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    event = record.get("event")
    if not isinstance(event, str) or event not in EVENTS:
        raise ValueError(f"unknown event {str(event)[:40]!r}")
    try:
        _validator(event).validate_python(record, strict=True)
    except ValidationError as error:
        raise ValueError(f"{event} record: {format_validation_error(error)}") from None
    if event not in EVENTS_OF_A_SEARCH:  # the others are about one run
        if not paths.is_component(record["run"]):
            raise ValueError(f"{event} record, `run`: not a plain name")
        if not record["method"]:
            raise ValueError(f"{event} record, `method`: empty")
    for field in FIELDS_OF_ANY_TYPE & record.keys():
        check_numbers(record[field])
    return record


@functools.cache
def _validator(event: str) -> TypeAdapter[Any]:
    return TypeAdapter(EVENTS[event])


def parse_json(line: bytes) -> Any:
    """The JSON value in a line of UTF-8.

    Raises:
        ValueError: the line holds none; the message says why, in a few words.
    """
    try:
        return from_json(line)  # twice as fast as the standard library's; refuses lone surrogates
    except ValueError as error:
        raise ValueError("not UTF-8" if "unicode" in str(error) else "not JSON") from None


def check_numbers(value: Any) -> None:
    """Raise ValueError for a number within `value` that is no finite one of ordinary size."""
    if isinstance(value, dict):
        for item in value.values():
            check_numbers(item)
    elif isinstance(value, list):
        for item in value:
            check_numbers(item)
    elif isinstance(value, int | float) and not abs(value) < MAX_NUMBER:
        raise ValueError("a number is not finite")
