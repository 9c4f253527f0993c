"""Laws of what fits on a fleet, against a search over all choices of nodes; and a live cluster with its autoscaler."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cid_ray.config import InputError, override
from cid_ray.run import demand
from cid_ray.run.fleet import Fleet, Group, Living, NodeType, Resources, fixed, grown

SIZES = st.tuples(st.sampled_from([0, 1, 2, 4, 7.5]), st.sampled_from([0, 0, 1, 2]))
CPUS = st.sampled_from([0.1, 0.5, 1, 1.5, 2, 3])
HEAD = "ray.head.default"  # as the fake cloud names it
DRIVER = """
import json, ray
from cid_ray.run import cluster, demand
from cid_ray.config import override
cluster.start_ray()
config = override({}, {"search.cpus_per_trial": 2})
@ray.remote(num_cpus=1)
def elsewhere():
    return str(cluster.fleet()), ray.get_runtime_context().get_node_id()
here = cluster.fleet()
group, at_once = demand.trials(config, here)
seen, node = ray.get(elsewhere.remote(), timeout=90)
print(json.dumps({"fleet": str(here), "gpus": group.each.gpus, "at_once": at_once, "seen": seen,
                  "other": node != ray.get_runtime_context().get_node_id()}))
"""


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    types = []
    for index, (cpus, gpus) in enumerate(draw(st.lists(SIZES, min_size=1, max_size=3))):
        least = draw(st.integers(0, 1))
        types.append(NodeType(f"type-{index}", Resources(cpus, gpus), least, least + draw(st.integers(0, 3))))
    least = sum(kind.least for kind in types)
    return Fleet(tuple(types), draw(st.integers(least, least + 5)))


@st.composite
def groups(draw: st.DrawFn) -> Group:
    each = Resources(draw(CPUS), draw(st.sampled_from([0, 0, 0.5, 1])))
    return Group(each, draw(st.integers(1, 3)), draw(st.sampled_from([0, 0.5, 2])))


def choices(fleet: Fleet) -> Iterator[tuple[int, ...]]:
    ranges = [range(kind.least, kind.most + 1) for kind in fleet.types]
    return (nodes for nodes in itertools.product(*ranges) if sum(nodes) <= fleet.most)


def held(fleet: Fleet, nodes: tuple[int, ...], group: Group) -> int:
    """How many groups these nodes hold, counted up one by one."""
    places = sum(n * group.each.times_in(kind.each) for n, kind in zip(nodes, fleet.types, strict=True))
    cpus = sum(n * kind.each.cpus for n, kind in zip(nodes, fleet.types, strict=True))
    return next(n - 1 for n in itertools.count(1) if n * group.count > places or n * group.cpus > cpus + 1e-6)


@settings(max_examples=150, deadline=None)
@given(fleets(), groups())
def test_as_many_fit_as_on_the_best_choice_of_nodes(fleet: Fleet, group: Group) -> None:
    assert fleet.at_once(group) == max(held(fleet, nodes, group) for nodes in choices(fleet))


@settings(max_examples=100, deadline=None)
@given(fleets(), groups(), st.lists(st.sampled_from([0.1, 1.0, 7.0]), min_size=3, max_size=3))
def test_no_other_nodes_hold_them_at_less_cost(fleet: Fleet, group: Group, prices: list[float]) -> None:
    costs = dict(zip(fleet.types, prices, strict=False))
    count = fleet.at_once(group)
    found = fleet.nodes_for(group, count, costs.get)
    enough = [nodes for nodes in choices(fleet) if held(fleet, nodes, group) >= count]
    best = min(sum(n * costs[kind] for n, kind in zip(nodes, fleet.types, strict=True)) for nodes in enough)
    assert sum(n * costs[kind] for kind, n in found.items()) == pytest.approx(best)
    assert held(fleet, tuple(found.values()), group) >= count


@settings(max_examples=100, deadline=None)
@given(fleets(), groups(), st.integers(0, 2))
def test_another_node_never_lowers_the_count(fleet: Fleet, group: Group, which: int) -> None:
    kinds = list(fleet.types)
    which %= len(kinds)
    kinds[which] = replace(kinds[which], most=kinds[which].most + 1)
    assert Fleet(tuple(kinds), fleet.most + 1).at_once(group) >= fleet.at_once(group)
    assert Fleet(fleet.types, fleet.most + 1).at_once(group) >= fleet.at_once(group)


@settings(max_examples=50, deadline=None)
@given(fleets())
def test_a_request_larger_than_every_node_never_fits(fleet: Fleet) -> None:
    largest = max(kind.each.cpus for kind in fleet.types)
    assert fleet.at_once(Group(Resources(largest + 0.1, 0))) == 0
    assert fleet.at_once(Group(Resources(0.1, max(kind.each.gpus for kind in fleet.types) + 1))) == 0


def test_tenths_of_a_cpu_add_up() -> None:
    assert fixed([Resources(2, 0)]).at_once(Group(Resources(0.1, 0))) == 20
    assert fixed([Resources(2, 0)] * 3).at_once(Group(Resources(0.7, 0), 2, 0.6)) == 3


def test_living_nodes_of_the_plan_are_counted_once_and_others_come_on_top() -> None:
    head, gpu, cpu = Resources(0, 0), Resources(8, 1), Resources(2, 0)
    plan = Fleet((NodeType("head", head, 1, 1), NodeType("spot", gpu, 0, 4), NodeType("gpu", gpu, 0, 4)), 6)
    alive = [Living(head, "head"), Living(gpu, "spot"), Living(gpu, "gpu"), Living(gpu, "gpu"), Living(cpu)]
    fleet = grown(alive, plan)
    assert {kind.name: (kind.least, kind.most) for kind in fleet.types} == {
        "2 CPU": (1, 1), "head": (1, 1), "spot": (1, 4), "gpu": (2, 4),
    }  # fmt: skip
    assert fleet.most == 7 and fleet.at_once(Group(gpu)) == 5 and fleet.at_once(Group(cpu)) == 21
    unnamed = grown([Living(head), Living(gpu)], plan)
    assert unnamed.most == 6 and unnamed.at_once(Group(gpu)) == 5
    assert grown(alive, None) == fixed(node.each for node in alive)
    of_ones_own = Fleet((NodeType("local.cluster.node", head, 1, 4),), 4, note="not known")
    assert grown(alive, of_ones_own).at_once(Group(gpu)) == 3


def test_a_run_that_refuses_gpus_asks_for_none() -> None:
    fleet = Fleet((NodeType("gpu", Resources(8, 1), 2, 2),), 2)
    for device, gpus in (("auto", 1), ("cpu", 0)):
        assert demand.trials(override({}, {"train.device": device}), fleet)[0] == Group(Resources(1, gpus))
        workers = override({}, {"train.device": device, "scale.workers": 2})
        assert demand.worker(workers, fleet).gpus == gpus


def test_what_may_still_be_started_is_named_when_a_request_is_refused() -> None:
    fleet = Fleet((NodeType("head", Resources(0, 0), 1, 1), NodeType("gpu", Resources(8, 1), 0, 4)), 3)
    config = override({}, {"search.gpus_per_trial": 2})
    with pytest.raises(InputError, match=r"2 GPU.*never.*1 node\(s\) with 0 CPU.*4 gpu \(8 CPU \+ 1 GPU\).*2 node"):
        demand.trials(config, fleet)
    assert demand.trials(override({}, {}), fleet) == (Group(Resources(1, 1)), 2)


@pytest.mark.parametrize(
    ("nodes", "workers", "each", "at_once"),
    [
        ([Resources(2, 0)], 2, Resources(0.7, 0), 1),
        ([Resources(2, 0)] * 2, 2, Resources(1, 0), 1),
        ([Resources(16, 0)], 4, Resources(3, 0), 1),
        ([Resources(8, 1), Resources(8, 1), Resources(2, 0)], 2, Resources(8, 1), 1),
        ([Resources(2, 0)], [1, 4], Resources(0.3, 0), 1),
        ([Resources(2, 0)] * 2, [1, 2], Resources(0.7, 0), 2),  # 1 CPU each would fill the node that is left
        ([Resources(16, 0)] * 2, [1, 4], Resources(7, 0), 1),
        ([Resources(8, 1)] * 2, [1, 2], Resources(7, 1), 1),
    ],
)
def test_workers_share_what_there_is_and_leave_ray_datas_cpus_free(
    nodes: list[Resources], workers: int | list[int], each: Resources, at_once: int
) -> None:
    config = override({}, {"scale.workers": workers})
    assert demand.worker(config, fixed(nodes)) == each
    assert demand.trials(config, fixed(nodes)) == (Group(each, config.scale.most, 0.51), at_once)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("version", ["v2", "v1"])
def test_a_live_cluster_counts_what_its_autoscaler_may_start(version: str) -> None:
    """Ray's own autoscaler over its fake cloud, whose nodes are processes here: from the head, and from a new node."""
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
    from ray.util import get_node_ip_address

    address = f"{get_node_ip_address()}:{free_port()}"
    folder = Path(tempfile.mkdtemp(prefix="fleet-"))  # short: sockets lie below it
    (folder / "cluster.yaml").write_text(json.dumps(fake_cloud(address, FAKE_HEAD_NODE_ID)))
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    start = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_enable_autoscaler_v2": str(int(version == "v2")),
        **({"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_NODE_TYPE_NAME": HEAD} if version == "v2" else {}),
    }
    command = ["start", "--head", f"--port={address.split(':')[1]}", f"--temp-dir={folder / 't'}", "--num-cpus=0"]
    command += ["--include-dashboard=false", f"--autoscaling-config={folder / 'cluster.yaml'}"]
    try:
        run([sys.executable, "-m", "ray.scripts.scripts", *command], {**own, **start})
        seen = json.loads(run([sys.executable, "-c", DRIVER], {**own, "RAY_ADDRESS": address}).splitlines()[-1])
    finally:
        kill_all_of(str(folder / "t"), address)
        shutil.rmtree(folder, ignore_errors=True)
    assert seen["gpus"] == 1 and seen["at_once"] == 3  # one at a time on each of three nodes that do not run yet
    assert "3 gpu (3 CPU + 1 GPU)" in seen["fleet"] and "at most 4 node(s)" in seen["fleet"]
    assert seen["other"] and "1 cpu (2 CPU)" in seen["seen"] and "at most 3 node(s)" in seen["seen"]


def run(command: list[str], env: dict[str, str]) -> str:
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | env
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fake_cloud(address: str, head: str) -> dict[str, object]:
    provider = {
        "type": "external", "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": address, "use_node_id_as_ip": True, "disable_node_updaters": True,
        "disable_launch_config_check": True, "launch_multiple": True, "head_node_id": head,
    }  # fmt: skip
    empty = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
             "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude",
             "rsync_filter")  # fmt: skip
    types = {
        HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 3, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 3},
        "cpu": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    }
    return {
        "cluster_name": "fake", "max_workers": 4, "provider": provider, "head_node_type": HEAD, "auth": {},
        "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False, "idle_timeout_minutes": 5,
        "upscaling_speed": 1.0, "available_node_types": types, **{key: [] for key in empty},
    }  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def kill_all_of(folder: str, address: str) -> None:
    """Every process of the cluster that this test has started, and no other."""
    import psutil

    for _ in range(2):
        for process in psutil.process_iter(["pid", "cmdline"]):
            line = " ".join(process.info["cmdline"] or ())
            if (folder in line or f"gcs-address={address}" in line) and process.info["pid"] != os.getpid():
                os.kill(process.info["pid"], signal.SIGKILL)
