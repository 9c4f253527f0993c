"""What one trial or one worker requests of a cluster; an error when it can never be placed."""

from __future__ import annotations

from cid_ray.config import Config, InputError
from cid_ray.resources.capacity import TOLERANCE, ClusterCapacity, PlacementRequest, Resources

DRIVER_CPUS = 0.01  # of a trial's own process when Ray Train's workers do its training


def trial_request(config: Config, capacity: ClusterCapacity) -> tuple[PlacementRequest, int]:
    """What one trial requests, and how many trials run concurrently.

    Raises:
        InputError: not even one trial can ever be placed.
    """
    search, distributed = config.search, config.distributed
    if distributed.max_workers > 1:
        request = PlacementRequest(
            worker_resources(config, capacity),
            distributed.max_workers,
            distributed.data_cpus + DRIVER_CPUS,
        )
        # An elastic group may not fit at its full size. It then starts with fewer workers.
        fitting = max(1, capacity.max_concurrent(request))
    else:
        gpus = _gpus(config, search.gpus_per_trial, capacity)
        request = PlacementRequest(Resources(search.cpus_per_trial, gpus))
        remedy = "Lower search.cpus_per_trial or search.gpus_per_trial, or add nodes."
        fitting = _count_placeable(capacity, request, "a trial", remedy)
    return request, min(fitting, search.max_concurrent_trials or fitting)


def processes_per_machine(request: PlacementRequest, count: int, capacity: ClusterCapacity) -> int:
    """How many training processes share the machine that holds most of them.

    Args:
        request: of one trial.
        count: trials that run concurrently.
        capacity: the cluster.
    """
    machines = [node_type.resources for node_type in capacity.node_types]
    fitting = max((request.per_process.count_in(machine) for machine in machines), default=1)
    return max(1, min(fitting, count * request.count))


def worker_resources(config: Config, capacity: ClusterCapacity) -> Resources:
    """What each of several workers requests.

    Raises:
        InputError: the smallest allowed group can never be placed.
    """
    distributed = config.distributed
    gpus = _gpus(config, distributed.gpus_per_worker, capacity)
    cpus = distributed.cpus_per_worker or _cpus_per_worker(config, capacity, gpus)
    per_worker = Resources(cpus, gpus)
    smallest = PlacementRequest(per_worker, distributed.min_workers, distributed.data_cpus)
    remedy = (
        "Lower distributed.num_workers, distributed.cpus_per_worker or distributed.data_cpus, "
        "or add nodes."
    )
    what = f"distributed.num_workers={distributed.num_workers}"
    _count_placeable(capacity, smallest, what, remedy)
    return per_worker


def _gpus(config: Config, requested: float | None, capacity: ClusterCapacity) -> float:
    """As configured; by default 1 where the cluster has GPUs and `train.device` allows them."""
    if requested is not None:
        return requested
    return float(capacity.has_gpus and config.train.device != "cpu")


def _cpus_per_worker(config: Config, capacity: ClusterCapacity, gpus: float) -> float:
    """The most CPUs, whole or tenths of one, that each worker can have while Ray Data's stay free.

    Ray computes from the nodes' sizes alone how many workers of an elastic group fit, whatever else
    runs there. After the loss of a node it would wait for ever for CPUs that are in use. So workers
    of an elastic group leave Ray Data's CPUs free on every node where that is possible.
    """
    distributed = config.distributed
    free_cpus = distributed.data_cpus + 0.1
    # An elastic group may start smaller; its workers then share the CPUs of today's nodes.
    for num_workers in range(distributed.max_workers, distributed.min_workers - 1, -1):
        most = int(capacity.cpus / num_workers)
        candidates = [float(cpus) for cpus in range(most, 0, -1)]
        candidates += [tenths / 10 for tenths in range(9, 0, -1)]
        fitting = [
            size
            for size in (Resources(cpus, gpus) for cpus in candidates)
            if capacity.max_concurrent(PlacementRequest(size, num_workers, free_cpus))
        ]
        if not fitting:
            continue
        if distributed.min_workers < distributed.max_workers:
            nodes = [node_type.resources for node_type in capacity.node_types]
            leaving_free = [
                size
                for size in fitting
                if all(_free_cpus(node, size, num_workers) >= free_cpus for node in nodes)
            ]
            fitting = leaving_free or fitting
        return fitting[0].cpus
    return 0.1


def _free_cpus(node: Resources, per_worker: Resources, max_workers: int) -> float:
    """CPUs that are left on a node that holds as many workers as possible."""
    workers = min(max_workers, per_worker.count_in(node))
    return node.cpus - workers * per_worker.cpus + TOLERANCE


def _count_placeable(
    capacity: ClusterCapacity, request: PlacementRequest, what: str, remedy: str
) -> int:
    """How many such requests run concurrently; InputError when none ever will."""
    count = capacity.max_concurrent(request)
    if not count:
        raise InputError(
            f"{what} requests {request}; this can never be placed: {capacity.name} has {capacity}. "
            f"{remedy}"
        )
    return count
