"""The same loop on N workers with Ray Train; Ray Data shards the pool over them.

`train_on_workers` is a generator like `run.loop.train`. Rank 0 sends every row through a queue and, at a rung, waits
until the row has been consumed: the next `next()` lets all workers go on, closing the generator stops them. So a
pruning decision is taken before the next step, and no worker is left in a collective alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cid_ray.config import Config, InputError
from cid_ray.results.record import Row
from cid_ray.run import cluster
from cid_ray.run.cluster import Resources

POLL_SECONDS = 1.0
RESTARTS = 3  # of the worker group, each from the last checkpoint


class Stopped(Exception):
    """The consumer of the rows has closed them."""


def worker_resources(config: Config) -> Resources:
    """What one worker asks for; unset values share out what the cluster has, keeping Ray Data's CPUs free."""
    scale = config.scale
    gpus = (1.0 if cluster.has_gpus() else 0.0) if scale.gpus_per_worker is None else scale.gpus_per_worker
    cpus = scale.cpus_per_worker
    if cpus is None:
        total = sum(node.cpus for node in cluster.nodes())
        share = max(0.0, total - scale.data_cpus - 0.1) / scale.workers
        cpus = float(int(share)) if share >= 1 else max(0.1, int(share * 10) / 10)
    return Resources(cpus, gpus)


def check_workers(config: Config) -> Resources:
    request = worker_resources(config)
    cluster.check_placeable(
        request, config.scale.workers, f"scale.workers={config.scale.workers}",
        "Lower scale.workers, scale.cpus_per_worker or scale.data_cpus, or add nodes.", config.scale.data_cpus,
    )  # fmt: skip
    return request


def train_on_workers(config: Config, root: Path, name: str = "train", test: bool = True) -> Iterator[Row]:
    """Rows of one run on `scale.workers` workers."""
    cluster.start_ray()
    request = check_workers(config)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.queue import Empty, Queue

    rows, decisions = Queue(actor_options={"num_cpus": 0}), Queue(actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        worker_loop,
        train_loop_config={
            "config": config.model_dump_json(), "root": str(root.resolve()), "name": name, "test": test,
            "threads": max(1, int(request.cpus)), "rows": rows, "decisions": decisions,
        },
        scaling_config=ScalingConfig(
            num_workers=config.scale.workers, use_gpu=request.gpus > 0, resources_per_worker=request.bundle()
        ),
        torch_config=TorchConfig(backend="nccl" if request.gpus else "gloo"),
        run_config=RunConfig(
            name=name, storage_path=str((root / "ray_train").resolve()),
            failure_config=FailureConfig(max_failures=RESTARTS, controller_failure_limit=1),
        ),
    )  # fmt: skip
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=fit, daemon=True, name=f"ray-train-{name}")
    thread.start()
    try:
        yield from _rows(rows, decisions, thread, Empty)
    finally:
        decisions.put("stop")
    thread.join()
    if failure:
        raise _plain(failure[0])


def _rows(rows: Any, decisions: Any, thread: threading.Thread, empty: type[Exception]) -> Iterator[Row]:
    while True:
        try:
            row = rows.get(timeout=POLL_SECONDS)
        except empty:
            if not thread.is_alive():
                return
            continue
        yield row
        if row["event"] == "rung":
            decisions.put("go")
        elif row["event"] == "final":
            return


def _plain(error: BaseException) -> BaseException:
    """The worker's own mistake, where that is what failed the run."""
    text = str(error)
    marker = f"{InputError.__module__}.{InputError.__name__}: "
    return InputError(text.split(marker, 1)[1].splitlines()[0]) if marker in text else error


def worker_loop(task: dict[str, Any]) -> None:
    """One Ray Train worker: runs the loop, reports to Ray Train, and sends rows from rank 0."""
    import ray.train
    import ray.train.torch
    import torch

    from cid_ray.config import Config
    from cid_ray.run.loop import train
    from cid_ray.run.run import Job

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if torch.cuda.is_available():
        torch.cuda.set_device(ray.train.torch.get_device())
    job = Job(
        Config.model_validate_json(task["config"]), Path(task["root"]), task["name"], rank, world,
        threads=task["threads"], use_ray_data=True, test=task["test"],
    )  # fmt: skip
    for row in train(job):
        if row["event"] == "progress":
            if rank == 0:
                task["rows"].put(row)
            continue
        ray.train.report({k: v for k, v in row.items() if isinstance(v, int | float)})
        go = torch.ones(1)
        if rank == 0:
            task["rows"].put(row)
            if row["event"] == "rung":
                go[0] = float(task["decisions"].get() == "go")
        if world > 1:
            device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
            go = go.to(device)
            torch.distributed.broadcast(go, 0)
        if not go.item():
            return
