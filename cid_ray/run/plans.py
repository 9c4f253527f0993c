"""Cluster files as fleets: a `ray up` file, or KubeRay's RayCluster or RayJob. What each plans to start at most.

A `ray up` file may leave out a node type's resources: Ray asks the cloud for them, here the price list says them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cid_ray.config import InputError
from cid_ray.run.fleet import Fleet, NodeType, Resources

UNKNOWN = "what its machines have is known only once they run"
MACHINE_LABELS = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
SPOT_LABELS = {  # of Kubernetes nodes that their cloud may take back
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
}
HEAD_GROUP = "headgroup"  # KubeRay's name for it


def read_plan(path: Path, machines: Mapping[str, Resources] | None = None) -> Fleet:
    """The fleet that a cluster file plans; InputError when it is none or when something in it is missing."""
    tree = read_tree(path)
    try:
        if "provider" in tree:
            return ray_up_plan(tree, machines or {}, str(path))
        spec = tree["spec"]
        return kuberay_plan(spec["rayClusterSpec"] if tree["kind"] == "RayJob" else spec, str(path))
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read as a cluster file ({error})") from None


def read_tree(path: Path) -> dict[str, Any]:
    """The YAML document of a file that describes a cluster, among others that do not."""
    if not path.is_file():
        raise InputError(f"cluster file {path} does not exist; examples are in cluster/")
    try:
        found = list(yaml.safe_load_all(path.read_text()))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from None
    for tree in found:
        if isinstance(tree, dict) and ("provider" in tree or tree.get("kind") in ("RayCluster", "RayJob")):
            return tree
    raise InputError(f"{path}: must be a `ray up` file (with `provider`), or hold a RayCluster or RayJob of KubeRay")


def ray_up_plan(tree: dict[str, Any], machines: Mapping[str, Resources], name: str = "the cluster") -> Fleet:
    """`machines`: what a machine of the cloud has, for node types without `resources`."""
    if "available_node_types" not in tree:
        return Fleet((), 0, name, UNKNOWN)
    most, head = tree.get("max_workers", 2), tree["head_node_type"]
    types = []
    for kind, spec in tree["available_node_types"].items():
        node, is_head = spec.get("node_config") or {}, kind == head
        machine = node.get("InstanceType") or node.get("machineType")
        each = _resources(
            spec.get("resources") or {}, machines.get(machine or ""), f"{name}: node type {kind}", machine
        )
        limit = min(most, spec.get("max_workers", 0 if is_head else most))
        types.append(
            NodeType(kind, each, spec.get("min_workers", 0) + is_head, limit + is_head, machine, _is_spot(node))
        )
    note = UNKNOWN if not any(kind.each.cpus for kind in types) else ""
    return Fleet(tuple(types), most + 1, name, note)


def _resources(stated: dict[str, Any], listed: Resources | None, where: str, machine: str | None) -> Resources:
    if machine and not listed and not stated:
        raise InputError(
            f"{where}: the price list does not know {machine}; give it `resources: {{CPU: N, GPU: N}}`, or add it there"
        )
    known = listed or Resources(0, 0)
    return Resources(float(stated.get("CPU", known.cpus)), float(stated.get("GPU", known.gpus)))


def _is_spot(node: dict[str, Any]) -> bool:
    """AWS's market options, or Google's `scheduling`: a mapping, or Ray's list of mappings."""
    scheduling = node.get("scheduling") or {}
    parts = scheduling if isinstance(scheduling, list) else [scheduling]
    google = any(part.get("preemptible") or part.get("provisioningModel") == "SPOT" for part in parts)
    return google or (node.get("InstanceMarketOptions") or {}).get("MarketType") == "spot"


def kuberay_plan(spec: dict[str, Any], name: str = "the cluster") -> Fleet:
    """From a RayCluster's `spec`; without its autoscaler the groups stay as they are."""
    head = spec["headGroupSpec"]
    types = [_group(HEAD_GROUP, head, 1, 1)]
    for group in spec.get("workerGroupSpecs") or []:
        hosts = group.get("numOfHosts", 1)
        least, most = group.get("minReplicas", 0) * hosts, group.get("maxReplicas", 1) * hosts
        if not spec.get("enableInTreeAutoscaling"):
            least = most = group.get("replicas", 1) * hosts
        types.append(_group(group["groupName"], group, least, most))
    return Fleet(tuple(types), sum(kind.most for kind in types), name)


def _group(name: str, group: dict[str, Any], least: int, most: int) -> NodeType:
    """Its CPUs and GPUs in the order in which Ray's autoscaler looks for them, whole ones, rounded up as it does."""
    pod, start, stated = group["template"]["spec"], group.get("rayStartParams") or {}, group.get("resources") or {}
    container = pod["containers"][0].get("resources") or {}
    amounts = {**(container.get("requests") or {}), **(container.get("limits") or {})}
    cpus = stated.get("CPU", start.get("num-cpus", amounts.get("cpu")))
    if cpus is None:
        raise ValueError(f"group {name}: its first container has no CPU limit, and rayStartParams no num-cpus")
    gpu = next((amount for key, amount in amounts.items() if key.endswith("gpu")), 0)
    gpus = stated.get("GPU", start.get("num-gpus", gpu))
    labels = pod.get("nodeSelector") or {}
    machine = next((labels[label] for label in MACHINE_LABELS if label in labels), None)
    spot = any(labels.get(label) == value for label, value in SPOT_LABELS.items())
    return NodeType(name, Resources(_whole(cpus), _whole(gpus)), least, most, machine, spot)


def _whole(quantity: Any) -> float:
    """A Kubernetes quantity such as 8, "500m" or "1.5", rounded up to whole units."""
    text = str(quantity)
    amount = float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    return float(math.ceil(amount - 1e-9))
