"""The pool by Ray Data: read, decoded and cropped by tasks anywhere in the cluster, for a worker of a training.

A dataset is a worker's share of the PLAN (integers), so order, shares and step counts are ours, not those of block
arrival; Ray streams it with bounded memory. A row is a whole step, and a task makes a block of many: what Ray does for
rows, blocks and tasks is paid once for hundreds of images, and the worker reads the arrays where they lie.

Before their first block Ray Data's processes start, which takes seconds. Meanwhile the worker reads its share itself
(`Opening`). The plan says which image comes when, so it does not show in any value who read it.
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

from cid_ray.config import Data
from cid_ray.data.batches import Batch, Plan, Reader, Stream, kept_reader, load_share, local_batches

BLOCK_BYTES = 96 << 20  # that a task makes; Ray cuts a block of more than 128 MiB in two
BLOCKS_AT_ONCE = 8  # that a worker's part of the object store has room for
PATIENCE_SECONDS = 300.0  # with a first block that is due
CLOSE_SECONDS = 30.0  # with one that nobody wants any more
START_SECONDS = 12.0  # from asking Ray Data, once processes stand, to a first block; a worker may get faster meanwhile


def ray_batches(
    reader: Reader, plan: Plan, data: Data, start: int, stop: int, rank: int, world: int, cpus: float
) -> Iterator[Batch]:
    """As `data.batches.local_batches`, the pool by Ray Data as soon as that stands; its arrays are read-only.

    `cpus` are those that are kept free for it; it takes more where they are idle. Needs ray.
    """
    if plan.pool is None:
        yield from local_batches(reader, plan, data, start, stop, rank, world)
        return
    step = start
    with closing(Opening(Share(plan.pool, data, rank, world, cpus, start, stop))) as opening:
        with closing(local_batches(reader, plan, data, start, stop, rank, world)) as own:
            while step < stop and not opening.takes(step):
                yield next(own)
                step += 1
        labeled = local_batches(reader, Plan(plan.labeled, None), data, step, stop, rank, world)
        for batch_x, batch_u in zip(labeled, opening.batches() if step < stop else (), strict=True):
            yield {**batch_x, **batch_u}


@dataclass(frozen=True)
class Share:
    """A worker's part of the pool's order in steps start..stop-1, through Ray Data."""

    stream: Stream
    data: Data
    rank: int
    world: int
    cpus: float
    start: int
    stop: int

    def batches(self) -> Iterator[Batch]:
        """This worker's batches."""
        for block in self.dataset().iter_batches(batch_size=None, prefetch_batches=2, batch_format="numpy"):
            for index, told in enumerate(block["unreadable_u"]):
                image, valid = block["image_u"][index], block["valid_u"][index].view(bool)
                yield {"image_u": image, "valid_u": valid, "unreadable_u": np.array(json.loads(told), np.str_)}

    def dataset(self) -> Any:
        """Rows of one step each, in the plan's order: image_u u8[B,3,H,W], valid_u u8[B,H,W], unreadable_u JSON."""
        import ray.data

        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
            object_store_memory=self.store
        )
        held = ray.put(self.stream)  # once, and not with every task
        data, rank, world = self.data, self.rank, self.world

        def load(block: dict[str, np.ndarray]) -> dict[str, Any]:
            return load_steps(ray.get(held), data, rank, world, block["step"].tolist())

        steps = [{"step": step} for step in range(self.start, self.stop)]
        rows = ray.data.from_items(steps, override_num_blocks=self.blocks)
        return rows.map_batches(load, batch_size=None, num_cpus=self.task_cpus, concurrency=self.tasks)

    def stands(self, closed: threading.Event) -> bool:
        """Wait for processes that have loaded a step, as Ray Data's tasks will; False if `closed` was first."""
        import ray

        task = ray.remote(num_cpus=self.task_cpus)(first_load)
        starting = [task.remote(self.stream, self.data, self.rank, self.world, self.start) for _ in range(self.tasks)]
        while starting and not closed.is_set():
            stood, starting = ray.wait(starting, timeout=0.1)
            ray.get(stood)
        return not closed.is_set()  # what still starts serves the next run

    @cached_property
    def cluster(self) -> dict[str, float]:
        import ray

        return ray.cluster_resources()

    @property
    def store(self) -> float:
        """Bytes of the object store for this worker; every worker has a dataset."""
        return self.cluster["object_store_memory"] / (2 * self.world)

    @property
    def blocks(self) -> int:
        step_bytes = len(self.stream.share(self.rank, self.world)) * 4 * math.prod(self.data.crop)
        steps_a_block = max(1, int(min(BLOCK_BYTES, self.store / BLOCKS_AT_ONCE) / step_bytes))
        return math.ceil((self.stop - self.start) / steps_a_block)

    @property
    def tasks(self) -> int:
        """At work at once, at most: one more than the CPUs for this worker, because one may wait for its bytes."""
        return min(self.blocks, math.ceil(self.cluster["CPU"] / self.world) + 1)

    @property
    def task_cpus(self) -> float:
        return min(1.0, self.cpus / (math.ceil(self.cpus) + 1))


