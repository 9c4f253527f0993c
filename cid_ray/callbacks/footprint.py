"""What a search needs of disk and memory, in its records; a warning when the memory is too small.

What a trial takes is known at the first rung, when it has trained and scored val.
"""

from __future__ import annotations

import time

from cid_ray.callbacks.base import Callback
from cid_ray.results.formatting import format_bytes
from cid_ray.results.record_types import Memory
from cid_ray.results.records import Record
from cid_ray.search.controller import Search
from cid_ray.search.disk import DiskEstimate


class FootprintCheck(Callback):
    """Writes a `disk` record at the start, and a `memory` record at the first rung.

    Args:
        disk: the estimate.
        processes: training processes on one machine at the same time.
        gpu_processes: training processes on one GPU at the same time.
    """

    def __init__(self, disk: DiskEstimate, processes: int, gpu_processes: int):
        self.disk = disk
        self.processes = processes
        self.gpu_processes = gpu_processes
        self.measured = False

    def on_search_start(self, search: Search) -> None:
        self.search = search
        fields = {"ratio": "", "method": "", "trial_number": 0, "repeats_of": "", "repeat_index": 0}
        record = {"event": "disk", "run": search.run_dir.basename, **fields}
        search.events.records.append({**record, **self.disk.record_fields()})

    def on_trial_result(self, record: Record) -> None:
        memory = record.get("memory")
        if self.measured or record["event"] != "rung" or not memory:
            return
        self.measured = True
        text, fits = describe_memory(memory, self.processes, self.gpu_processes)
        identity = ("run", "ratio", "method", "trial_number", "repeats_of", "repeat_index")
        self.search.events.records.append(
            {
                "event": "memory",
                **{name: record[name] for name in identity},
                "memory": memory,
                "processes": self.processes,
                "gpu_processes": self.gpu_processes if memory["gpu_bytes"] else 0,
                "fits": fits,
                "timestamp": time.time(),
            }
        )
        if text:
            self.search.log(text, important=not fits)


def describe_memory(memory: Memory, processes: int, gpu_processes: int) -> tuple[str, bool]:
    """A line about the memory of all concurrent trials, and whether there is as much.

    Args:
        memory: of one process.
        processes: on one machine.
        gpu_processes: on one GPU.
    """
    parts = []
    fits = True
    for where, count, each, total in (
        ("a machine", processes, memory["process_bytes"], memory["machine_bytes"]),
        ("a GPU", gpu_processes, memory["gpu_process_bytes"], memory["gpu_bytes"]),
    ):
        if each is None or total is None:
            continue
        parts.append(
            f"{count} x {format_bytes(each)} = {format_bytes(count * each)} of the "
            f"{format_bytes(total)} of {where}"
        )
        fits = fits and count * each <= total
    if not parts:
        return "", True
    text = f"memory: concurrent trials take {' and '.join(parts)}"
    if fits:
        return text, True
    remedy = (
        "lower search.max_concurrent_trials, data.batch_size or train.micro_batch_size, or raise "
        "search.cpus_per_trial or search.gpus_per_trial"
    )
    return f"warning: {text}, which does not fit: {remedy}", False
