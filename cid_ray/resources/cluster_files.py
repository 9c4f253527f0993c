"""Cluster files as capacities: a `ray up` file, or KubeRay's RayCluster or RayJob.

A `ray up` file may leave out a node type's resources. Ray then asks the cloud for them; here the
price list gives them, so that a check needs no network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cid_ray.config import InputError, error_summary
from cid_ray.config.yaml_reader import read_documents
from cid_ray.resources import _ray_compat
from cid_ray.resources.capacity import ClusterCapacity, NodeType, Resources

UNKNOWN_RESOURCES = "what its machines have is known only once they run"
MACHINE_LABELS = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
SPOT_LABELS = {  # of Kubernetes nodes that their cloud may reclaim
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
}
HEAD_GROUP = "headgroup"  # KubeRay's name for it


def read_cluster_file(
    path: Path, machines: Mapping[str, Resources] | None = None
) -> ClusterCapacity:
    """The capacity that a cluster file allows.

    Args:
        path: a YAML file; it may hold other Kubernetes documents too.
        machines: machine name -> its resources, for node types without `resources`.

    Raises:
        InputError: the file describes no cluster, or something in it is missing.
    """
    tree = read_cluster_document(path)
    try:
        if "provider" in tree:
            return ray_up_capacity(tree, machines or {}, str(path))
        spec = tree["spec"]
        if tree["kind"] == "RayJob":
            spec = spec["rayClusterSpec"]
        return kuberay_capacity(spec, str(path))
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing") from None
    except (TypeError, ArithmeticError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{path}: cannot be read as a cluster file ({error})") from None


def read_cluster_document(path: Path) -> dict[str, Any]:
    """The YAML document that describes a cluster, among others in the file that do not."""
    if not path.is_file():
        raise InputError(f"cluster file {path} does not exist; examples are in cluster/")
    for tree in read_documents(path):
        if not isinstance(tree, dict):
            continue
        if "provider" in tree or tree.get("kind") in ("RayCluster", "RayJob"):
            return tree
    raise InputError(
        f"{path}: must be a `ray up` file (with `provider`), "
        "or hold a RayCluster or RayJob of KubeRay"
    )


def check_with_ray(path: Path) -> None:
    """Raise InputError for what `ray up` would refuse in its file, such as a mistyped key."""
    tree = read_cluster_document(path)
    if "provider" not in tree:
        return
    from jsonschema import ValidationError

    try:
        _ray_compat.validate_ray_up(tree)
    except ValidationError as error:
        key = ".".join(map(str, error.absolute_path))
        where = f"{key}: " if key else ""
        raise InputError(f"{path}: `ray up` refuses it: {where}{error.message}") from None
    except Exception as error:  # of any type: Ray has no check of its own for most values
        reason = error_summary(error, with_type=not isinstance(error, ValueError | RuntimeError))
        raise InputError(f"{path}: `ray up` refuses it: {reason}") from None


# ---- `ray up` ----


def ray_up_capacity(
    tree: dict[str, Any], machines: Mapping[str, Resources], name: str = "the cluster"
) -> ClusterCapacity:
    """The capacity of a `ray up` file's document.

    Args:
        tree: the document.
        machines: machine name -> its resources, for node types without `resources`.
        name: the cluster's name in messages.
    """
    if "available_node_types" not in tree:  # machines of one's own, listed by address
        return ClusterCapacity((), 0, name, UNKNOWN_RESOURCES)
    head = tree["head_node_type"]
    max_workers = tree.get("max_workers", 2)  # Ray's default
    types = []
    for type_name, spec in tree["available_node_types"].items():
        is_head = type_name == head
        node_config = spec.get("node_config") or {}
        machine = node_config.get("InstanceType") or node_config.get("machineType")
        where = f"{name}: node type {type_name}"
        resources = _ray_up_resources(spec.get("resources") or {}, machine, machines, where)
        type_limit = min(max_workers, spec.get("max_workers", 0 if is_head else max_workers))
        node_type = NodeType(
            type_name,
            resources,
            # `max_workers` and `min_workers` do not count the head
            spec.get("min_workers", 0) + is_head,
            type_limit + is_head,
            machine,
            _is_spot(node_config),
            (spec.get("resources") or {}).get("memory"),
            _disk_bytes(node_config),
        )
        types.append(node_type)
    known = any(each.resources.cpus for each in types)
    return ClusterCapacity(
        tuple(types), max_workers + 1, name, note="" if known else UNKNOWN_RESOURCES
    )


def _ray_up_resources(
    stated: dict[str, Any], machine: str | None, machines: Mapping[str, Resources], where: str
) -> Resources:
    listed = machines.get(machine or "")
    if machine and not listed and not stated:
        raise InputError(
            f"{where}: the price list does not know {machine}; give it "
            "`resources: {CPU: N, GPU: N}`, or add it there"
        )
    known = listed or Resources(0, 0)
    return Resources(float(stated.get("CPU", known.cpus)), float(stated.get("GPU", known.gpus)))


def _is_spot(node_config: dict[str, Any]) -> bool:
    """By AWS's market options, or Google's `scheduling`: a mapping, or Ray's list of them."""
    scheduling = node_config.get("scheduling") or {}
    parts = scheduling if isinstance(scheduling, list) else [scheduling]
    for part in parts:
        if part.get("preemptible") or part.get("provisioningModel") == "SPOT":
            return True
    market = node_config.get("InstanceMarketOptions") or {}
    return bool(market.get("MarketType") == "spot")


