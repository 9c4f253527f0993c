"""A node is taken in the middle of a trial's training, with a notice, as clouds take spot machines.

    python -m benchmarks.harness.preemption FOLDER [--workers 2] [--deadline 8]

A search with one trial of slow steps runs on a Ray cluster of its own: a head without CPUs and
nodes of one CPU, one more than the trial needs. A node of the trial is drained by `ray drain-node`
with a deadline, and its raylet is killed then. Prints one line of JSON: the steps that were done
twice, how the retry is recorded, and whether the final weights equal those of the same training
undisturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.harness.ports import free_port
from benchmarks.harness.tiny_run import TINY
from cid_ray.config import Config, build_config
from cid_ray.data.synthetic import write_demo
from cid_ray.results.records import of_event, read_records
from cid_ray.training import checkpoint
from cid_ray.training.launch import train

RUN = "1_8-cid-000"
STEPS = 14
STEP_S = 0.6
DRAIN_STEP = 6  # done before the notice
TIMEOUT_S = 240


def make_config(table: Path, workers: int) -> Config:
    changes = {
        "data.table": str(table),
        "distributed.num_workers": workers,
        "distributed.cpus_per_worker": 0.9,
        "distributed.data_cpus": 0.1,
        "train.steps": STEPS,
        "train.rungs": [1.0],
        "train.num_sample_images": 0,
        "search.ratios": ["1/8"],
        "search.trials": 1,
        "search.baselines": [],
        "search.retries": 0,  # a preemption is none
    }
    return build_config(TINY, changes)


def slow_steps(log: Path) -> Callable[[], None]:
    """What each of Ray's processes does first: from then on its steps are slow and logged."""

    def hook() -> None:
        from cid_ray.training.trainer import Trainer

        original = Trainer.train_step

        def train_step(self: Any, batch: Any) -> Any:
            import ray

            time.sleep(STEP_S)
            terms = original(self, batch)
            node = ray.get_runtime_context().get_node_id()
            with log.open("a") as file:
                file.write(f"{self.step} {self.spec.rank} {node}\n")
            return terms

        Trainer.train_step = train_step  # type: ignore[method-assign]

    return hook


def steps_done(log: Path) -> list[tuple[int, int, str]]:
    """Step, rank and node of each step that a worker has done, in order."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(step), int(rank), node) for step, rank, node in map(str.split, lines)]


class Nodes:
    """A head that runs the search, and nodes of one CPU."""

    def __init__(self, count: int):
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": free_port()}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(count)]

    def take(self, node_id: str, deadline_s: int) -> None:
        """Give notice of a node, and take it at the end of `deadline_s`."""
        deadline = time.monotonic() + deadline_s
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "drain-node", "--address", self.cluster.address, "--node-id", node_id]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        command += ["--deadline-remaining-seconds", str(deadline_s)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        time.sleep(max(0.0, deadline - time.monotonic()))
        [node] = [each for each in self.nodes if each.node_id == node_id]
        self.cluster.remove_node(node, allow_graceful=False)


def search(folder: Path, config: Config) -> int:
    from cid_ray.tune import main

    (folder / "space.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return main(["--config", str(folder / "space.yaml"), "--out", str(folder / "out"), "-q"])


def take_node_of_trial(log: Path, nodes: Nodes, args: argparse.Namespace) -> None:
    """Wait for DRAIN_STEP, and take the node of the trial's last worker."""
    started = time.monotonic()
    while not any(step >= DRAIN_STEP for step, _, _ in steps_done(log)):
        if time.monotonic() - started > TIMEOUT_S:
            return
        time.sleep(0.1)
    nodes.take(max(steps_done(log), key=lambda done: done[1])[2], args.deadline)


def weights_equal(folder: Path, config: Config, workers: int) -> bool | None:
    """Whether the trial has the weights of the same training in this process; None if rounding
    differs, as it does between numbers of workers.
    """
    if workers > 1:
        return None
    for _ in train(config, folder / "whole", score_test=False, cpus=1):
        pass
    whole = checkpoint.load_checkpoint(folder / "whole" / "checkpoints" / "train" / "last.pt")
    struck = checkpoint.load_checkpoint(folder / "out" / "checkpoints" / RUN / "last.pt")
    return all(
        torch.equal(value, struck["student"][key]) for key, value in whole["student"].items()
    )


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("folder", type=Path)
    options.add_argument("--workers", type=int, default=1)
    options.add_argument("--deadline", type=int, default=8, metavar="SECONDS")
    args = options.parse_args()
    folder: Path = args.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_demo(folder / "table", {"test": 4, "val": 4, "train": 48})
    config = make_config(folder / "table", args.workers)
    log = folder / "steps.txt"
    nodes = Nodes(args.workers + 1)
    import ray

    ray.init(
        nodes.cluster.address,
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": slow_steps(log)},
    )
    thread = threading.Thread(target=take_node_of_trial, args=(log, nodes, args), daemon=True)
    thread.start()
    try:
        code = search(folder, config)
    finally:
        ray.shutdown()
        nodes.cluster.shutdown()
    times_done = Counter(step for step, rank, _ in steps_done(log) if rank == 0)
    records = read_records(folder / "out")
    retries = of_event(records, "retry")
    result = {
        "exit_code": code,
        "trials": [record["state"] for record in of_event(records, "trial")],
        "nodes": len({node for _, _, node in steps_done(log)}),
        "steps": max(times_done),
        "steps_lost": sum(count - 1 for count in times_done.values()),
        "retries": [[record["attempt"], record["reason"]] for record in retries],
        "equal": weights_equal(folder, config, args.workers),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    os.environ.pop("RAY_ADDRESS", None)
    main()
