"""Starting Ray, and what the running cluster has and its autoscaler may add."""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cid_ray.config import InputError, error_summary
from cid_ray.resources import _ray_compat
from cid_ray.resources.capacity import AliveNode, ClusterCapacity, Resources, with_autoscaler
from cid_ray.resources.cluster_files import kuberay_capacity, read_cluster_file
from cid_ray.resources.container import (
    MIN_ADDRESS_SPACE,
    address_space_limit,
    available_cpus,
)
from cid_ray.resources.ray_files import check_ray_temp_dir, ray_temp_dir
from cid_ray.results.provenance import git_sha

RAY_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # ray.train.report blocks for up to this long
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # then a worker that hangs is replaced
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # then a smaller group, or another attempt
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # records.jsonl replaces them
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the command handles Ctrl-C
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # fills the dashboard's Train tab
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
JOIN_TIMEOUT_S = 10.0  # for each of two tries: a connection, and an answer
STOP_TIMEOUT_S = 6.0
METRICS_WAIT_S = 2.0  # between two reports of Ray's metrics where a cluster's interval is short
NODE_GROUP_LABEL = "ray.io/node-group"  # the node type's name, on a node that an autoscaler started


_connected = False  # by `start_ray`
_joined = False  # a cluster that outlives this process


def start_ray(verbose: bool = False, metadata: Mapping[str, str] | None = None) -> None:
    """Join the cluster of RAY_ADDRESS or a running local one, else start one on this machine.

    Args:
        verbose: show here too what Ray's processes print.
        metadata: what Ray's list of jobs shows of this command.

    Raises:
        InputError: the cluster of RAY_ADDRESS does not answer within JOIN_TIMEOUT_S, or runs
            another version of Ray or Python; or `ulimit -v` is too low.
    """
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    _check_address_space()
    metadata = {**(metadata or {}), "git": git_sha() or "unknown"}
    options: dict[str, Any] = {
        "log_to_driver": verbose,
        "logging_level": "ERROR",
        "job_config": ray.job_config.JobConfig(metadata=metadata),
    }
    address = cluster_to_join()
    try:
        if address:
            ray.init(address, **options)
        else:
            check_ray_temp_dir(Path(ray_temp_dir()))
            # Without a dashboard Train V2 leaks placement groups, and the next trial waits for
            # ever.
            ray.init("local", num_cpus=available_cpus(), include_dashboard=True, **options)
    except (OSError, RuntimeError) as error:
        what = f"Ray at {address} cannot be joined"
        if not address:
            what = "Ray cannot be started here (RAY_TMPDIR names another folder for its files)"
        raise InputError(f"{what}: {' '.join(str(error).split())[:300]}") from None
    _ray_compat.add_job_metadata(metadata)
    global _connected, _joined
    _connected, _joined = True, address is not None


def _check_address_space() -> None:
    limit = address_space_limit()
    if limit is not None and limit < MIN_ADDRESS_SPACE:
        raise InputError(
            f"`ulimit -v` lets a process map {limit / 2**30:.1f} GiB, and Ray's need "
            f"{MIN_ADDRESS_SPACE >> 30} GiB; run `ulimit -v unlimited` first"
        )


def stop_ray(timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Leave the Ray that `start_ray` has joined or started; give up after a while.

    Ray sends metrics at intervals and not at the end, so a moment is waited for. A connection that
    the process had before stays.
    """
    global _connected
    if not _connected:
        return
    _connected = False
    import ray

    if _joined:  # else nobody can read its metrics afterwards
        time.sleep(METRICS_WAIT_S)
    thread = threading.Thread(target=ray.shutdown, daemon=True)
    thread.start()
    thread.join(timeout_s)


def cluster_to_join() -> str | None:
    """The address of the cluster to join; None: start one on this machine.

    Ray itself would wait for minutes for a cluster that does not answer.

    Raises:
        InputError: RAY_ADDRESS is set, and no cluster answers there.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if named == "local":
        return None
    if named not in ("", "auto"):
        if problem := not_answering(named):
            raise InputError(
                f"RAY_ADDRESS={named}: {problem}; correct it, start the cluster, or unset it to "
                "run on this machine"
            )
        return named
    recorded = _ray_compat.recorded_address()
    if recorded and not not_answering(recorded):
        return recorded
    if named == "auto":
        found = (
            f"the one of {recorded} does not answer" if recorded else "there is no record of one"
        )
        raise InputError(
            f"RAY_ADDRESS=auto: no Ray cluster runs on this machine, {found}; start one with "
            "`ray start --head`, or unset RAY_ADDRESS"
        )
    return None


def not_answering(address: str) -> str:
    """Why no cluster can be joined at `address` (host:port or ray://host:port); "" if one can."""
    import grpc

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return "it must be host:port, such as 10.0.0.5:6379"
    try:
        socket.create_connection((host.strip("[]"), int(port)), JOIN_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        return f"nothing answers there within {JOIN_TIMEOUT_S:g} s ({error_summary(error)})"
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return ""
    target = address.removeprefix("ray://")
    with grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(JOIN_TIMEOUT_S)
        except grpc.FutureTimeoutError:
            return f"what answers there is no Ray cluster (no gRPC within {JOIN_TIMEOUT_S:g} s)"
    return ""


def cluster_capacity() -> ClusterCapacity:
    """The alive nodes, and those that the cluster's autoscaler may still start."""
    import ray

    alive = []
    for node in ray.nodes():
        if node["Alive"]:
            resources = node["Resources"]
            size = Resources(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))
            alive.append(AliveNode(size, node["Labels"].get(NODE_GROUP_LABEL, "")))
    return with_autoscaler(alive, autoscaler_capacity(ray.get_runtime_context().gcs_address))


def largest_node_cpus(request: Resources) -> float | None:
    """The CPUs of the largest alive node on which a request fits; None where there is none."""
    import ray

    draining = _ray_compat.draining_nodes()
    sizes = [
        Resources(float(node["Resources"].get("CPU", 0)), float(node["Resources"].get("GPU", 0)))
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in draining
    ]
    return max((size.cpus for size in sizes if request.count_in(size)), default=None)


@functools.cache
def autoscaler_capacity(gcs_address: str) -> ClusterCapacity | None:
    """What the cluster's autoscaler may start; None when there is no autoscaler.

    It is read on the head node, because the autoscaler and its file are there.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    head_ids = [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and _ray_compat.HEAD_RESOURCE in node["Resources"]
    ]
    if not head_ids or head_ids[0] == ray.get_runtime_context().get_node_id():
        return autoscaler_capacity_on_head(gcs_address)
    on_head = NodeAffinitySchedulingStrategy(head_ids[0], soft=False)
    task = ray.remote(num_cpus=0, scheduling_strategy=on_head)(autoscaler_capacity_on_head)
    capacity: ClusterCapacity | None = ray.get(task.remote(gcs_address))
    return capacity


def autoscaler_capacity_on_head(gcs_address: str) -> ClusterCapacity | None:
    """On the head node: the limits of the autoscaler that `ray up` started, or of KubeRay's."""
    file = _ray_compat.autoscaler_config_file(gcs_address)
    if file is not None:
        return read_cluster_file(file)
    if not _ray_compat.in_kuberay_pod():
        return None
    try:
        spec = _ray_compat.kuberay_cluster_spec()
    except Exception as error:
        # A search can run on the nodes that are alive, so a missing right is no reason to stop.
        note = f"what KubeRay may add could not be read: {error_summary(error)}"
        return ClusterCapacity((), 0, note=note)
    return kuberay_capacity(spec) if spec.get("enableInTreeAutoscaling") else None