def first_load(stream: Stream, data: Data, rank: int, world: int, step: int) -> None:
    """In a task: what a process does before its first block."""
    import ray.data  # noqa: F401  seconds

    load_steps(stream, data, rank, world, [step])


def load_steps(stream: Stream, data: Data, rank: int, world: int, steps: list[int]) -> dict[str, Any]:
    """In a task: a worker's images of some steps, a row a step."""
    places = [place for step in steps for place in stream.places(step, rank, world)]
    found = load_share(kept_reader(data, data.cache_mb), stream, places, data)
    rows = {name: values.reshape(len(steps), -1, *values.shape[1:]) for name, values in found.items()}
    rows["valid_u"] = rows["valid_u"].view(np.uint8)  # Arrow packs bool to bits
    return {**rows, "unreadable_u": [json.dumps(told) for told in rows["unreadable_u"].tolist()]}


class Opening:
    """Ray Data opens a share in a thread, some steps ahead of the worker, who goes on by itself until it gets there."""

    def __init__(self, share: Share):
        self.share, self.here, self.began = share, share.start, time.monotonic()
        self.first = share.stop  # the step from which Ray Data has it; `stop` until that is known
        self.lock = threading.Lock()
        self.closed = threading.Event()
        self.failure: BaseException | None = None
        self.opened: Iterator[Batch] = iter(())
        self.thread = threading.Thread(target=self._open, daemon=True, name="ray-data-opening")
        self.thread.start()

    def takes(self, step: int) -> bool:
        """Whether this step and those after it are Ray Data's; raises what went wrong with it."""
        with self.lock:
            self.here = step
        if self.failure:
            raise self.failure
        return step == self.first

    def batches(self) -> Iterator[Batch]:
        """From step `first` on."""
        self.thread.join(PATIENCE_SECONDS)
        if self.failure:
            raise self.failure
        if self.thread.is_alive():
            raise RuntimeError(
                f"Ray Data gave nothing for {PATIENCE_SECONDS:g} s: others hold the CPUs that scale.data_cpus counts on"
            )
        yield from self.opened

    def _open(self) -> None:
        try:
            if not self.share.stands(self.closed):
                return
            with self.lock:
                pace = (self.here - self.share.start) / (time.monotonic() - self.began)
                self.first = min(self.share.stop, self.here + 1 + math.ceil(pace * START_SECONDS))
            if self.first < self.share.stop:
                opened = replace(self.share, start=self.first).batches()
                self.opened = itertools.chain([next(opened)], opened)  # begins to stream
        except BaseException as error:
            self.failure = error

    def close(self) -> None:
        """Nothing of it is at work any more, unless a first block does not come."""
        self.closed.set()
        self.thread.join(CLOSE_SECONDS)
        self.opened = iter(())