def _disk_bytes(node_config: dict[str, Any]) -> int | None:
    """The size of the largest disk, by AWS's device mappings or Google's disks."""
    volumes = [
        (mapping.get("Ebs") or {}).get("VolumeSize")
        for mapping in node_config.get("BlockDeviceMappings") or []
    ]
    disks = [
        (disk.get("initializeParams") or {}).get("diskSizeGb")
        for disk in node_config.get("disks") or []
    ]
    sizes = [int(size) for size in (*volumes, *disks) if size]
    return max(sizes) << 30 if sizes else None


# ---- KubeRay ----


def kuberay_capacity(spec: dict[str, Any], name: str = "the cluster") -> ClusterCapacity:
    """The capacity of a RayCluster's `spec`. Without its autoscaler each group keeps its size."""
    types = [_group_type(HEAD_GROUP, spec["headGroupSpec"], 1, 1)]
    for group in spec.get("workerGroupSpecs") or []:
        hosts = group.get("numOfHosts", 1)  # nodes per replica
        min_nodes = group.get("minReplicas", 0) * hosts
        max_nodes = group.get("maxReplicas", 1) * hosts
        if not spec.get("enableInTreeAutoscaling"):
            min_nodes = max_nodes = group.get("replicas", 1) * hosts
        types.append(_group_type(group["groupName"], group, min_nodes, max_nodes))
    return ClusterCapacity(tuple(types), sum(each.max_nodes for each in types), name)


def _group_type(name: str, group: dict[str, Any], min_nodes: int, max_nodes: int) -> NodeType:
    """A group's node type. CPUs and GPUs come from the fields that Ray's autoscaler reads."""
    pod = group["template"]["spec"]
    start_params = group.get("rayStartParams") or {}
    stated = group.get("resources") or {}
    container = pod["containers"][0].get("resources") or {}
    amounts = {**(container.get("requests") or {}), **(container.get("limits") or {})}
    cpus = stated.get("CPU", start_params.get("num-cpus", amounts.get("cpu")))
    if cpus is None:
        raise ValueError(
            f"group {name}: its first container has no CPU limit, and rayStartParams no num-cpus"
        )
    container_gpus = next((amounts[key] for key in amounts if key.endswith("gpu")), 0)
    gpus = stated.get("GPU", start_params.get("num-gpus", container_gpus))
    labels = pod.get("nodeSelector") or {}
    machine = next((labels[label] for label in MACHINE_LABELS if label in labels), None)
    spot = any(labels.get(label) == value for label, value in SPOT_LABELS.items())
    resources = Resources(_whole_units(cpus), _whole_units(gpus))
    memory = stated.get("memory", amounts.get("memory"))
    memory_bytes = None if memory is None else _bytes(memory)
    disk_bytes = amounts.get("ephemeral-storage")
    return NodeType(
        name,
        resources,
        min_nodes,
        max_nodes,
        machine,
        spot,
        memory_bytes,
        None if disk_bytes is None else _bytes(disk_bytes),
    )


def _bytes(quantity: Any) -> int:
    """A Kubernetes quantity of bytes, such as 28Gi, 500M or 1024."""
    text = str(quantity)
    digits = text.rstrip("KMGTPEkim")
    suffix = text[len(digits) :]
    base = 1024 if suffix.endswith("i") else 1000
    return int(float(digits) * base ** ("kmgtpe".index(suffix[0].lower()) + 1 if suffix else 0))


def _whole_units(quantity: Any) -> float:
    """A Kubernetes quantity such as 8, "500m" or "1.5", rounded up as Ray's autoscaler does."""
    text = str(quantity)
    amount = float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    return float(math.ceil(amount - 1e-9))


def idle_timeout_s(tree: Mapping[str, Any]) -> float:
    """Seconds after which an idle node of a cluster file's document is given back.

    Ray's defaults are 5 minutes for `ray up` and 60 seconds for KubeRay.
    """
    if "provider" in tree:
        found = tree.get("idle_timeout_minutes", 5)
        return 60 * float(found) if isinstance(found, int | float) else 300.0
    spec = tree.get("spec") or {}
    spec = spec.get("rayClusterSpec") or spec
    found = (spec.get("autoscalerOptions") or {}).get("idleTimeoutSeconds", 60)
    return float(found) if isinstance(found, int | float) else 60.0
