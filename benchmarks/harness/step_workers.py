"""Seconds per training step on several processes of one thread: one run together, or a run each."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.ports import free_port
from cid_ray.config import Config
from cid_ray.data.loader import Batch
from cid_ray.resources.cpu_affinity import pin_process
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer


def time_on_workers(
    config: Config, shards: list[list[Batch]], warmup: int, together: bool = True
) -> float:
    """Seconds per step of the slowest of several processes with one thread each.

    Args:
        config: the configuration.
        shards: the batches of each process.
        warmup: steps that are not timed.
        together: train one run together; else each process trains a run of its own.
    """
    context = multiprocessing.get_context("spawn")
    port = free_port()
    with context.Pool(len(shards)) as pool:
        arguments = [
            (config, batches, rank, len(shards), port, warmup, together)
            for rank, batches in enumerate(shards)
        ]
        return max(pool.starmap(_time_worker, arguments, chunksize=1))


def _time_worker(
    config: Config,
    batches: list[Batch],
    rank: int,
    world_size: int,
    port: int,
    warmup: int,
    together: bool,
) -> float:
    store = torch.distributed.TCPStore("127.0.0.1", port, world_size, is_master=rank == 0)
    if together:
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    pin_process(1)
    with tempfile.TemporaryDirectory() as folder:
        spec = RunSpec(config, Path(folder), num_threads=1)
        if together:
            spec.rank, spec.world_size = rank, world_size
        trainer = Trainer(spec)
        for number, batch in enumerate(batches):
            if number == warmup:
                _wait_for_all(store, "warm", world_size)
                started = time.perf_counter()
            trainer.train_step(dict(batch))
    seconds = time.perf_counter() - started
    store.add("done", 1)
    while rank == 0 and store.add("done", 0) < world_size:  # the store ends with this process
        time.sleep(0.01)
    if together:
        torch.distributed.destroy_process_group()
    return seconds / (len(batches) - warmup)


def _wait_for_all(store: Any, key: str, world_size: int) -> None:
    store.add(key, 1)
    while store.add(key, 0) < world_size:
        time.sleep(0.001)
