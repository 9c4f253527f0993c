"""Training on N workers with Ray Train. Ray Data shards the unlabeled pool over them.

`train_on_workers` is a generator like `training.loop.train`: `next()` after a rung lets all workers
continue, and closing the generator stops them. A process may keep its worker group for its next
run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from cid_ray.config import Config
from cid_ray.resources import ray_session, requests
from cid_ray.resources.capacity import Resources
from cid_ray.results.records import Record
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri
from cid_ray.training.preemption import own_node
from cid_ray.training.worker_group import GroupSpec, WorkerGroup, WorkerGroupEnded

MAX_GROUPS = 3  # that may end one after the other without a step that was not reached before
_group: WorkerGroup | None = None  # of this process
_resources_cache: dict[str, Resources] = {}  # per worker, by the configuration that asked


def worker_resources(config: Config) -> Resources:
    """The CPUs and GPUs of one worker on the running cluster.

    The cluster is asked once per process and configuration. So a node that is lost between two runs
    is waited for, and the workers do not get smaller.

    Raises:
        InputError: the group can never be placed.
    """
    key = f"{config.distributed.model_dump_json()} {config.train.device}"
    if key not in _resources_cache:
        capacity = ray_session.cluster_capacity()
        _resources_cache[key] = requests.worker_resources(config, capacity)
    return _resources_cache[key]


def train_on_workers(
    config: Config,
    run_dir: PathOrUri,
    name: str = "train",
    *,
    score_test: bool = True,
    keep_workers: bool = False,
) -> Iterator[Record]:
    """The records of one run on `distributed.num_workers` workers.

    Args:
        config: the run's configuration.
        run_dir: a folder that all nodes share, or s3://bucket/path.
        name: the run's name, which names its checkpoints. Ray's dashboard lists a group by the
            folder's name and that of the group's first run.
        score_test: score the test split at the end.
        keep_workers: keep the group for this process's next run.

    Raises:
        InputError: the group can never be placed, or the configuration does not fit the data.
        WorkersLost: several groups ended without reaching a new step.
        Preempted: with `keep_workers`, the node of this process will be taken.
    """
    ray_session.start_ray()
    spec = GroupSpec(config.distributed.num_workers, worker_resources(config))
    run_dir = paths.absolute(run_dir)
    job = {
        "config": config.model_dump_json(),
        "run_dir": str(run_dir),
        "name": name,
        "score_test": score_test,
        # A command ends with its node in any case. A trial is placed on another one.
        "consumer_nodes": own_node() if keep_workers else frozenset(),
    }
    reached_step = 0
    lost_groups = 0
    try:
        while True:
            try:
                with closing(_group_for(spec, run_dir, name).records(job)) as records:
                    for record in records:
                        if record["step"] > reached_step:
                            reached_step = record["step"]
                            lost_groups = 0
                        yield record
                return
            except WorkerGroupEnded:
                lost_groups += 1
                if lost_groups >= MAX_GROUPS:
                    raise
    finally:
        if not keep_workers:
            close_worker_group()


def close_worker_group() -> None:
    """Release the workers that this process keeps, if any."""
    global _group
    group, _group = _group, None
    if group:
        group.close()


def _group_for(spec: GroupSpec, run_dir: PathOrUri, name: str) -> WorkerGroup:
    """The kept group where it fits the spec and is alive, else a new one."""
    global _group
    if _group is None or not _group.alive or _group.spec != spec:
        close_worker_group()
        storage = paths.join(run_dir, "ray_train")
        _group = WorkerGroup(spec, storage, f"{paths.basename(run_dir)}-{name}")
    return _group
