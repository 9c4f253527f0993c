"""Sums over all workers that gradients pass through; with one worker, or without torch.distributed, the identity.

Batch statistics (mu, sigma, Gram, prototypes, pixel counts) are those of the GLOBAL batch, so that hyperparameters
found on one GPU hold on eight. DDP averages the workers' gradients; a sum over workers must therefore enter a loss on
every worker alike, and a per-worker sum is scaled by the number of workers (`core.losses.masked_mean`).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn import functional as dist_nn


def size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_sum(value: Tensor) -> Tensor:
    """The sum of `value` over all workers, differentiable."""
    return dist_nn.all_reduce(value) if size() > 1 else value  # type: ignore[no-untyped-call]


def all_rows(value: Tensor) -> Tensor:
    """[B, ...] of every worker, concatenated in rank order, differentiable. Shares must have equal B."""
    return torch.cat(dist_nn.all_gather(value.contiguous())) if size() > 1 else value  # type: ignore[no-untyped-call]
