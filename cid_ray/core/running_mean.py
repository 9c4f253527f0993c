"""EMAs of statistics of batches, kept in buffers: a resumed run continues them.

Early values are averaged: decay min(1 - 1/(t+1), decay). So the first batch sets an EMA, and there
is no start from zero to unlearn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningMean(nn.Module):
    """EMAs of tensors of fixed shapes.

    Args:
        decay: per update, in [0, 1), after the ramp.
        shapes: name -> shape.

    Example:
        >>> mean = RunningMean(0.9, {"gram": (2, 2)})
        >>> mean.update({"gram": torch.ones(2, 2)})
        >>> mean["gram"].sum().item()
        4.0
    """

    updates: Tensor

    def __init__(self, decay: float, shapes: dict[str, tuple[int, ...]]):
        super().__init__()
        self.decay = decay
        self.names = sorted(shapes)
        self.register_buffer("updates", torch.zeros(()))
        for name in self.names:
            self.register_buffer(name, torch.zeros(shapes[name]))

    def __getitem__(self, name: str) -> Tensor:
        value: Tensor = getattr(self, name)
        return value

    @torch.no_grad()
    def update(self, values: dict[str, Tensor]) -> None:
        """Move each EMA towards its value; `values` names all of them."""
        decay = torch.clamp(1 - 1 / (self.updates + 1), max=self.decay)
        for name in self.names:
            self[name].lerp_(values[name], 1 - decay)
        self.updates += 1
