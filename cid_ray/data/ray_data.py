"""The pool by Ray Data: read, decoded and cropped by tasks anywhere in the cluster.

Each worker of a training has a Ray dataset of its own, a `PoolShard`. The dataset's input is
integers, the steps, and `data/sampling.py` says which images a step has. Order, shards and the
number of steps are therefore ours and do not depend on when blocks arrive. A row of the dataset is
a whole step and a task makes a block of many steps, so Ray's cost per row, block and task is paid
once for hundreds of images. The worker reads the arrays from the object store without a copy.

Ray Data's processes take seconds to start. Meanwhile the worker reads its shard by its own threads
(`data/loader.py`), and a `Handover` decides from which step on Ray Data takes over. Both follow the
same plan, so no pixel depends on who read it.
"""

from __future__ import annotations

import itertools
import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from cid_ray.config import DataConfig
from cid_ray.data.cache import CachedReader, cached_reader
from cid_ray.data.loader import Batch, load_shard, local_batches
from cid_ray.data.sampling import SampleOrder, SamplingPlan

BLOCK_BYTES = 96 << 20  # per task; Ray splits a block of more than 128 MiB
MAX_BLOCKS_IN_STORE = 8  # blocks that a worker's part of the object store must hold
FIRST_BLOCK_TIMEOUT_S = 300.0  # once the worker needs it
CLOSE_TIMEOUT_S = 30.0  # for a first block that nobody needs any more
# From asking Ray Data, with its processes running, to the first block. Generous: the worker's steps
# may get faster in the meantime, and it must not reach the handover step first.
STARTUP_MARGIN_S = 12.0


def ray_batches(
    reader: CachedReader,
    plan: SamplingPlan,
    data: DataConfig,
    start: int,
    stop: int,
    rank: int,
    world_size: int,
    cpus: float,
) -> Iterator[Batch]:
    """This worker's batches of steps start..stop-1, the pool by Ray Data as soon as it is ready.

    The batches equal those of `loader.local_batches`. Arrays from Ray Data are read-only. Needs
    ray.

    Args:
        reader: reads labeled images, and the pool until Ray Data is ready.
        plan: which image comes at which step.
        data: crop size, random resize, flip and threads.
        start: the first step.
        stop: the step after the last one.
        rank: this worker, from 0.
        world_size: number of workers.
        cpus: CPUs that are reserved for this worker's tasks. They use more where CPUs are idle.

    Yields:
        A Batch per step.
    """
    if plan.pool is None:
        yield from local_batches(reader, plan, data, start, stop, rank, world_size)
        return
    channels = reader.table.num_channels
    shard = PoolShard(plan.pool, data, rank, world_size, cpus, start, stop, channels)
    step = start
    with closing(Handover(shard)) as handover:
        with closing(local_batches(reader, plan, data, start, stop, rank, world_size)) as batches:
            while step < stop and not handover.is_handover_step(step):
                yield next(batches)
                step += 1
        labeled_plan = SamplingPlan(plan.labeled, None)
        labeled = local_batches(reader, labeled_plan, data, step, stop, rank, world_size)
        pool = handover.batches() if step < stop else iter(())
        for batch_x, batch_u in zip(labeled, pool, strict=True):
            yield {**batch_x, **batch_u}


@dataclass(frozen=True)
class PoolShard:
    """A worker's part of the pool in steps start..stop-1, as a Ray dataset."""

    order: SampleOrder
    data: DataConfig
    rank: int
    world_size: int
    cpus: float  # reserved for the tasks of this worker
    start: int
    stop: int
    num_channels: int = 3

    def batches(self) -> Iterator[Batch]:
        """This worker's pool batches, one per step: image_u, valid_u, unreadable_u."""
        blocks = self.dataset().iter_batches(
            batch_size=None, prefetch_batches=2, batch_format="numpy"
        )
        for block in blocks:
            for index, unreadable in enumerate(block["unreadable_u"]):
                yield {
                    "image_u": block["image_u"][index],
                    "valid_u": block["valid_u"][index].view(bool),
                    "unreadable_u": np.array(json.loads(unreadable), np.str_),
                }

    def dataset(self) -> Any:
        """A Ray dataset with one row per step, in order: what `load_steps` returns for the step."""
        import ray.data

        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
            object_store_memory=self.store_bytes
        )
        # The order holds every pool row. Put once, it does not travel with every task.
        order_ref = ray.put(self.order)
        data = self.data
        rank = self.rank
        world_size = self.world_size

        def load(block: dict[str, np.ndarray]) -> dict[str, Any]:
            return load_steps(ray.get(order_ref), data, rank, world_size, block["step"].tolist())

        steps = [{"step": step} for step in range(self.start, self.stop)]
        rows = ray.data.from_items(steps, override_num_blocks=self.num_blocks)
        return rows.map_batches(
            load, batch_size=None, num_cpus=self.cpus_per_task, concurrency=self.max_tasks
        )

    def wait_until_ready(self, closed: threading.Event) -> bool:
        """Start the processes that Ray Data's tasks will use, and wait for them.

        Returns:
            True when each process has loaded a step. False if `closed` was set first: processes
            that still start then serve the next run.
        """
        import ray

        task = ray.remote(num_cpus=self.cpus_per_task)(warm_up)
        starting = [
            task.remote(self.order, self.data, self.rank, self.world_size, self.start)
            for _ in range(self.max_tasks)
        ]
        while starting and not closed.is_set():
            ready, starting = ray.wait(starting, timeout=0.1)
            ray.get(ready)  # raises what a task raised
        return not closed.is_set()

    @cached_property
    def cluster_resources(self) -> dict[str, float]:
        import ray

        return ray.cluster_resources()

    @property
    def store_bytes(self) -> float:
        """This worker's part of half of the object store. The other half is for everything else."""
        return self.cluster_resources["object_store_memory"] / (2 * self.world_size)

    @property
    def num_blocks(self) -> int:
        """Blocks into which the steps are divided, so that a task makes BLOCK_BYTES at most."""
        images = len(self.order.shard(self.rank, self.world_size))
        bytes_per_pixel = self.num_channels + 1  # of a pool image: its channels and `valid`
        step_bytes = images * bytes_per_pixel * math.prod(self.data.crop)
        block_bytes = min(BLOCK_BYTES, self.store_bytes / MAX_BLOCKS_IN_STORE)
        steps_per_block = max(1, int(block_bytes / step_bytes))
        return math.ceil((self.stop - self.start) / steps_per_block)

    @property
    def max_tasks(self) -> int:
        """Concurrent tasks: one more than this worker's CPUs, as one may wait for its bytes."""
        cpus = self.cluster_resources["CPU"] / self.world_size
        return min(self.num_blocks, math.ceil(cpus) + 1)

    @property
    def cpus_per_task(self) -> float:
        """What a task asks Ray for, so that one task more than the reserved CPUs can be placed."""
        return min(1.0, self.cpus / (math.ceil(self.cpus) + 1))


