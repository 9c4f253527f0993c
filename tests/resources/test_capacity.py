"""Laws of what fits on a cluster, against a search over all choices of nodes.

Then a live cluster with Ray's own autoscaler over its fake cloud.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cid_ray.config import InputError, build_config
from cid_ray.resources import requests
from cid_ray.resources.capacity import (
    AliveNode,
    ClusterCapacity,
    NodeType,
    PlacementRequest,
    Resources,
    fixed_capacity,
    with_autoscaler,
)
from tests.helpers.ports import free_port

SIZES = st.tuples(st.sampled_from([0, 1, 2, 4, 7.5]), st.sampled_from([0, 0, 1, 2]))
CPUS = st.sampled_from([0.1, 0.5, 1, 1.5, 2, 3])
HEAD = "ray.head.default"  # the fake cloud's name for it
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
EMPTY_LISTS = (  # keys that the autoscaler expects
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)
DRIVER = """
import json, ray
from cid_ray.config import build_config
from cid_ray.resources import ray_session, requests
ray_session.start_ray()
config = build_config({}, {"search.cpus_per_trial": 2})

@ray.remote(num_cpus=1)
def on_another_node():
    return str(ray_session.cluster_capacity()), ray.get_runtime_context().get_node_id()

on_head = ray_session.cluster_capacity()
request, max_concurrent = requests.trial_request(config, on_head)
elsewhere, node = ray.get(on_another_node.remote(), timeout=90)
print(json.dumps({
    "on_head": str(on_head), "gpus": request.per_process.gpus, "max_concurrent": max_concurrent,
    "elsewhere": elsewhere, "is_other_node": node != ray.get_runtime_context().get_node_id(),
}))
"""


# ---- laws ----


@st.composite
def capacities(draw: st.DrawFn) -> ClusterCapacity:
    types = []
    for index, (cpus, gpus) in enumerate(draw(st.lists(SIZES, min_size=1, max_size=3))):
        min_nodes = draw(st.integers(0, 1))
        max_nodes = min_nodes + draw(st.integers(0, 3))
        types.append(NodeType(f"type-{index}", Resources(cpus, gpus), min_nodes, max_nodes))
    running = sum(node_type.min_nodes for node_type in types)
    return ClusterCapacity(tuple(types), draw(st.integers(running, running + 5)))


@st.composite
def placement_requests(draw: st.DrawFn) -> PlacementRequest:
    per_process = Resources(draw(CPUS), draw(st.sampled_from([0, 0, 0.5, 1])))
    count = draw(st.integers(1, 3))
    return PlacementRequest(per_process, count, draw(st.sampled_from([0, 0.5, 2])))


def choices(capacity: ClusterCapacity) -> Iterator[tuple[int, ...]]:
    """All allowed numbers of nodes of each type."""
    ranges = [range(each.min_nodes, each.max_nodes + 1) for each in capacity.node_types]
    for nodes in itertools.product(*ranges):
        if sum(nodes) <= capacity.max_nodes:
            yield nodes


def held(capacity: ClusterCapacity, nodes: tuple[int, ...], request: PlacementRequest) -> int:
    """How many requests these nodes hold, counted up one by one."""
    sizes = [node_type.resources for node_type in capacity.node_types]
    pairs = list(zip(nodes, sizes, strict=True))
    places = sum(number * request.per_process.count_in(size) for number, size in pairs)
    cpus = sum(number * size.cpus for number, size in pairs)
    for count in itertools.count(1):
        if count * request.count > places or count * request.cpus > cpus + 1e-6:
            return count - 1
    raise AssertionError("unreachable")


@settings(max_examples=150, deadline=None)
@given(capacities(), placement_requests())
def test_max_concurrent_any_capacity_equals_the_best_choice_of_nodes(
    capacity: ClusterCapacity, request: PlacementRequest
) -> None:
    best = max(held(capacity, nodes, request) for nodes in choices(capacity))
    assert capacity.max_concurrent(request) == best


@settings(max_examples=100, deadline=None)
@given(
    capacities(),
    placement_requests(),
    st.lists(st.sampled_from([0.1, 1.0, 7.0]), min_size=3, max_size=3),
)
def test_nodes_for_any_capacity_no_choice_is_cheaper(
    capacity: ClusterCapacity, request: PlacementRequest, prices: list[float]
) -> None:
    costs = dict(zip(capacity.node_types, prices, strict=False))
    count = capacity.max_concurrent(request)
    found = capacity.nodes_for(request, count, costs.get)
    cheapest = min(
        sum(
            number * costs[node_type]
            for number, node_type in zip(nodes, capacity.node_types, strict=True)
        )
        for nodes in choices(capacity)
        if held(capacity, nodes, request) >= count
    )
    total = sum(number * costs[node_type] for node_type, number in found.items())
    assert total == pytest.approx(cheapest)
    assert held(capacity, tuple(found.values()), request) >= count


@settings(max_examples=100, deadline=None)
@given(capacities(), placement_requests(), st.integers(0, 2))
def test_max_concurrent_with_another_node_is_never_lower(
    capacity: ClusterCapacity, request: PlacementRequest, index: int
) -> None:
    types = list(capacity.node_types)
    index %= len(types)
    types[index] = replace(types[index], max_nodes=types[index].max_nodes + 1)
    before = capacity.max_concurrent(request)
    more_nodes = capacity.max_nodes + 1
    assert ClusterCapacity(tuple(types), more_nodes).max_concurrent(request) >= before
    assert ClusterCapacity(capacity.node_types, more_nodes).max_concurrent(request) >= before


@settings(max_examples=50, deadline=None)
@given(capacities())
def test_max_concurrent_request_larger_than_every_node_is_zero(capacity: ClusterCapacity) -> None:
    sizes = [node_type.resources for node_type in capacity.node_types]
    too_many_cpus = Resources(max(size.cpus for size in sizes) + 0.1, 0)
    too_many_gpus = Resources(0.1, max(size.gpus for size in sizes) + 1)
    assert capacity.max_concurrent(PlacementRequest(too_many_cpus)) == 0
    assert capacity.max_concurrent(PlacementRequest(too_many_gpus)) == 0


def test_max_concurrent_tenths_of_a_cpu_add_up() -> None:
    one_node = fixed_capacity([Resources(2, 0)])
    assert one_node.max_concurrent(PlacementRequest(Resources(0.1, 0))) == 20
    three_nodes = fixed_capacity([Resources(2, 0)] * 3)
    assert three_nodes.max_concurrent(PlacementRequest(Resources(0.7, 0), 2, 0.6)) == 3


# ---- alive nodes and the autoscaler's limits ----


HEAD_NODE = Resources(0, 0)
GPU_NODE = Resources(8, 1)
CPU_NODE = Resources(2, 0)
ALIVE = [
    AliveNode(HEAD_NODE, "head"),
    AliveNode(GPU_NODE, "spot"),
    AliveNode(GPU_NODE, "gpu"),
    AliveNode(GPU_NODE, "gpu"),
    AliveNode(CPU_NODE),
]


def test_with_autoscaler_alive_nodes_count_once_and_others_are_added() -> None:
    types = (
        NodeType("head", HEAD_NODE, 1, 1),
        NodeType("spot", GPU_NODE, 0, 4),
        NodeType("gpu", GPU_NODE, 0, 4),
    )
    limits = ClusterCapacity(types, 6)
    capacity = with_autoscaler(ALIVE, limits)
    bounds = {each.name: (each.min_nodes, each.max_nodes) for each in capacity.node_types}
    assert bounds == {"2 CPU": (1, 1), "head": (1, 1), "spot": (1, 4), "gpu": (2, 4)}
    assert capacity.max_nodes == 7
    assert capacity.max_concurrent(PlacementRequest(GPU_NODE)) == 5
    assert capacity.max_concurrent(PlacementRequest(CPU_NODE)) == 21
    unnamed = with_autoscaler([AliveNode(HEAD_NODE), AliveNode(GPU_NODE)], limits)
    assert unnamed.max_nodes == 6 and unnamed.max_concurrent(PlacementRequest(GPU_NODE)) == 5


def test_with_autoscaler_without_known_limits_equals_the_alive_nodes() -> None:
    fixed = fixed_capacity(node.resources for node in ALIVE)
    assert with_autoscaler(ALIVE, None) == fixed
    unknown = NodeType("local.cluster.node", HEAD_NODE, 1, 4)
    own_machines = ClusterCapacity((unknown,), 4, note="not known")
    assert with_autoscaler(ALIVE, own_machines).max_concurrent(PlacementRequest(GPU_NODE)) == 3


# ---- requests ----


def test_request_with_device_cpu_asks_for_no_gpu() -> None:
    capacity = ClusterCapacity((NodeType("gpu", Resources(8, 1), 2, 2),), 2)
    for device, gpus in (("auto", 1), ("cpu", 0)):
        trial = build_config({}, {"train.device": device})
        expected = PlacementRequest(Resources(1, gpus))
        assert requests.trial_request(trial, capacity)[0] == expected
        workers = build_config({}, {"train.device": device, "distributed.num_workers": 2})
        assert requests.worker_resources(workers, capacity).gpus == gpus


def test_request_that_never_fits_is_refused_with_what_may_still_start() -> None:
    types = (NodeType("head", Resources(0, 0), 1, 1), NodeType("gpu", Resources(8, 1), 0, 4))
    capacity = ClusterCapacity(types, 3)
    config = build_config({}, {"search.gpus_per_trial": 2})
    rule = r"2 GPU.*never.*1 node\(s\) with 0 CPU.*4 gpu \(8 CPU \+ 1 GPU\).*2 node"
    with pytest.raises(InputError, match=rule):
        requests.trial_request(config, capacity)
    expected = (PlacementRequest(Resources(1, 1)), 2)
    assert requests.trial_request(build_config({}), capacity) == expected


@pytest.mark.parametrize(
    ("nodes", "num_workers", "per_worker", "max_concurrent"),
    [
        ([Resources(2, 0)], 2, Resources(0.7, 0), 1),
        ([Resources(2, 0)] * 2, 2, Resources(1, 0), 1),
        ([Resources(16, 0)], 4, Resources(3, 0), 1),
        ([Resources(8, 1), Resources(8, 1), Resources(2, 0)], 2, Resources(8, 1), 1),
        ([Resources(2, 0)], [1, 4], Resources(0.3, 0), 1),
        # 1 CPU each would fill the node that is left after a loss
        ([Resources(2, 0)] * 2, [1, 2], Resources(0.7, 0), 2),
        ([Resources(16, 0)] * 2, [1, 4], Resources(7, 0), 1),
        ([Resources(8, 1)] * 2, [1, 2], Resources(7, 1), 1),
        # today's one GPU holds one worker of two
        ([Resources(16, 1)], [1, 2], Resources(15, 1), 1),
    ],
)
def test_worker_resources_by_default_leave_ray_datas_cpus_free(
    nodes: list[Resources],
    num_workers: int | list[int],
    per_worker: Resources,
    max_concurrent: int,
) -> None:
    config = build_config({}, {"distributed.num_workers": num_workers})
    capacity = fixed_capacity(nodes)
    assert requests.worker_resources(config, capacity) == per_worker
    request = PlacementRequest(per_worker, config.distributed.max_workers, 0.51)
    assert requests.trial_request(config, capacity) == (request, max_concurrent)


# ---- a live cluster ----


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("version", ["v2", "v1"])
def test_live_cluster_counts_what_its_autoscaler_may_start(version: str) -> None:
    """The fake cloud's nodes are processes here. Asked on the head, and on a new node."""
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
    from ray.util import get_node_ip_address

    address = f"{get_node_ip_address()}:{free_port()}"
    folder = Path(tempfile.mkdtemp(prefix="capacity-"))  # short: Ray's sockets are below it
    path = folder / "cluster.yaml"
    path.write_text(json.dumps(fake_cloud(address, FAKE_HEAD_NODE_ID)))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    start = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_enable_autoscaler_v2": str(int(version == "v2")),
    }
    if version == "v2":
        start |= {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_NODE_TYPE_NAME": HEAD}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--num-cpus=0"]
    command += [f"--port={address.split(':')[1]}", f"--temp-dir={folder / 't'}"]
    command += ["--include-dashboard=false", f"--autoscaling-config={path}"]
    try:
        run(command, {**token, **start})
        output = run([sys.executable, "-c", DRIVER], {**token, "RAY_ADDRESS": address})
    finally:
        kill_cluster(str(folder / "t"), address)
        shutil.rmtree(folder, ignore_errors=True)
    seen = json.loads(output.splitlines()[-1])
    # One trial on each of three nodes that do not run yet.
    assert seen["gpus"] == 1 and seen["max_concurrent"] == 3
    assert "3 gpu (3 CPU + 1 GPU)" in seen["on_head"] and "at most 4 node(s)" in seen["on_head"]
    assert seen["is_other_node"]
    assert "1 cpu (2 CPU)" in seen["elsewhere"] and "at most 3 node(s)" in seen["elsewhere"]


def run(command: list[str], env: dict[str, str]) -> str:
    inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        command, env={**inherited, **env}, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fake_cloud(address: str, head_id: str) -> dict[str, object]:
    gpu = {"CPU": 3, "GPU": 1}
    return {
        "cluster_name": "fake",
        "max_workers": 4,
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": head_id,
        },
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": gpu, "node_config": {}, "min_workers": 0, "max_workers": 3},
            "cpu": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": HEAD,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1.0,
        **{key: [] for key in EMPTY_LISTS},
    }


def kill_cluster(folder: str, address: str) -> None:
    """Kill every process of the cluster that this test has started, and no other."""
    import psutil

    for _ in range(2):  # the autoscaler may have started one more node meanwhile
        for process in psutil.process_iter(["pid", "cmdline"]):
            line = " ".join(process.info["cmdline"] or ())
            is_own = folder in line or f"gcs-address={address}" in line
            if is_own and process.info["pid"] != os.getpid():
                os.kill(process.info["pid"], signal.SIGKILL)
