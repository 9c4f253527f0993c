"""Two hosts on one machine: two network namespaces, a Ray node in each, and a link that is cut.

    make two-hosts        needs root (Linux) and iproute2

Two workers, one on each host, train over the link undisturbed. Then they train again, while the
second host is cut off for as long as the cluster needs to give it up, and returns as a new node.
Prints one line of JSON, as benchmarks/harness/faults.py does.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.harness.tiny_run import TINY

PORT = 6399
HOSTS = {"cidray-a": "10.77.0.1", "cidray-b": "10.77.0.2"}
FIRST, SECOND = HOSTS
LINK = "cidlink"
ENV = {
    "GLOO_SOCKET_IFNAME": LINK,
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
STEPS = 120
CUT_S = 45  # the cluster gives a node up after some 30 seconds
CUT_DELAY_S = 0.7  # after a rung: in the middle of an epoch


# ---- network and nodes ----


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def add_hosts() -> None:
    """Two namespaces and a veth pair between them."""
    for host in HOSTS:
        ip("netns", "add", host)
    ip("link", "add", LINK, "netns", FIRST, "type", "veth", "peer", "name", LINK, "netns", SECOND)
    for host, address in HOSTS.items():
        ip("-n", host, "addr", "add", f"{address}/24", "dev", LINK)
        for device in ("lo", LINK):
            ip("-n", host, "link", "set", device, "up")


def start_node(host: str, folder: Path) -> None:
    if host == FIRST:
        role = ["--head", f"--port={PORT}", f"--temp-dir={folder}"]
    else:
        role = [f"--address={HOSTS[FIRST]}:{PORT}"]
    ray = str(Path(sys.executable).with_name("ray"))
    options = [f"--node-ip-address={HOSTS[host]}", "--num-cpus=1", "--disable-usage-stats"]
    command = ["ip", "netns", "exec", host, ray, "start", *role, *options]
    subprocess.run(command, env={**os.environ, **ENV}, check=True, stdout=subprocess.DEVNULL)


def kill_processes(host: str) -> None:
    """Kill the processes of one namespace, and no others."""
    command = ["ip", "netns", "pids", host]
    pids = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    if pids:
        subprocess.run(["kill", "-9", *pids], check=False)


def cut_off(folder: Path, result: dict[str, Any]) -> None:
    """Cut the second host off, and bring it back as a new node."""
    time.sleep(CUT_DELAY_S)
    ip("-n", SECOND, "link", "set", LINK, "down")
    time.sleep(CUT_S)
    ip("-n", SECOND, "link", "set", LINK, "up")
    kill_processes(SECOND)
    start_node(SECOND, folder)
    result["struck"] = True


# ---- the driver, on the first host ----


def drive(folder: Path) -> None:
    """Train twice and compare. A line of JSON tells that a training's first rung is reached."""
    import ray
    import torch

    from cid_ray.config import build_config
    from cid_ray.data.synthetic import write_demo
    from cid_ray.resources import ray_session
    from cid_ray.training import checkpoint
    from cid_ray.training.workers import close_worker_group, train_on_workers

    write_demo(folder / "table", {"test": 4, "val": 4, "train": 48})
    ray_session.start_ray()
    changes = {
        "data.table": str(folder / "table"),
        "distributed.num_workers": 2,
        "distributed.cpus_per_worker": 0.6,
        "distributed.data_cpus": 0.2,
        "train.steps": STEPS,
        "train.checkpoint_steps": 10,
        "train.rungs": [1 / 3, 2 / 3, 1],
    }
    config = build_config(TINY, changes)
    seconds: dict[str, float] = {}
    last_steps: dict[str, int] = {}
    for name in ("whole", "struck"):
        first_rung = 0.0
        records = train_on_workers(config, folder, name, score_test=False, keep_workers=True)
        for record in records:
            last_steps[name] = record["step"]
            if record["event"] == "rung" and not first_rung:
                first_rung = time.monotonic()
                print(json.dumps({"rung": name, "hosts": count_hosts()}), flush=True)
        seconds[name] = time.monotonic() - first_rung
    close_worker_group()
    ray.shutdown()
    whole, struck = (
        checkpoint.load_checkpoint(folder / "checkpoints" / name / "last.pt") for name in seconds
    )
    pairs = [
        (value, struck[part][name])
        for part in ("student", "teacher")
        for name, value in whole[part].items()
    ]
    result = {
        "fault": "host cut off",
        "recovered": last_steps["struck"] == STEPS,
        "seconds_lost": round(seconds["struck"] - seconds["whole"], 1),
        "equal": all(torch.equal(a, b) for a, b in pairs),
        "largest_difference": max(float((a.float() - b.float()).abs().max()) for a, b in pairs),
    }
    print(json.dumps(result), flush=True)


def count_hosts() -> int:
    """On how many hosts workers run now."""
    from ray.util.state import list_actors

    filters = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
    return len({actor["node_id"] for actor in list_actors(filters=filters)})


# ---- the command ----


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result: dict[str, Any] = {"hosts": 0, "struck": False}
        try:
            add_hosts()
            for host in HOSTS:
                start_node(host, folder / "ray")
            command = ["ip", "netns", "exec", FIRST, sys.executable, "-m", "benchmarks.two_hosts"]
            env = {**os.environ, **ENV, "RAY_ADDRESS": f"{HOSTS[FIRST]}:{PORT}"}
            driver = subprocess.Popen(
                [*command, "drive", name], env=env, stdout=subprocess.PIPE, text=True
            )
            assert driver.stdout
            for line in driver.stdout:
                if not line.startswith("{"):
                    continue
                message = json.loads(line)
                result |= message
                if message.get("rung") == "struck":
                    arguments = (folder, result)
                    threading.Thread(target=cut_off, args=arguments, daemon=True).start()
            print(json.dumps(result), flush=True)
            succeeded = result.get("recovered") and result.get("equal") and result["struck"]
            if not succeeded or result["hosts"] != 2:
                return driver.wait() or 1
            return driver.wait()
        finally:
            for host in HOSTS:
                kill_processes(host)
                subprocess.run(["ip", "netns", "del", host], check=False)


if __name__ == "__main__":
    if sys.argv[1:2] == ["drive"]:
        drive(Path(sys.argv[2]))
    else:
        sys.exit(main())
