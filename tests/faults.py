"""One fault in the middle of a training on two workers, in a Ray cluster of its own with two nodes.

`python -m tests.faults FAULT FOLDER` trains undisturbed, trains again with the fault, and prints one line of JSON: the
seconds that it cost, whether the end is the same, bit for bit, and with how many workers each rung was reached.
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
from pathlib import Path
from queue import Queue
from typing import Any

import psutil
import torch

from cid_ray.config import Config, override
from cid_ray.data.demo import write_demo
from cid_ray.results.record import Row, read_rows
from cid_ray.run import cluster, state
from cid_ray.run.workers import close_crew, train_on_workers
from tests.object_store import free_port
from tests.support import TINY

HANG_SECONDS = 10  # here; 60 by default
FAULTS = ("none", "worker killed", "worker stopped", "driver killed", "node lost", "node lost, elastic")
ONE_WORKER_SECONDS = 3  # a rung; the crew looks for more room every 15
STRIKE_AFTER = 0.7  # seconds after a rung: in the middle of an epoch


def config_of(table: Path, elastic: bool) -> Config:
    return override(
        TINY,
        {
            "data.table": str(table), "scale.workers": [1, 2] if elastic else 2, "scale.cpus_per_worker": 1.5,
            "scale.data_cpus": 0.2, "train.steps": 120, "train.checkpoint_steps": 10,
            "train.rungs": [k / 12 for k in range(1, 13)] if elastic else [1 / 3, 2 / 3, 1],
        },
    )  # fmt: skip


class Nodes:
    """A head with room for one worker and for Ray Data, and a node with room for the other."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.all = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 2, "include_dashboard": True, "dashboard_port": free_port()},
        )
        self.second = self.all.add_node(num_cpus=2)
        os.environ["RAY_ADDRESS"] = self.all.address

    def lose(self) -> None:
        self.all.remove_node(self.second, allow_graceful=False)
        self.second = None

    def give_back(self) -> None:
        self.second = self.all.add_node(num_cpus=2)


def pids() -> list[int]:
    import ray
    from ray.util.state import list_actors

    asked = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
    found = list_actors(ray.get_runtime_context().gcs_address, filters=asked, limit=1000)
    return sorted(actor["pid"] for actor in found if actor["pid"] > 1)


def run(config: Config, root: Path, name: str, at_rung: Callable[[Row], None] = lambda _: None) -> dict[str, Any]:
    """Rung rows, the weights at the end, and the seconds from the first rung on."""
    rows, first = [], 0.0
    for row in train_on_workers(config, root, name, test=False, keep=True):
        if row["event"] == "rung":
            first = first or time.monotonic()
            at_rung(row)
        if row["event"] != "progress":
            rows.append(row)
    weights = state.load(root / "checkpoints" / name / "last.pt")
    return {"rows": rows, "weights": weights, "seconds": time.monotonic() - first}


def run_with_driver_killed(config: Config, root: Path) -> dict[str, Any]:
    """The same as a user's command, whose process is killed in the middle."""
    root.mkdir()
    (root / "given.yaml").write_text(config.to_yaml())
    command = [sys.executable, "-m", "cid_ray.train", "--config", str(root / "given.yaml"), "--out", str(root / "out")]
    process = subprocess.Popen([*command, "--restarts", "1"], stdout=subprocess.DEVNULL)
    rungs = lambda: [row for row in read_rows(root / "out") if row["event"] != "progress"]  # noqa: E731
    while not ((root / "out" / "rows.jsonl").exists() and rungs()):
        assert process.poll() is None
        time.sleep(0.1)
    first = time.monotonic()
    time.sleep(STRIKE_AFTER)
    psutil.Process(process.pid).children()[0].kill()
    assert process.wait() == 0
    weights = state.load(root / "out" / "checkpoints" / "train" / "last.pt")
    return {"rows": rungs(), "weights": weights, "seconds": time.monotonic() - first, "struck": True}


def run_struck(config: Config, root: Path, fault: str, nodes: Nodes) -> dict[str, Any]:
    """`run`, in a thread, while workers compute the fault strikes from here: nodes come and go in the main thread."""
    orders: Queue[Callable[[], None] | None] = Queue()
    workers_at: list[list[int]] = []

    def strike() -> None:
        time.sleep(STRIKE_AFTER)
        if fault == "worker killed":
            os.kill(pids()[-1], signal.SIGKILL)
        elif fault == "worker stopped":
            os.kill(pids()[-1], signal.SIGSTOP)
        elif fault.startswith("node lost"):
            nodes.lose()
            if fault == "node lost":
                nodes.give_back()

    def at_rung(row: Row) -> None:
        workers_at.append(pids())
        if len(workers_at) == 1:
            orders.put(strike)
        elif row["workers"] == 1:  # elastic
            if nodes.second is None:
                orders.put(nodes.give_back)
            time.sleep(ONE_WORKER_SECONDS)  # or it would be done before it may grow

    with ThreadPoolExecutor(1) as thread:
        training = thread.submit(run, config, root, "hit", at_rung)
        training.add_done_callback(lambda _: orders.put(None))
        while order := orders.get():
            order()
    return {**training.result(), "struck": workers_at[0] != workers_at[-1]}


def main(fault: str, folder: Path) -> int:
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(HANG_SECONDS)
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "table"
    write_demo(table, {"test": 4, "val": 4, "train": 48})
    nodes = Nodes()
    cluster.start_ray()
    try:
        config = config_of(table, "elastic" in fault)
        whole = run(config, folder, "whole")
        if fault == "driver killed":
            close_crew()
            hit = run_with_driver_killed(config, folder / "hit")
        else:
            hit = run_struck(config, folder, fault, nodes)
            close_crew()
    finally:
        import ray

        ray.shutdown()
        nodes.all.shutdown()
    pairs = [(a, hit["weights"][part][n]) for part in ("student", "teacher") for n, a in whole["weights"][part].items()]
    apart = max(float((a.float() - b.float()).abs().max()) for a, b in pairs)
    losses = {row["step"]: row["losses"]["total"] for row in whole["rows"] if row["event"] == "rung"}
    moved = {r["step"]: abs(r["losses"]["total"] / losses[r["step"]] - 1) for r in hit["rows"] if r["event"] == "rung"}
    said = {
        "fault": fault,
        "struck": hit["struck"],  # other processes at the last rung than at the first
        "recovered": hit["rows"][-1]["event"] == "final" and hit["rows"][-1]["step"] == config.train.steps,
        "seconds_lost": round(hit["seconds"] - whole["seconds"], 1),
        "equal": all(torch.equal(a, b) for a, b in pairs),
        "largest_difference": apart,
        "losses_apart": {step: float(f"{value:.1e}") for step, value in moved.items()},  # at rungs, relative
        "workers": [row["workers"] for row in hit["rows"]],
    }
    print(json.dumps(said), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
