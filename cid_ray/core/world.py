"""Sums over all workers that gradients pass through; with one worker, or without torch.distributed, the identity.

Batch statistics (mu, sigma, Gram, prototypes, pixel counts) are those of the GLOBAL batch, so that hyperparameters
found on one GPU hold on eight. DDP averages the workers' gradients; a sum over workers must therefore enter a loss on
every worker alike, and a per-worker sum is scaled by the number of workers (`core.losses.masked_mean`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Which images of the global batch are this worker's."""

    own: range
    total: int


def size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _AllSum(torch.autograd.Function):
    """Every worker's loss depends on the sum, so the gradient of a part is the sum of all workers' gradients."""

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


class _AllRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, share: Share) -> Tensor:
        ctx.own = slice(share.own.start, share.own.stop)
        rows = value.new_zeros(share.total, *value.shape[1:])
        rows[ctx.own] = value
        dist.all_reduce(rows)  # unlike a gather it takes shares of any sizes
        return rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.own], None


def gathered(value: Tensor) -> Tensor:
    """[world, ...] of all workers in rank order, without gradients; shapes must be equal."""
    if size() == 1:
        return value[None]
    rows = value.new_empty(size() * len(value), *value.shape[1:])
    dist.all_gather_into_tensor(rows, value)
    return rows.view(size(), *value.shape)


def all_sum(value: Tensor) -> Tensor:
    """The sum of `value` over all workers, differentiable."""
    return _AllSum.apply(value) if size() > 1 else value  # type: ignore[no-any-return,no-untyped-call]


def all_rows(value: Tensor, share: Share | None) -> Tensor:
    """This worker's share [b, ...] -> [B, ...] of all workers in rank order, differentiable."""
    if size() == 1:
        return value
    assert share is not None and len(share.own) == len(value)
    return _AllRows.apply(value, share)  # type: ignore[no-any-return,no-untyped-call]
