"""One fault in the middle of training on two workers, in a Ray cluster of its own with two nodes.

    python -m benchmarks.harness.faults FAULT FOLDER

trains undisturbed, trains again with the fault, and prints one line of JSON: the seconds that the
fault cost, whether the final weights are equal bit for bit, and the number of workers at each rung.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import psutil
import torch

from benchmarks.harness.ports import free_port
from benchmarks.harness.tiny_run import TINY
from cid_ray.config import Config, build_config
from cid_ray.data.synthetic import write_demo
from cid_ray.resources import ray_session
from cid_ray.results.records import Record, read_records
from cid_ray.training import checkpoint
from cid_ray.training.workers import close_worker_group, train_on_workers

HANG_S = 10  # until a worker that hangs is replaced; 60 by default
FAULTS = (
    "none",
    "worker killed",
    "worker stopped",
    "driver killed",
    "node lost",
    "node lost, elastic",
)
ONE_WORKER_RUNG_S = 3  # an elastic group looks for a second worker every 15 seconds
FAULT_DELAY_S = 0.7  # after a rung: in the middle of an epoch


@dataclass(frozen=True)
class Outcome:
    """A finished training: its records, its last checkpoint, seconds since its first rung."""

    records: list[Record]
    content: dict[str, Any]
    seconds: float
    struck: bool = False  # other processes trained at the last rung than at the first


def make_config(table: Path, elastic: bool) -> Config:
    changes = {
        "data.table": str(table),
        "distributed.num_workers": [1, 2] if elastic else 2,
        "distributed.cpus_per_worker": 1.5,
        "distributed.data_cpus": 0.2,
        "train.steps": 120,
        "train.checkpoint_steps": 10,
        "train.rungs": [k / 12 for k in range(1, 13)] if elastic else [1 / 3, 2 / 3, 1],
    }
    return build_config(TINY, changes)


class Nodes:
    """A head that holds one worker and Ray Data's tasks, and a node that holds the other worker."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": free_port()}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.second = self.cluster.add_node(num_cpus=2)
        os.environ["RAY_ADDRESS"] = self.cluster.address

    def remove_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None

    def add_second(self) -> None:
        self.second = self.cluster.add_node(num_cpus=2)


def worker_pids() -> list[int]:
    import ray
    from ray.util.state import list_actors

    filters = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
    address = ray.get_runtime_context().gcs_address
    actors = list_actors(address, filters=filters, limit=1000)
    return sorted(actor["pid"] for actor in actors if actor["pid"] > 1)  # 0: not known yet


def train(
    config: Config, folder: Path, name: str, on_rung: Callable[[Record], None] = lambda _: None
) -> Outcome:
    records: list[Record] = []
    first_rung = 0.0
    for record in train_on_workers(config, folder, name, score_test=False, keep_workers=True):
        if record["event"] == "rung":
            first_rung = first_rung or time.monotonic()
            on_rung(record)
        if record["event"] != "progress":
            records.append(record)
    content = checkpoint.load_checkpoint(folder / "checkpoints" / name / "last.pt")
    return Outcome(records, content, time.monotonic() - first_rung)


def train_with_driver_killed(config: Config, folder: Path) -> Outcome:
    """Train with a user's command, whose process is killed after the first rung."""
    folder.mkdir()
    (folder / "given.yaml").write_text(config.to_yaml())
    out = folder / "out"
    command = [sys.executable, "-m", "cid_ray.train", "--config", str(folder / "given.yaml")]
    command += ["--out", str(out), "--restarts", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not read_records(out):
        assert process.poll() is None, "the command ended before its first rung"
        time.sleep(0.1)
    first_rung = time.monotonic()
    time.sleep(FAULT_DELAY_S)
    psutil.Process(process.pid).children()[0].kill()
    assert process.wait() == 0
    content = checkpoint.load_checkpoint(out / "checkpoints" / "train" / "last.pt")
    return Outcome(read_records(out), content, time.monotonic() - first_rung, struck=True)


def train_with_fault(config: Config, folder: Path, fault: str, nodes: Nodes) -> Outcome:
    """Train in a thread. The fault happens in the main thread: Ray adds nodes only there."""
    orders: Queue[Callable[[], None] | None] = Queue()
    pids_at_rungs: list[list[int]] = []

    def strike() -> None:
        time.sleep(FAULT_DELAY_S)
        if fault == "worker killed":
            os.kill(worker_pids()[-1], signal.SIGKILL)
        elif fault == "worker stopped":
            os.kill(worker_pids()[-1], signal.SIGSTOP)
        elif fault.startswith("node lost"):
            nodes.remove_second()
            if fault == "node lost":
                nodes.add_second()

    def on_rung(record: Record) -> None:
        pids_at_rungs.append(worker_pids())
        if len(pids_at_rungs) == 1:
            orders.put(strike)
        elif record["workers"] == 1:  # an elastic group that shrank
            if nodes.second is None:
                orders.put(nodes.add_second)
            time.sleep(ONE_WORKER_RUNG_S)  # else training ends before the group may grow

    with ThreadPoolExecutor(1) as thread:
        training = thread.submit(train, config, folder, "struck", on_rung)
        training.add_done_callback(lambda _: orders.put(None))
        while order := orders.get():
            order()
    outcome = training.result()
    struck = pids_at_rungs[0] != pids_at_rungs[-1]
    return Outcome(outcome.records, outcome.content, outcome.seconds, struck)


def compare(fault: str, steps: int, whole: Outcome, struck: Outcome) -> dict[str, Any]:
    """What the fault did, as plain values."""
    pairs = [
        (value, struck.content[part][name])
        for part in ("student", "teacher")
        for name, value in whole.content[part].items()
    ]
    losses = {r["step"]: r["losses"]["total"] for r in whole.records if r["event"] == "rung"}
    relative = {
        r["step"]: abs(r["losses"]["total"] / losses[r["step"]] - 1)
        for r in struck.records
        if r["event"] == "rung"
    }
    last = struck.records[-1]
    return {
        "fault": fault,
        "struck": struck.struck,
        "recovered": last["event"] == "final" and last["step"] == steps,
        "seconds_lost": round(struck.seconds - whole.seconds, 1),
        "equal": all(torch.equal(a, b) for a, b in pairs),
        "largest_difference": max(float((a.float() - b.float()).abs().max()) for a, b in pairs),
        "loss_differences": {step: float(f"{value:.1e}") for step, value in relative.items()},
        "workers": [record["workers"] for record in struck.records],
    }


def main(fault: str, folder: Path) -> int:
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(HANG_S)
    folder.mkdir(parents=True, exist_ok=True)
    write_demo(folder / "table", {"test": 4, "val": 4, "train": 48})
    config = make_config(folder / "table", elastic="elastic" in fault)
    nodes = Nodes()
    ray_session.start_ray()
    try:
        whole = train(config, folder, "whole")
        if fault == "driver killed":
            close_worker_group()  # its CPUs are for the command's workers
            struck = train_with_driver_killed(config, folder / "struck")
        else:
            struck = train_with_fault(config, folder, fault, nodes)
            close_worker_group()
    finally:
        import ray

        ray.shutdown()
        nodes.cluster.shutdown()
    print(json.dumps(compare(fault, config.train.steps, whole, struck)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
