"""A cluster that grows and shrinks under a search, for real: Ray's autoscaler, and nodes that are raylets of their own.

    python -m tests.autoscaling [--preempt]

The head has no CPU, workers have one, at most two of them, and none when nothing asks. Ray's local provider starts and
ends their raylets on this machine. `--preempt` kills the raylet of a node while its trial is between two rungs, as a
cloud does that takes a spot machine back. Prints one line of JSON: when nodes came and went, and what trials did.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from cid_ray.data.demo import write_demo
from cid_ray.results.record import of_event, read_rows
from tests.object_store import free_port
from tests.support import TINY

HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"  # the local provider's name for it
RAY = str(Path(sys.executable).with_name("ray"))
WORKERS, STORE_BYTES, IDLE_MINUTES = 2, 200 * 2**20, 0.1


def node_plan(address: str) -> dict[str, Any]:
    """What `ray up` reads, for the local provider."""
    store = {"object_store_memory": STORE_BYTES}
    return {
        "cluster_name": "local", "max_workers": WORKERS, "upscaling_speed": 1.0, "idle_timeout_minutes": IDLE_MINUTES,
        "provider": {
            "type": "external", "gcs_address": address, "use_node_id_as_ip": True, "disable_node_updaters": True,
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "disable_launch_config_check": True, "launch_multiple": True, "head_node_id": HEAD_ID,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0, **store}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1, **store}, "node_config": {}, "min_workers": 0, "max_workers": WORKERS},
        },
        "head_node_type": "ray.head.default", "auth": {}, "docker": {}, "file_mounts": {},
        "initialization_commands": [], "setup_commands": [], "head_setup_commands": [], "worker_setup_commands": [],
        "head_start_ray_commands": [], "worker_start_ray_commands": [], "cluster_synced_files": [],
        "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [],
    }  # fmt: skip


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """A head with Ray's autoscaler; its address. All processes that name its folder are killed at the end."""
    import ray

    address = f"{ray.util.get_node_ip_address()}:{free_port()}"
    plan = folder / "cluster.yaml"
    plan.write_text(json.dumps(node_plan(address)))
    env = {
        **os.environ, "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }  # fmt: skip
    command = [
        RAY, "start", "--head", f"--port={address.rpartition(':')[2]}", f"--temp-dir={folder / 'ray'}", "--num-cpus=0",
        f"--dashboard-port={free_port()}", f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats",
        f"--autoscaling-config={plan}",
    ]  # fmt: skip
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    try:
        yield address
    finally:
        for _ in range(2):  # the monitor may have started one more
            for process in of_folder(folder):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            time.sleep(1)


def of_folder(folder: Path, name: str = "") -> list[psutil.Process]:
    """Ray's processes whose command line names the folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if process.pid != os.getpid() and any(str(folder) in word for word in words) and name in words[0]:
                found.append(process)
    return found


def living() -> list[str]:
    """The nodes that live, head aside: the last digits of their ids."""
    import ray

    return sorted(n["NodeID"][-5:] for n in ray.nodes() if n["Alive"] and n["NodeID"] != HEAD_ID)


def kill_node(folder: Path, node: str) -> None:
    """Kill a node's raylet, and with it what runs there."""
    [raylet] = [p for p in of_folder(folder, "raylet") if any(word.endswith(node) for word in p.cmdline())]
    raylet.kill()


def search_file(folder: Path) -> Path:
    write_demo(folder / "table", {"test": 4, "val": 4, "train": 48})
    config = {
        **TINY,
        "data": {**TINY["data"], "table": str(folder / "table")},
        "train": {"steps": 400, "rungs": [0.25, 0.5, 1.0], "samples": 0, "checkpoint_steps": 20},
        "search": {
            "ratios": ["1/8", "1/4"], "trials": 2, "baselines": ["supervised"],
            "space": {"loss.relation_weight": {"float": [0.01, 1.0], "log": True}},
        },
    }  # fmt: skip
    (folder / "space.yaml").write_text(yaml.safe_dump(config))
    return folder / "space.yaml"


def watch(folder: Path, address: str, preempt: bool) -> dict[str, Any]:
    """Run a search on the cluster and see what its nodes and trials do, until the nodes are gone again."""
    import ray

    out, begun = folder / "out", time.monotonic()
    env = {**os.environ, "RAY_ADDRESS": address}
    log = (folder / "said").open("w")
    command = [sys.executable, "-m", "cid_ray.tune", "--config", str(search_file(folder)), "--out", str(out)]
    ray.init(address, logging_level="ERROR", log_to_driver=False)
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    nodes: list[dict[str, Any]] = []
    struck: dict[str, Any] = {}
    try:
        while process.poll() is None or living():
            now, alive = round(time.monotonic() - begun, 1), living()
            assert now < 540, f"still {alive} after {now} s\n{(folder / 'said').read_text()}"
            if not nodes or nodes[-1]["nodes"] != alive:
                nodes.append({"second": now, "nodes": alive})
            if preempt and not struck and len(alive) == WORKERS and list(out.glob("checkpoints/*/last.pt")):
                time.sleep(3)  # into the middle of a rung
                kill_node(folder, alive[0])
                struck = {"second": round(time.monotonic() - begun, 1), "node": alive[0]}
            time.sleep(0.3)
    finally:
        process.send_signal(signal.SIGKILL)
    nodes.append({"second": round(time.monotonic() - begun, 1), "nodes": []})
    ended = of_event(read_rows(out), "trial")
    said = (folder / "said").read_text().splitlines()
    return {
        "exit_code": process.returncode, "nodes": nodes, "preempted": struck,
        "trials": {row["run"]: row["state"] for row in ended},
        "retried": [line for line in said if "goes on from its last checkpoint" in line],
        "log": (out / "log.txt").read_text().splitlines(),
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--preempt", action="store_true", help="take a node away in the middle")
    args = options.parse_args()
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # before Ray is imported
    with tempfile.TemporaryDirectory(prefix="grow-", ignore_cleanup_errors=True) as name:
        with cluster(Path(name)) as address:
            found = watch(Path(name), address, args.preempt)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