def warm_up(order: SampleOrder, data: DataConfig, rank: int, world_size: int, step: int) -> None:
    """Runs in a Ray task: the imports, and the opening of the table, before a first block."""
    import ray.data  # noqa: F401  takes seconds

    load_steps(order, data, rank, world_size, [step])


def load_steps(
    order: SampleOrder, data: DataConfig, rank: int, world_size: int, steps: list[int]
) -> dict[str, Any]:
    """Runs in a Ray task: a worker's pool images of S steps, as a block with a row per step.

    Returns:
        image_u u8[S,B,C,H,W], valid_u u8[S,B,H,W], unreadable_u: S JSON lists of B strings.
    """
    positions = [position for step in steps for position in order.positions(step, rank, world_size)]
    batch = load_shard(cached_reader(data), order, positions, data)
    rows = {
        name: values.reshape(len(steps), -1, *values.shape[1:]) for name, values in batch.items()
    }
    rows["valid_u"] = rows["valid_u"].view(np.uint8)  # Arrow packs bool to bits, which costs a copy
    unreadable = [json.dumps(errors) for errors in rows["unreadable_u"].tolist()]
    return {**rows, "unreadable_u": unreadable}


class Handover:
    """Decides from which step on Ray Data supplies the pool, while the worker trains on.

    A thread waits for Ray Data's processes. It then chooses a step some seconds ahead of the
    worker, and opens the dataset from that step. The worker reads by itself until it gets there,
    so it neither waits for Ray Data nor reads a step twice.
    """

    def __init__(self, shard: PoolShard):
        self.shard = shard
        self.worker_step = shard.start  # the step that the worker is about to read
        self.started_at = time.monotonic()
        self.handover_step = shard.stop  # `stop` until it is decided
        self.error: BaseException | None = None
        self._pool_batches: Iterator[Batch] = iter(())
        self._lock = threading.Lock()  # the worker must not pass the step while it is chosen
        self._closed = threading.Event()
        self.thread = threading.Thread(target=self._open, daemon=True, name="ray-data-handover")
        self.thread.start()

    def is_handover_step(self, step: int) -> bool:
        """Whether Ray Data supplies this step and all later ones. Raises the thread's error."""
        with self._lock:
            self.worker_step = step
        if self.error:
            raise self.error
        return step == self.handover_step

    def batches(self) -> Iterator[Batch]:
        """The pool batches from the handover step on. Waits for the first block."""
        self.thread.join(FIRST_BLOCK_TIMEOUT_S)
        if self.error:
            raise self.error
        if self.thread.is_alive():
            raise RuntimeError(
                f"Ray Data delivered no block within {FIRST_BLOCK_TIMEOUT_S:g} s: "
                "other work holds the CPUs that distributed.data_cpus reserves"
            )
        yield from self._pool_batches

    def _open(self) -> None:
        try:
            if not self.shard.wait_until_ready(self._closed):
                return
            with self._lock:
                elapsed = time.monotonic() - self.started_at
                steps_per_second = (self.worker_step - self.shard.start) / elapsed
                ahead = 1 + math.ceil(steps_per_second * STARTUP_MARGIN_S)
                self.handover_step = min(self.shard.stop, self.worker_step + ahead)
            if self.handover_step < self.shard.stop:
                batches = replace(self.shard, start=self.handover_step).batches()
                first = next(batches)  # nothing is read before the first `next`
                self._pool_batches = itertools.chain([first], batches)
        except BaseException as error:
            self.error = error

    def close(self) -> None:
        """Stop the thread. It is abandoned if its first block takes longer than CLOSE_TIMEOUT_S."""
        self._closed.set()
        self.thread.join(CLOSE_TIMEOUT_S)
        self._pool_batches = iter(())
