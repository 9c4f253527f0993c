"""Measures how many trials one node finishes per hour, against how many it runs at a time.

At each count so many trainings run at the same time and share the node: CPUs in whole numbers where
that is possible, and its GPUs. Each is the configured training without its test.
"""

from __future__ import annotations

import statistics
from typing import Any

from cid_ray.config import Config, InputError, build_config
from cid_ray.resources import ray_session
from cid_ray.resources.capacity import ClusterCapacity, Resources
from cid_ray.results.ladder_page import append_conclusions
from cid_ray.results.ladder_records import common_fields
from cid_ray.results.records import Record, RecordWriter, of_event, read_records
from cid_ray.scaling.ladders import Training
from cid_ray.scaling.ray_trainings import run_trainings
from cid_ray.scaling.training_ladder import Log
from cid_ray.search.plan import Placement
from cid_ray.storage.checkpoint_paths import remove_checkpoints
from cid_ray.storage.run_config import load_run_config, write_config
from cid_ray.storage.run_dir import RunDir
from cid_ray.training import preflight


class ConcurrencyLadder:
    """A checked ladder of concurrent trials.

    Args:
        config: the ladder's configuration; every training has one worker.
        run_dir: its run folder.
        resumed: whether the run folder holds the ladder already.

    Attributes:
        total: trainings of all counts.
        unit: what they are.

    Raises:
        InputError: no counts, several workers, or a configuration that cannot train.
    """

    unit = "training"
    verbose = False  # show what Ray's processes print

    def __init__(self, config: Config, run_dir: RunDir, resumed: bool):
        if resumed:
            preflight.check_resumed_config(config, load_run_config(run_dir), run_dir.uri)
        if not config.scale.concurrent:
            raise InputError("scale.concurrent is empty: the ladder 'concurrency' needs its counts")
        if config.distributed.max_workers > 1:
            raise InputError(
                f"distributed.num_workers is {config.distributed}, must be 1 for the ladder "
                "'concurrency': trials of several workers do not share a GPU"
            )
        self.config, self.run_dir = config, run_dir
        self.total = sum(config.scale.concurrent)
        preflight.check_data(config)

    def measure(self, log: Log, advance: Log) -> list[Record]:
        """Measure what is missing; returns all records of the ladder."""
        run_dir = self.run_dir
        write_config(self.config, run_dir)
        writer = RecordWriter(run_dir.local)
        ray_session.start_ray(self.verbose, metadata={"run": run_dir.basename})
        capacity = ray_session.cluster_capacity()
        done = 0
        for count in self.config.scale.concurrent:
            known = of_event(read_records(run_dir.local), "ladder")
            if count not in [record["count"] for record in known]:
                resources = share_of_node(self.config, capacity, count)
                log(f"{count} at a time, each with {resources}")
                for record in self._train(count, resources):
                    writer.append(record)
                run_dir.push()
            done += count
            advance(done, f"{count} at a time")
        return append_conclusions(run_dir.local)

    def _train(self, count: int, resources: Resources) -> list[Record]:
        """The record of a count; where a training fails, as without enough memory, only that."""
        tree = self.config.model_dump(mode="json")
        trainings = [
            Training(
                f"concurrency-{count}-{number}",
                build_config(
                    tree,
                    {"train.seed": number, "train.num_sample_images": 0, "search.retries": 0},
                ),
            )
            for number in range(count)
        ]
        for training in trainings:  # of a measurement that was stopped
            remove_checkpoints(self.config, self.run_dir.uri, training.name)
        placement = Placement(resources, count, count, count)
        last: dict[str, Record] = {}
        failed = []
        memory: list[int] = []
        for record in run_trainings(trainings, self.run_dir.uri, placement, score_test=False):
            if record["event"] == "failed":
                failed.append(record)
            if record["event"] == "final":
                last[record["run"]] = record
            if record["event"] == "rung":
                memory.append(record["memory"]["process_bytes"] or 0)
        for training in trainings:
            remove_checkpoints(self.config, self.run_dir.uri, training.name)
        largest = max(memory, default=0) or None
        return failed or [count_record(self.config, count, resources, list(last.values()), largest)]


def share_of_node(config: Config, capacity: ClusterCapacity, count: int) -> Resources:
    """What each of `count` concurrent trials gets of the cluster's largest node.

    Raises:
        InputError: the node has fewer CPUs than a hundredth for each.
    """
    nodes = [each.resources for each in capacity.node_types if each.max_nodes]
    node = max(nodes, key=lambda resources: (resources.gpus, resources.cpus))
    cpus: float = int(node.cpus / count) or int(100 * node.cpus / count) / 100
    if cpus <= 0:
        raise InputError(f"scale.concurrent: {count} trials do not fit on {node}")
    gpus = node.gpus / count if config.train.device != "cpu" else 0.0
    # Ray takes a part of one GPU, or whole ones.
    return Resources(cpus, float(int(gpus)) if gpus > 1 else int(10000 * gpus) / 10000)


def count_record(
    config: Config,
    count: int,
    resources: Resources,
    finals: list[Record],
    process_bytes: int | None,
) -> dict[str, Any]:
    """The `ladder` record of a count, from the last records of its trainings."""
    seconds = [final["seconds"] for final in finals]
    return {
        **common_fields(f"concurrency-{count}", config.data.ratio, config.method),
        "event": "ladder",
        "ladder": "concurrency",
        "label": str(count),
        "count": count,
        "samples": seconds,
        "measured": {
            "trials_per_hour": sum(3600 / one for one in seconds),
            "images_per_s": sum(final["images_per_s"] for final in finals),
            "seconds": statistics.mean(seconds),
            "cpus": resources.cpus,
            "gpus": resources.gpus,
            "process_bytes": process_bytes,
        },
    }
