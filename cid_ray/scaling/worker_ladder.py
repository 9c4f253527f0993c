"""Measures a worker ladder: the time of a step at each number of workers.

Every worker has the same CPUs and GPUs at every count, those of the largest one. All counts are
measured once, then all again, `scale.repeats` times: a slow minute does not fall on one of them.
"""

from __future__ import annotations

import statistics
from typing import Any

from cid_ray.config import Config, InputError
from cid_ray.config.sharding import CUTMIX_GROUP_SIZE
from cid_ray.resources import ray_session
from cid_ray.resources.capacity import Resources
from cid_ray.resources.costs import machine_hour
from cid_ray.resources.requests import worker_resources
from cid_ray.results.ladder_page import append_conclusions
from cid_ray.results.ladder_records import common_fields
from cid_ray.results.records import Record, RecordWriter, of_event, read_records
from cid_ray.scaling.step_times import MEASURED_PARTS, time_steps, worker_config
from cid_ray.scaling.training_ladder import Log
from cid_ray.storage.run_config import load_run_config, write_config
from cid_ray.storage.run_dir import RunDir
from cid_ray.training import preflight


class WorkerLadder:
    """A checked worker ladder.

    Args:
        config: the ladder's configuration.
        run_dir: its run folder.
        resumed: whether the run folder holds the ladder already.
        machine: of the price list, for the costs.
        profile: also write torch's profiles.

    Attributes:
        total: measurements of all counts. unit: what they are.

    Raises:
        InputError: no counts, one that the batch is too small for, or an unknown machine.
    """

    unit = "measurement"
    verbose = False  # show what Ray's processes print

    def __init__(
        self,
        config: Config,
        run_dir: RunDir,
        resumed: bool,
        machine: str | None = None,
        profile: bool = False,
    ):
        if resumed:
            preflight.check_resumed_config(config, load_run_config(run_dir), run_dir.uri)
        if not config.scale.workers:
            raise InputError("scale.workers is empty: the ladder 'workers' needs its counts")
        self.config, self.run_dir = config, run_dir
        self.machine, self.profile = machine, profile
        self.configs = {count: worker_config(config, count) for count in config.scale.workers}
        self.total = config.scale.repeats * len(self.configs)
        self._usd_per_worker_hour(Resources(1, 0))
        found = preflight.check_data(config)
        self.num_pool = len(found.splits[config.data.ratio].pool)

    def measure(self, log: Log, advance: Log) -> list[Record]:
        """Measure what is missing.

        Args:
            log: prints a line.
            advance: shows how many measurements are done, and a text.

        Returns:
            All records of the ladder.
        """
        run_dir = self.run_dir
        write_config(self.config, run_dir)
        writer = RecordWriter(run_dir.local)
        ray_session.start_ray(self.verbose, metadata={"run": run_dir.basename})
        largest = self.configs[max(self.configs)]
        resources = worker_resources(largest, ray_session.cluster_capacity())
        log(f"each worker gets {resources}")
        self._check_equal_conditions(resources)
        done = 0
        for repeat in range(self.config.scale.repeats):
            for count in self.configs:
                earlier = _measured(run_dir, count)
                if _repeats(earlier) <= repeat:
                    record = self._measure_once(count, repeat, earlier, resources)
                    writer.append(record)
                    run_dir.push()
                    step = 1000 * record["measured"]["step"]
                    log(f"{count} workers: {step:.0f} ms per step ({done + 1} of {self.total})")
                done += 1
                advance(done, f"{count} workers")
        return append_conclusions(run_dir.local)

    def _check_equal_conditions(self, resources: Resources) -> None:
        """Raise InputError when earlier counts were measured with other workers or scaling."""
        weak = int(self.config.scale.scaling == "weak")
        now = {"cpus": resources.cpus, "gpus": resources.gpus, "weak": weak}
        for record in of_event(read_records(self.run_dir.local), "ladder"):
            before = {key: record["measured"][key] for key in now}
            if before != now:
                raise InputError(
                    f"--resume {self.run_dir}: {record['label']} workers were measured with "
                    f"{before}, now it would be {now}; choose another --out, or set "
                    "distributed.cpus_per_worker and scale.scaling as before"
                )

    def _measure_once(
        self, count: int, repeat: int, earlier: Record | None, resources: Resources
    ) -> Record:
        config, name = self.configs[count], f"workers-{count}-{repeat}"
        timed = time_steps(config, self.run_dir.uri, name, resources, self.profile)
        record = count_record(config, count, timed, earlier, resources)
        cost = self._usd_per_worker_hour(resources)
        record["measured"] |= {"pool_images": self.num_pool, "usd_per_worker_hour": cost}
        record["measured"]["max_workers"] = most_workers(self.config)
        return record

    def _usd_per_worker_hour(self, resources: Resources) -> float | None:
        return machine_hour(self.machine, resources, "--machine") if self.machine else None


def most_workers(config: Config) -> int | None:
    """The workers that the global batch has images for; None with weak scaling."""
    if config.scale.scaling == "weak":
        return None
    return min(config.data.batch_size, config.data.batch_size_u // CUTMIX_GROUP_SIZE)


def _measured(run_dir: RunDir, count: int) -> Record | None:
    """The record of a count so far."""
    for record in of_event(read_records(run_dir.local), "ladder"):
        if record["count"] == count:
            return record
    return None


def _repeats(earlier: Record | None) -> int:
    return 0 if earlier is None else int(earlier["measured"]["repeats"])


def count_record(
    config: Config, count: int, timed: dict[str, Any], earlier: Record | None, resources: Resources
) -> Record:
    """The record of a count with one more measurement."""
    repeats = _repeats(earlier)
    measured: dict[str, Any] = {"repeats": repeats + 1}
    for part in MEASURED_PARTS:
        mean = statistics.mean(timed["seconds"][part])
        if earlier is not None:
            mean = (repeats * earlier["measured"][part] + mean) / (repeats + 1)
        measured[part] = mean
    measured |= {
        "images": timed["images"],
        "images_per_s": timed["images"] / measured["step"],
        "gradient_bytes": timed["gradient_bytes"],
        **timed["memory"],
        "cpus": resources.cpus,
        "gpus": resources.gpus,
        "weak": int(config.scale.scaling == "weak"),
        "min_efficiency": config.scale.min_efficiency,
    }
    samples = [] if earlier is None else earlier["samples"]
    return {
        **common_fields(f"workers-{count}", config.data.ratio, config.method),
        "event": "ladder",
        "ladder": "workers",
        "label": str(count),
        "count": count,
        "samples": [*samples, *timed["seconds"]["step"]],
        "measured": measured,
    }
