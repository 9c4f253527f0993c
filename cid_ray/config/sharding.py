"""Which images of a global batch each worker takes: the one rule for sampling, dropout and losses.

Batch sizes are given for all workers together. A shard is a range of positions in the global batch,
so a run sees the same images, pairs and masks on any number of workers.
"""

from __future__ import annotations

# CutMix mixes the images 2i and 2i+1 of the global batch. A pair must stay on one worker: else its
# pixels would have to travel between workers.
CUTMIX_GROUP_SIZE = 2


def shard_range(batch_size: int, rank: int, world_size: int, group_size: int = 1) -> range:
    """The positions that worker `rank` takes: whole groups, in rank order, as evenly as possible.

    Args:
        batch_size: images of the global batch.
        rank: the worker, from 0.
        world_size: number of workers.
        group_size: neighbouring images that must stay on one worker. An incomplete last group
            belongs to the last worker.

    Example:
        >>> [shard_range(5, rank, 2, group_size=2) for rank in range(2)]
        [range(0, 2), range(2, 5)]
    """
    groups = -(-batch_size // group_size)
    first_group = groups * rank // world_size
    end_group = groups * (rank + 1) // world_size
    return range(
        min(batch_size, group_size * first_group),
        min(batch_size, group_size * end_group),
    )


def labeled_shard(batch_size: int, rank: int, world_size: int) -> range:
    """A worker's positions in the labeled global batch (`data.batch_size`)."""
    return shard_range(batch_size, rank, world_size)


def unlabeled_shard(batch_size_u: int, rank: int, world_size: int) -> range:
    """A worker's positions in the unlabeled global batch, pairs whole (`data.batch_size_u`)."""
    return shard_range(batch_size_u, rank, world_size, CUTMIX_GROUP_SIZE)
