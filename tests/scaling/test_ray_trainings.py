"""Law: a training whose process dies is tried again as often as `search.retries` says, and a node
that is taken with notice does not count.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.exceptions import RayTaskError, WorkerCrashedError

from benchmarks.harness.tiny_run import TINY
from cid_ray.config import build_config
from cid_ray.results.records import RecordWriter, read_records
from cid_ray.scaling.ladders import Training
from cid_ray.scaling.ray_trainings import end_record
from cid_ray.training.preemption import Notice, Preempted

DEATH = WorkerCrashedError()
TAKEN = RayTaskError("stream_records", "traceback", Preempted(Notice("node", 0), 7))


def ends_of(*errors: Exception) -> list[str]:
    """The event after each of these ends, with two retries."""
    config = build_config(TINY, {"search.retries": 2, "search.max_preemption_failures": 3})
    training = Training("labels-12-cid-0", config)
    return [
        end_record(training, list(errors[: number + 1]))["event"] for number in range(len(errors))
    ]


@pytest.mark.parametrize(
    ("errors", "events"),
    [
        ([DEATH] * 3, ["retry", "retry", "failed"]),
        ([TAKEN] * 3, ["retry"] * 3),
        ([TAKEN] * 4, ["retry"] * 3 + ["failed"]),
        ([DEATH, TAKEN, DEATH, TAKEN, DEATH], ["retry"] * 4 + ["failed"]),
    ],
)
def test_only_deaths_count_as_retries(errors: list[Exception], events: list[str]) -> None:
    assert ends_of(*errors) == events


def test_records_of_ends_are_valid_and_say_why(tmp_path: Path) -> None:
    training = Training("labels-12-cid-0", build_config(TINY))
    writer = RecordWriter(tmp_path)
    for errors in ([DEATH], [DEATH, TAKEN]):
        writer.append(end_record(training, errors))
    died, taken = read_records(tmp_path)
    assert died["reason"].startswith("its process died")
    assert taken["reason"].startswith("preempted: node node will be taken; step 7")
    assert [died["attempt"], taken["attempt"]] == [1, 2]
