"""Sums over all workers that gradients pass through. The identity for one worker.

Batch statistics (mu, sigma, Gram, prototypes, pixel counts) are those of the GLOBAL batch.
Otherwise hyperparameters found on one GPU would be wrong on eight. DDP averages the gradients of
the workers. So a sum over workers must enter the loss of every worker alike, and a sum over one
worker's images is scaled by the number of workers (`core.losses.masked_mean`).

    B images of the global batch   b images of this worker   ... any further dimensions
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class BatchShard:
    """Which images of a global batch belong to this worker.

    Attributes:
        indices: positions in the global batch, consecutive.
        batch_size: images of the global batch.
    """

    indices: range
    batch_size: int


def world_size() -> int:
    """Number of workers: 1 without torch.distributed or outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _AllReduceSum(torch.autograd.Function):
    """Sum over workers. Every worker's loss depends on the sum, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class _GatherShards(torch.autograd.Function):
    """This worker's [b,...] -> all workers' [B,...]; the gradient is summed over workers."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, shard: BatchShard) -> Tensor:
        ctx.local = slice(shard.indices.start, shard.indices.stop)
        whole = value.new_zeros(shard.batch_size, *value.shape[1:])
        whole[ctx.local] = value
        # An all_gather needs shards of one size. Summing shards into zeros takes any sizes.
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.local], None


def all_gather(value: Tensor) -> Tensor:
    """[n,...] of every worker -> [world_size,n,...] in rank order, without gradients.

    Shapes must be equal on all workers.
    """
    if world_size() == 1:
        return value[None]
    gathered = value.new_empty(world_size() * len(value), *value.shape[1:])
    dist.all_gather_into_tensor(gathered, value)
    return gathered.view(world_size(), *value.shape)


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum of `value` (any shape, equal on all workers) over all workers, differentiable."""
    return _AllReduceSum.apply(value) if world_size() > 1 else value


def gather_shards(value: Tensor, shard: BatchShard | None) -> Tensor:
    """This worker's shard [b,...] -> the global batch [B,...] in rank order, differentiable.

    `shard` may be None for one worker only.
    """
    if world_size() == 1:
        return value
    assert shard is not None and len(shard.indices) == len(value)
    return _GatherShards.apply(value, shard)
