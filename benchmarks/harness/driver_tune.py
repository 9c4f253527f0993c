"""Simulated trials through Ray Tune: actors, placement and results are real, training is not."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness.cpu_parts import CpuParts
from benchmarks.harness.driver_load import load_config, timed_records
from cid_ray.config import Config
from cid_ray.results.records import Record

TRIAL_SECONDS = 20.0  # of a training to the end
CPUS = 2


def sleeping_trial(run_dir: str, cpus: float, payload: dict[str, Any]) -> Iterator[Record]:
    """The records of a simulated trial at their times."""
    config = Config.model_validate_json(payload["config"])
    interval = config.train.progress_s
    started = time.monotonic() - random.uniform(0, 0.2)
    for moment, record in timed_records(config, payload["name"], TRIAL_SECONDS, interval):
        time.sleep(max(0.0, started + moment - time.monotonic()))
        yield record


class MemoryWatch:
    """The least memory that was available while the block ran, in GB."""

    def __enter__(self) -> MemoryWatch:
        self.before = self.least = available_gb()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.stop.wait(1.0):
            self.least = min(self.least, available_gb())

    def __exit__(self, *_: Any) -> None:
        self.stop.set()
        self.thread.join()


def available_gb() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20


def measure_tune(folder: Path, concurrent: int, trials: int) -> dict[str, Any]:
    """CPU of the driver's process a trial, and what of it is the search's own."""
    import ray

    from cid_ray.resources.capacity import Resources
    from cid_ray.resources.ray_session import RAY_ENVIRONMENT
    from cid_ray.search.controller import Search
    from cid_ray.search.ray_adapter import run_search
    from cid_ray.storage.run_dir import RunDir

    env = {"env_vars": {**RAY_ENVIRONMENT, "OMP_NUM_THREADS": "1"}}
    ray.init("local", num_cpus=CPUS, include_dashboard=True, log_to_driver=False, runtime_env=env)
    parts = CpuParts()
    try:
        with Search.open(load_config(trials), RunDir(folder)) as search, MemoryWatch() as memory:
            for name in ("next_trial", "report"):
                parts.wrap(search, name, name)
            before, wall = time.process_time(), time.monotonic()
            each = int(1e4 * 0.99 * CPUS / concurrent) / 1e4
            run_search(search, Resources(each, 0), concurrent, sleeping_trial)
            cpu, wall = time.process_time() - before, time.monotonic() - wall
            finished = search.store.n_finished()
            if search.rules.reason:
                raise RuntimeError(search.rules.reason)
    finally:
        ray.shutdown()
    own = sum(parts.seconds.values())
    results = parts.calls["report"]
    return {
        "concurrent": concurrent,
        "trials": finished,
        "wall_s": round(wall, 1),
        "driver_ms_per_trial": round(1000 * cpu / finished, 2),
        "search_ms_per_trial": round(1000 * own / finished, 2),
        "results_per_trial": round(results / finished, 2),
        "tune_ms_per_result": round(1000 * (cpu - own) / results, 2),
        "memory_gb_per_trial": round((memory.before - memory.least) / concurrent, 3),
        "memory_gb": round(memory.before - memory.least, 2),
    }
