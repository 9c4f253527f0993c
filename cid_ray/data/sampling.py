"""Which image comes at which step: a function of (seed, step) alone.

Nothing depends on how far a run got before or on the number of workers. A resumed run therefore
gets the batches that it would have got, and four workers together see the pixels of one process.

A `SampleOrder` is an endless sequence over table rows. A *position* is an index into that sequence:
step s of batch size B takes the positions s*B .. s*B+B-1, and each worker takes a slice of them.
The position also seeds the image's random crop (`data/loader.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cid_ray.config import DataConfig, labeled_shard, unlabeled_shard
from cid_ray.data.splits import Split

# The two kinds of order. The numbers are part of every seed: changing them changes every crop.
LABELED = 0
POOL = 1


@dataclass(frozen=True)
class SampleOrder:
    """An endless seeded order over table rows. Each epoch passes every row once, in a new order."""

    rows: np.ndarray  # i64[n], the table rows of an epoch
    seed: int
    kind: int  # LABELED or POOL
    batch_size: int  # images per step over all workers

    def positions(self, step: int, rank: int, world_size: int) -> range:
        """The positions that worker `rank` takes at a step."""
        first = step * self.batch_size
        shard = self.shard(rank, world_size)
        return range(first + shard.start, first + shard.stop)

    def shard(self, rank: int, world_size: int) -> range:
        """The indices of the global batch, 0..batch_size-1, that worker `rank` takes."""
        shard_of = unlabeled_shard if self.kind == POOL else labeled_shard
        return shard_of(self.batch_size, rank, world_size)

    def row_at(self, position: int, offset: int = 0) -> int:
        """The table row at a position.

        Args:
            position: 0, 1, 2, ... without end.
            offset: take the row that comes so many positions later in the SAME epoch. The end of
                the epoch is followed by its start, so a substitute never moves other images.
        """
        epoch, index = divmod(position, len(self.rows))
        order = _permutation(len(self.rows), self.seed, self.kind, epoch)
        return int(self.rows[order[(index + offset) % len(order)]])


@lru_cache(maxsize=8)
def _permutation(count: int, seed: int, kind: int, epoch: int) -> np.ndarray:
    """i64[count]: the order of one epoch."""
    return np.random.default_rng([seed, kind, epoch]).permutation(count)


@dataclass(frozen=True)
class SamplingPlan:
    """The orders of one run: labeled images, which cycle, and the pool of unlabeled images."""

    labeled: SampleOrder
    pool: SampleOrder | None  # None: the method uses no unlabeled images

    @classmethod
    def create(cls, data: DataConfig, split: Split, seed: int, feed_pool: bool) -> SamplingPlan:
        """The plan of a run with `train.seed` = seed on one split."""
        labeled = SampleOrder(split.labeled, seed, LABELED, data.batch_size)
        pool = SampleOrder(split.pool, seed, POOL, data.batch_size_u) if feed_pool else None
        return cls(labeled, pool)
