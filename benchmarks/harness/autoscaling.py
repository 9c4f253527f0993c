"""A cluster that grows and shrinks under a search: Ray's autoscaler, and a raylet for each node.

    python -m benchmarks.harness.autoscaling [--preempt] [--keep DIR]

The head has no CPU, workers have one, there are at most two of them, and none when nothing runs.
Ray's local provider starts and stops their raylets on this machine. `--preempt` kills the raylet of
a node between two rungs of its trial, as a cloud reclaims a spot machine. Prints one line of JSON:
when nodes came and went, and how trials ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.harness.ports import free_port
from benchmarks.harness.tiny_run import TINY
from cid_ray.data.synthetic import write_demo
from cid_ray.results.records import of_event, read_records

# The local provider's name for the head.
HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
RAY = str(Path(sys.executable).with_name("ray"))
MAX_WORKERS = 2
STORE_BYTES = 200 * 2**20
IDLE_MINUTES = 0.1
TIMEOUT_S = 540
EMPTY_LISTS = (  # keys that the autoscaler expects and that are not used here
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


def cluster_file(address: str) -> dict[str, Any]:
    """What `ray up` would read, for the local provider."""
    store = {"object_store_memory": STORE_BYTES}
    head = {"resources": {"CPU": 0, **store}, "node_config": {}, "max_workers": 0}
    worker = {
        "resources": {"CPU": 1, **store},
        "node_config": {},
        "min_workers": 0,
        "max_workers": MAX_WORKERS,
    }
    return {
        "cluster_name": "local",
        "max_workers": MAX_WORKERS,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": IDLE_MINUTES,
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": HEAD_ID,
        },
        "available_node_types": {"ray.head.default": head, "worker": worker},
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{key: [] for key in EMPTY_LISTS},
    }


@contextlib.contextmanager
def autoscaling_cluster(folder: Path) -> Iterator[str]:
    """The address of a head with Ray's autoscaler. At the end its folder's processes are killed."""
    import ray

    address = f"{ray.util.get_node_ip_address()}:{free_port()}"
    path = folder / "cluster.yaml"
    path.write_text(json.dumps(cluster_file(address)))
    env = {
        **os.environ,
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }
    command = [
        RAY,
        "start",
        "--head",
        f"--port={address.rpartition(':')[2]}",
        f"--temp-dir={folder / 'ray'}",
        "--num-cpus=0",
        f"--dashboard-port={free_port()}",
        f"--object-store-memory={STORE_BYTES}",
        "--disable-usage-stats",
        f"--autoscaling-config={path}",
    ]
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    try:
        yield address
    finally:
        for _ in range(2):  # the autoscaler may have started one more node meanwhile
            for process in processes_of(folder):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            time.sleep(1)


def processes_of(folder: Path, name: str = "") -> list[psutil.Process]:
    """Ray's processes whose command line names the folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            names_folder = any(str(folder) in word for word in words)
            if process.pid != os.getpid() and names_folder and name in words[0]:
                found.append(process)
    return found


def alive_workers() -> list[str]:
    """The alive nodes without the head: the last digits of their ids."""
    import ray

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return sorted(node_id[-5:] for node_id in nodes if node_id != HEAD_ID)


def kill_node(folder: Path, node: str) -> None:
    """Kill a node's raylet, and with it what runs there."""
    raylets = processes_of(folder, "raylet")
    [raylet] = [p for p in raylets if any(word.endswith(node) for word in p.cmdline())]
    raylet.kill()


def write_space(folder: Path) -> Path:
    write_demo(folder / "table", {"test": 4, "val": 4, "train": 48})
    space = {"loss.relation_weight": {"float": [0.01, 1.0], "log": True}}
    config = {
        **TINY,
        "data": {**TINY["data"], "table": str(folder / "table")},
        "train": {
            "steps": 400,
            "rungs": [0.25, 0.5, 1.0],
            "num_sample_images": 0,
            "checkpoint_steps": 20,
        },
        "search": {
            "ratios": ["1/8", "1/4"],
            "trials": 2,
            "baselines": ["supervised"],
            "space": space,
        },
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(config))
    return folder / "space.yaml"


def watch_search(folder: Path, address: str, preempt: bool, keep: Path | None) -> dict[str, Any]:
    """Run a search on the cluster and watch its nodes until all of them are gone again."""
    import ray

    started = time.monotonic()
    out = folder / "out"
    output = folder / "output.txt"
    command = [sys.executable, "-m", "cid_ray.tune"]
    command += ["--config", str(write_space(folder)), "--out", str(out)]
    ray.init(address, logging_level="ERROR", log_to_driver=False)
    with output.open("w") as file:
        env = {**os.environ, "RAY_ADDRESS": address}
        process = subprocess.Popen(command, env=env, stdout=file, stderr=file)
    nodes: list[dict[str, Any]] = []
    preempted: dict[str, Any] = {}
    ended = 0.0
    try:
        while process.poll() is None or alive_workers():
            alive = alive_workers()
            second = round(time.monotonic() - started, 1)
            assert second < TIMEOUT_S, f"{alive} after {second} s\n{output.read_text()}"
            if not nodes or nodes[-1]["nodes"] != alive:
                nodes.append({"second": second, "nodes": alive})
            has_checkpoint = bool(list(out.glob("checkpoints/*/last.pt")))
            if preempt and not preempted and len(alive) == MAX_WORKERS and has_checkpoint:
                time.sleep(3)  # into the middle of a rung
                kill_node(folder, alive[0])
                second = round(time.monotonic() - started, 1)
                preempted = {"second": second, "node": alive[0]}
            time.sleep(0.3)
            if process.poll() is not None and not ended:
                ended = round(time.monotonic() - started, 1)
    finally:
        process.kill()
    nodes.append({"second": round(time.monotonic() - started, 1), "nodes": []})
    if keep is not None:
        keep.mkdir(parents=True)
        for name in ("records.jsonl", "config.yaml"):
            shutil.copy(out / name, keep)
    records = read_records(out)
    return {
        "exit_code": process.returncode,
        "ended": ended,
        "nodes": nodes,
        "preempted": preempted,
        "trials": {record["run"]: record["state"] for record in of_event(records, "trial")},
        "retried": [record["run"] for record in of_event(records, "retry")],
        "log": (out / "log.txt").read_text().splitlines(),
    }


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--preempt", action="store_true", help="kill a node in the middle")
    options.add_argument("--keep", type=Path, help="new folder for the run's records and config")
    args = options.parse_args()
    # Before Ray is imported: it reads them then.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with tempfile.TemporaryDirectory(prefix="grow-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with autoscaling_cluster(folder) as address:
            found = watch_search(folder, address, args.preempt, args.keep)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
