"""Starting Ray, and what a running cluster has and may still start."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cid_ray.results.record import git_sha
from cid_ray.run.device import available_cpus
from cid_ray.run.fleet import Fleet, Living, Resources, grown
from cid_ray.run.plans import kuberay_plan, read_plan

ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # ray.train.report blocks for up to this long
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # a worker that does not answer for so long is replaced
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # a group that cannot be placed is asked for again, or smaller
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our rows are the record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is handled by the command
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # fills the dashboard's Train tab
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
GROUP_LABEL = "ray.io/node-group"  # of a node that an autoscaler started: the name of its type
HEAD = "node:__internal_head__"  # a resource that the head node alone has


def start_ray(verbose: bool = False, about: Mapping[str, str] | None = None) -> None:
    """Join the cluster of RAY_ADDRESS or a running local one, else start one with this machine's CPUs.

    `verbose`: what Ray's processes print is shown here too; `about`: what Ray's list of jobs says of this command.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    metadata = {**(about or {}), "git": git_sha() or "unknown"}
    running = os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {} if running else {"num_cpus": available_cpus()}
    every: dict[str, Any] = {"log_to_driver": verbose, "logging_level": "ERROR"}
    every["job_config"] = ray.job_config.JobConfig(metadata=metadata)
    try:
        ray.init(include_dashboard=None if running else True, **every, **own)
    except ValueError as error:
        if "num_cpus" not in str(error):
            raise
        ray.init(**every)  # a local cluster is already running: join it
    describe_submission(metadata)


def describe_submission(metadata: Mapping[str, str]) -> None:
    """The same for a submitted job, which Ray lists with what was given to `ray job submit` alone.

    Ray has no call for that: this adds to the entry that its own dashboard shows, and to nothing that Ray goes by.
    """
    from ray.experimental import internal_kv

    given = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata", {})
    if "job_submission_id" not in given:
        return
    key = f"_ray_internal_job_info_{given['job_submission_id']}"
    if entry := internal_kv._internal_kv_get(key, namespace="job"):
        job = json.loads(entry)
        job["metadata"] = {**metadata, **(job.get("metadata") or {})}
        internal_kv._internal_kv_put(key, json.dumps(job), overwrite=True, namespace="job")


def fleet() -> Fleet:
    """The living nodes, and those that the cluster's autoscaler may still start."""
    import ray

    alive = [
        Living(
            Resources(float(node["Resources"].get("CPU", 0)), float(node["Resources"].get("GPU", 0))),
            node["Labels"].get(GROUP_LABEL, ""),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return grown(alive, plan(ray.get_runtime_context().gcs_address))


@functools.cache
def plan(gcs_address: str) -> Fleet | None:
    """What the cluster's autoscaler may start; None: there is no autoscaler. Read on the head node, where it runs."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    head = next((node["NodeID"] for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"]), None)
    if head in (None, ray.get_runtime_context().get_node_id()):
        return planned_here(gcs_address)
    there = NodeAffinitySchedulingStrategy(head, soft=False)
    return ray.get(ray.remote(num_cpus=0, scheduling_strategy=there)(planned_here).remote(gcs_address))


def planned_here(gcs_address: str) -> Fleet | None:
    """On the head node: the plan of the autoscaler that `ray up` started, or of KubeRay's.

    Ray reports its limits nowhere (`ray._private.state.state.get_cluster_config` is filled by hosted Ray alone), so
    they are read where the autoscaler itself reads them: from its file, or from the Kubernetes API.
    """
    import psutil  # part of Ray

    for process in psutil.process_iter(["cmdline"]):
        options = dict(part.split("=", 1) for part in process.info["cmdline"] or () if "=" in part)
        if options.get("--gcs-address") == gcs_address and "--autoscaling-config" in options:
            return read_plan(Path(options["--autoscaling-config"]).expanduser())
    if "KUBERNETES_SERVICE_HOST" in os.environ and "RAY_CLUSTER_NAME" in os.environ:
        return planned_in_kubernetes()
    return None


def planned_in_kubernetes() -> Fleet | None:
    """The plan of the RayCluster that this head pod belongs to; with an autoscaler, KubeRay lets the pod read it."""
    from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

    try:
        api = KubernetesHttpApiClient(namespace=os.environ["RAY_CLUSTER_NAMESPACE"])
        cluster = api.get(f"rayclusters/{os.environ['RAY_CLUSTER_NAME']}")
    except Exception as error:
        return Fleet((), 0, note=f"what KubeRay may add could not be read: {error}".splitlines()[0])
    return kuberay_plan(cluster["spec"]) if cluster["spec"].get("enableInTreeAutoscaling") else None
