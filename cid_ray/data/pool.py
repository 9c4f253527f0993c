"""The pool by Ray Data: read, decoded and cropped by tasks anywhere in the cluster, for a worker of a training.

A dataset is a worker's share of the PLAN (integers), so order, shares and step counts are ours, not those of block
arrival; Ray streams it with bounded memory. A row is a whole step, and a task makes a block of many: what Ray does for
rows, blocks and tasks is paid once for hundreds of images, and the worker reads the arrays where they lie.

Before its first block Ray Data starts processes of its own, which takes seconds. Meanwhile the worker reads its share
itself (`Opening`). The plan says which image comes when, so it does not show in any value who read it.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from cid_ray.config import Data
from cid_ray.data.batches import Batch, Plan, Reader, Stream, kept_reader, load_share, local_batches

BLOCK_BYTES = 96 << 20  # that a task makes; Ray cuts a block of more than 128 MiB in two
BLOCKS_AT_ONCE = 8  # that a worker's part of the object store has room for
START_SECONDS = 2.0  # from asking Ray Data, once its processes stand, to a first block


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
    with closing(Opening(Share(plan.pool, data, rank, world, cpus), start, stop)) as opening:
        with closing(local_batches(reader, plan, data, start, stop, rank, world)) as own:
            while step < stop and not opening.takes(step):
                yield next(own)
                step += 1
        labeled = local_batches(reader, Plan(plan.labeled, None), data, step, stop, rank, world)
        for batch_x, batch_u in zip(labeled, opening.steps() if step < stop else (), strict=True):
            yield {**batch_x, **batch_u}


@dataclass(frozen=True)
class Share:
    """A worker's part of the pool's order, through Ray Data."""

    stream: Stream
    data: Data
    rank: int
    world: int
    cpus: float

    def steps(self, start: int, stop: int) -> Iterator[Batch]:
        """This worker's batches of steps start..stop-1."""
        for block in self.dataset(start, stop).iter_batches(batch_size=None, prefetch_batches=2, batch_format="numpy"):
            for index, told in enumerate(block["unreadable_u"]):
                image, valid = block["image_u"][index], block["valid_u"][index].view(bool)
                yield {"image_u": image, "valid_u": valid, "unreadable_u": np.array(json.loads(told), np.str_)}

    def dataset(self, start: int, stop: int) -> Any:
        """Rows of one step each, in the plan's order: image_u u8[B,3,H,W], valid_u u8[B,H,W], unreadable_u JSON."""
        import ray.data

        context, cluster = ray.data.DataContext.get_current(), ray.cluster_resources()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        store = cluster["object_store_memory"] / (2 * self.world)  # every worker has such a dataset
        context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(object_store_memory=store)
        step_bytes = len(self.stream.share(self.rank, self.world)) * 4 * math.prod(self.data.crop)
        steps_a_block = max(1, int(min(BLOCK_BYTES, store / BLOCKS_AT_ONCE) / step_bytes))
        held = ray.put(self.stream)  # once, and not with every task
        data, rank, world = self.data, self.rank, self.world

        def load(block: dict[str, np.ndarray]) -> dict[str, Any]:
            return load_steps(ray.get(held), data, rank, world, block["step"].tolist())

        blocks, idle = math.ceil((stop - start) / steps_a_block), math.ceil(cluster["CPU"] / world)
        rows = ray.data.from_items([{"step": step} for step in range(start, stop)], override_num_blocks=blocks)
        each = min(1.0, self.cpus / (math.ceil(self.cpus) + 1))  # one more at work than there are CPUs: one may wait
        return rows.map_batches(load, batch_size=None, num_cpus=each, concurrency=min(blocks, idle + 1))


def load_steps(stream: Stream, data: Data, rank: int, world: int, steps: list[int]) -> dict[str, Any]:
    """In a task: a worker's images of some steps, a row a step."""
    places = [place for step in steps for place in stream.places(step, rank, world)]
    found = load_share(kept_reader(data, data.cache_mb), stream, places, data)
    rows = {name: values.reshape(len(steps), -1, *values.shape[1:]) for name, values in found.items()}
    rows["valid_u"] = rows["valid_u"].view(np.uint8)  # Arrow packs bool to bits
    return {**rows, "unreadable_u": [json.dumps(told) for told in rows["unreadable_u"].tolist()]}


class Opening:
    """Ray Data opens a share in a thread, some steps ahead of the worker, who goes on by itself until it gets there."""

    def __init__(self, share: Share, start: int, stop: int):
        self.share, self.start, self.stop = share, start, stop
        self.here, self.began = start, time.monotonic()
        self.first = stop  # the step from which Ray Data has it; `stop` until that is known
        self.lock = threading.Lock()
        self.closed = False
        self.failure: BaseException | None = None
        self.ahead: list[Batch] = []
        self.thread = threading.Thread(target=self._open, daemon=True, name="ray-data-opening")
        self.thread.start()

    def takes(self, step: int) -> bool:
        """Whether this step and those after it are Ray Data's; raises what went wrong with it."""
        with self.lock:
            self.here = step
        if self.failure:
            raise self.failure
        return step == self.first

    def steps(self) -> Iterator[Batch]:
        """The batches from `first` on."""
        self.thread.join()
        if self.failure:
            raise self.failure
        yield from self.ahead
        yield from self.following

    def _open(self) -> None:
        try:
            next(self.share.steps(self.start, self.start + 1))  # its processes start
            with self.lock:
                pace = (self.here - self.start) / (time.monotonic() - self.began)
                self.first = min(self.stop, self.here + 1 + math.ceil(pace * START_SECONDS))
            if self.first < self.stop and not self.closed:
                self.following = self.share.steps(self.first, self.stop)
                self.ahead = [next(self.following)]  # begins to stream
        except BaseException as error:
            self.failure = error

    def close(self) -> None:
        self.closed = True
        self.ahead = []
