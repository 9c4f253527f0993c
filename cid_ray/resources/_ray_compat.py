"""All uses of Ray's private and undocumented API in one place. Tested with Ray TESTED.

Each function says why no public API does it. Ray is imported inside the functions, because
importing it takes seconds and most commands do not need it.
"""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TESTED = ">=2.56,<2.61"

# A resource that Ray gives to the head node alone. `ray.nodes()` has no other field that names the
# head.
HEAD_RESOURCE = "node:__internal_head__"


def draining_nodes() -> dict[str, int]:
    """The nodes that will be taken: id -> when, as Unix time in milliseconds; 0: not said.

    Why private: `ray.nodes()` does not say it, and `ray.train.get_preemption_info` exists for Ray
    Train's workers alone and waits for all of them.
    """
    from ray._private.state import state

    nodes: dict[str, int] = state.get_draining_nodes()
    return nodes


def validate_ray_up(tree: Mapping[str, Any]) -> None:
    """Check a `ray up` file with Ray's own schema and defaults, as `ray up` itself does first.

    Why private: Ray offers this check only as the first part of `ray up`, which then starts
    machines.

    Raises:
        jsonschema.ValidationError: an unknown key or a value of the wrong type.
        Exception: of any type, for what else Ray refuses.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    # After the import, which sets the level. Else Ray logs which defaults it fills in.
    logging.getLogger("ray").setLevel(logging.ERROR)
    validate_config(prepare_config(copy.deepcopy(dict(tree))))  # it fills in defaults in place


def recorded_address() -> str | None:
    """The address of the cluster that `ray start` started last on this machine, dead or alive.

    Why private: `ray.init()` reads it too, but then waits for minutes for a dead cluster.
    """
    from ray._private.services import find_bootstrap_address

    address: str | None = find_bootstrap_address(None)
    return address


def add_job_metadata(metadata: Mapping[str, str]) -> None:
    """Add metadata to this process's submitted job in Ray's list. No effect outside a job.

    Why private: the dashboard lists a submitted job with the metadata of `ray job submit` alone. A
    job's own process, which knows its run and fingerprint, has no public call to add any. Only the
    displayed entry changes.
    """
    from ray.experimental import internal_kv

    job_config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    submission_id = job_config.get("metadata", {}).get("job_submission_id")
    if submission_id is None:
        return
    key = f"_ray_internal_job_info_{submission_id}"
    entry = internal_kv._internal_kv_get(key, namespace="job")
    if not entry:
        return
    job = json.loads(entry)
    # What the user gave to `ray job submit` wins.
    job["metadata"] = {**metadata, **(job.get("metadata") or {})}
    internal_kv._internal_kv_put(key, json.dumps(job), overwrite=True, namespace="job")


def autoscaler_config_file(gcs_address: str) -> Path | None:
    """On the head node: the cluster file of the autoscaler that `ray up` started.

    Why private: Ray reports the limits of its autoscaler nowhere
    (`ray._private.state.state.get_cluster_config` is filled by hosted Ray alone). So the file is
    found by the command line of the autoscaler's own process.
    """
    import psutil  # comes with Ray

    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        is_this_cluster = options.get("--gcs-address") == gcs_address
        if is_this_cluster and "--autoscaling-config" in options:
            return Path(options["--autoscaling-config"]).expanduser()
    return None


def in_kuberay_pod() -> bool:
    """Whether this process runs in a pod that KubeRay started."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and "RAY_CLUSTER_NAME" in os.environ


def kuberay_cluster_spec() -> dict[str, Any]:
    """The `spec` of the RayCluster that this head pod belongs to.

    Why private: Ray's autoscaler holds the client that finds the pod's token and certificate.
    KubeRay gives the head pod the right to read its RayCluster when its autoscaler is on.

    Raises:
        Exception: of any type when the Kubernetes API does not answer or refuses.
    """
    from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

    # Before Ray 2.60 the default is an older version of the resource.
    client = KubernetesHttpApiClient(
        namespace=os.environ["RAY_CLUSTER_NAMESPACE"], kuberay_crd_version="v1"
    )
    cluster: dict[str, Any] = client.get(f"rayclusters/{os.environ['RAY_CLUSTER_NAME']}")
    spec: dict[str, Any] = cluster["spec"]
    return spec
