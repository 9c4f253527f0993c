"""Two hosts on one machine: two network namespaces, a Ray node in each, joined by a link that is cut in the middle.

    make two-hosts        needs root (Linux) and iproute2

Two workers, one on each host, train over the link undisturbed; then again, while the second host is cut off for as long
as the cluster needs to give it up, and comes back as a new node. Prints one line of JSON, as tests/faults.py does.
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

PORT = 6399
HOSTS = {"cidray-a": "10.77.0.1", "cidray-b": "10.77.0.2"}
FIRST, SECOND = HOSTS
LINK = "cidlink"
ENV = {"GLOO_SOCKET_IFNAME": LINK, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
CUT_SECONDS = 45  # a node is given up after some thirty


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def inside(host: str, *command: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["ip", "netns", "exec", host, *command], env={**os.environ, **ENV}, check=True, **options)


def lay_link() -> None:
    for host in HOSTS:
        ip("netns", "add", host)
    ip("link", "add", LINK, "netns", FIRST, "type", "veth", "peer", "name", LINK, "netns", SECOND)
    for host, address in HOSTS.items():
        ip("-n", host, "addr", "add", f"{address}/24", "dev", LINK)
        for device in ("lo", LINK):
            ip("-n", host, "link", "set", device, "up")


def start_node(host: str, folder: Path) -> None:
    address = HOSTS[host]
    role = (
        ["--head", f"--port={PORT}", f"--temp-dir={folder}"] if host == FIRST else [f"--address={HOSTS[FIRST]}:{PORT}"]
    )
    ray = str(Path(sys.executable).with_name("ray"))
    options = [f"--node-ip-address={address}", "--num-cpus=1", "--disable-usage-stats"]
    inside(host, ray, "start", *role, *options, stdout=subprocess.DEVNULL)


def clear(host: str) -> None:
    """Kill what runs in a host: these processes alone."""
    pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True).stdout.split()
    subprocess.run(["kill", "-9", *pids], check=False) if pids else None


def drive(folder: Path) -> None:
    """The driver, on the first host: trains twice, says when the cut may come."""
    import ray
    import torch
    from ray.util.state import list_actors

    from cid_ray.config import override
    from cid_ray.data.demo import write_demo
    from cid_ray.run import cluster, state
    from cid_ray.run.workers import close_crew, train_on_workers
    from tests.support import TINY

    write_demo(folder / "table", {"test": 4, "val": 4, "train": 48})
    cluster.start_ray()
    config = override(TINY, {
        "data.table": str(folder / "table"), "scale.workers": 2, "scale.cpus_per_worker": 0.6, "scale.data_cpus": 0.2,
        "train.steps": 120, "train.checkpoint_steps": 10, "train.rungs": [1 / 3, 2 / 3, 1],
    })  # fmt: skip
    seconds, events = {}, {}
    for name in ("whole", "hit"):
        started = 0.0
        for row in train_on_workers(config, folder, name, test=False, keep=True):
            if row["event"] == "rung" and not started:
                started = time.monotonic()
                actors = list_actors(filters=[("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")])
                print(json.dumps({"rung": name, "hosts": len({actor["node_id"] for actor in actors})}), flush=True)
        seconds[name], events[name] = time.monotonic() - started, row
    close_crew()
    ray.shutdown()
    whole, hit = (state.load(folder / "checkpoints" / name / "last.pt") for name in ("whole", "hit"))
    pairs = [(value, hit[part][name]) for part in ("student", "teacher") for name, value in whole[part].items()]
    print(json.dumps({
        "fault": "host cut off", "recovered": events["hit"]["step"] == 120,
        "seconds_lost": round(seconds["hit"] - seconds["whole"], 1), "equal": all(torch.equal(*pair) for pair in pairs),
        "largest_difference": max(float((a.float() - b.float()).abs().max()) for a, b in pairs),
    }), flush=True)  # fmt: skip


def cut_off(folder: Path, said: dict[str, Any]) -> None:
    time.sleep(0.7)
    ip("-n", SECOND, "link", "set", LINK, "down")
    time.sleep(CUT_SECONDS)
    ip("-n", SECOND, "link", "set", LINK, "up")
    clear(SECOND)
    start_node(SECOND, folder)
    said["struck"] = True


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder, said = Path(name), {"hosts": 0, "struck": False}
        try:
            lay_link()
            for host in HOSTS:
                start_node(host, folder / "ray")
            command = ["ip", "netns", "exec", FIRST, sys.executable, "-m", "tests.two_hosts", "drive", name]
            env = {**os.environ, **ENV, "RAY_ADDRESS": f"{HOSTS[FIRST]}:{PORT}"}
            driver = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
            assert driver.stdout
            for line in (text for text in driver.stdout if text.startswith("{")):
                found = json.loads(line)
                said |= found
                if found.get("rung") == "hit":
                    threading.Thread(target=cut_off, args=(folder, said), daemon=True).start()
            print(json.dumps(said), flush=True)
            right = said.get("recovered") and said.get("equal") and said["struck"] and said["hosts"] == 2
            return driver.wait() or (0 if right else 1)
        finally:
            for host in HOSTS:
                clear(host)
                subprocess.run(["ip", "netns", "del", host], check=False)


if __name__ == "__main__":
    sys.exit(drive(Path(sys.argv[2])) if sys.argv[1:2] == ["drive"] else main())
