"""Law: a search records what it needs of disk and memory, once, and warns when the memory is too
small. Reference: hand-made figures, and a real search in this process.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cid_ray.callbacks.base import Callback
from cid_ray.callbacks.footprint import FootprintCheck, describe_memory
from cid_ray.results.record_types import Memory
from cid_ray.results.records import of_event, read_records
from cid_ray.search.controller import Decision, Search
from cid_ray.search.plan import plan_search
from cid_ray.storage.run_dir import RunDir
from cid_ray.training.launch import train
from tests.helpers.local_search import tiny_search

GB = 10**9


def memory(process: int | None, machine: int | None, gpu: int | None = None) -> Memory:
    """On a GPU of 80 GB if its process takes some."""
    whole_gpu = None if gpu is None else 80 * GB
    return {
        "process_bytes": process,
        "machine_bytes": machine,
        "gpu_process_bytes": gpu,
        "gpu_bytes": whole_gpu,
    }


@pytest.mark.parametrize(
    ("measured", "expected", "fits"),
    [
        (memory(2 * GB, 16 * GB), "4 x 2.0 GB = 8.0 GB of the 16 GB of a machine", True),
        (memory(5 * GB, 16 * GB), "4 x 5.0 GB = 20 GB of the 16 GB of a machine", False),
        (memory(2 * GB, 16 * GB, 30 * GB), "2 x 30 GB = 60 GB of the 80 GB of a GPU", True),
        (memory(2 * GB, 16 * GB, 50 * GB), "2 x 50 GB = 100 GB of the 80 GB of a GPU", False),
        (memory(None, 16 * GB), "", True),
    ],
)
def test_memory_of_concurrent_trials_is_compared_with_what_there_is(
    measured: Memory, expected: str, fits: bool
) -> None:
    text, found = describe_memory(measured, processes=4, gpu_processes=2)
    assert expected in text and found == fits
    assert text.startswith("warning") == (not fits)
    assert ("search.max_concurrent_trials" in text) == (not fits)


class Messages(Callback):
    def __init__(self) -> None:
        self.texts: list[tuple[str, bool]] = []

    def on_message(self, text: str, important: bool = False) -> None:
        self.texts.append((text, important))


@pytest.mark.parametrize(("processes", "fits"), [(2, True), (10**6, False)])
def test_search_has_one_record_of_disk_and_one_of_memory(
    processes: int, fits: bool, small_demo: Path, tmp_path: Path
) -> None:
    config = tiny_search(small_demo)
    plan = plan_search(config, tmp_path)
    messages = Messages()
    with Search.open(config, RunDir(tmp_path)) as search:
        search.add_callback(messages)
        search.add_callback(FootprintCheck(plan.disk, processes, gpu_processes=1))
        trial = search.next_trial()
        assert trial is not None
        for record in train(trial.config, tmp_path, trial.name, cpus=1):
            if search.report(record) is Decision.STOP:
                break
    records = read_records(tmp_path)
    (disk,) = of_event(records, "disk")
    assert (disk["run"], disk["at_most_bytes"]) == (tmp_path.name, plan.disk.at_most)
    (found,) = of_event(records, "memory")
    first_rung, *_ = of_event(records, "rung")
    assert found["memory"] == first_rung["memory"] and found["run"] == trial.name
    assert (found["processes"], found["gpu_processes"], found["fits"]) == (processes, 0, fits)
    ((text, important),) = messages.texts
    assert text.startswith("memory" if fits else "warning: memory") and important == (not fits)
