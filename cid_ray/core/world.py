"""Sums over all workers that gradients pass through; with one worker, or without torch.distributed, the identity.

Batch statistics (mu, sigma, Gram, prototypes, pixel counts) are those of the GLOBAL batch, so that hyperparameters
found on one GPU hold on eight. DDP averages the workers' gradients; a sum over workers must therefore enter a loss on
every worker alike, and a per-worker sum is scaled by the number of workers (`core.losses.masked_mean`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


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
    def forward(ctx: Any, value: Tensor) -> Tensor:
        parts = [torch.empty_like(value) for _ in range(size())]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(size())[dist.get_rank()]


def all_sum(value: Tensor) -> Tensor:
    """The sum of `value` over all workers, differentiable."""
    return _AllSum.apply(value) if size() > 1 else value  # type: ignore[no-any-return,no-untyped-call]


def all_rows(value: Tensor) -> Tensor:
    """[B, ...] of every worker, concatenated in rank order, differentiable. Shares must have equal B."""
    return _AllRows.apply(value.contiguous()) if size() > 1 else value  # type: ignore[no-any-return,no-untyped-call]
