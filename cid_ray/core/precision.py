"""What is computed in float32 under mixed precision."""

from __future__ import annotations

import torch
from torch import Tensor


def no_autocast(like: Tensor) -> torch.autocast:
    """A block without autocast, which rounds even float32 products to bf16.

    Strong views, statistics and losses must not be rounded.
    """
    return torch.autocast(like.device.type, enabled=False)
