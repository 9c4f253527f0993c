"""Dropout as a function of (seed, step, image), whoever passes the image.

torch drops by one stream of numbers a process: workers of one seed would drop the same cells of different images, and
the number of workers would show in the result. Here a layer draws the masks of the whole GLOBAL batch and takes the
rows that are its own. So a batch passes alike in any shares and any parts, and a resumed run has nothing to restore.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from timm.layers import DropPath
from torch import Tensor, nn

# layer -> how many leading dimensions its mask has, the others are dropped whole; None: all
DROPS = {nn.Dropout: None, nn.Dropout1d: 2, nn.Dropout2d: 2, nn.Dropout3d: 2, DropPath: 1}


@dataclass
class Rows:
    """Which images of the global batch the next forward takes, in its order; all layers of a network look here."""

    own: Tensor  # i64[b], on the network's device
    total: int
    seed: int
    step: int = 0

    @contextmanager
    def part(self, index: Tensor) -> Iterator[None]:
        """A forward takes some of them only."""
        whole, self.own = self.own, self.own[index]
        try:
            yield
        finally:
            self.own = whole


class GlobalDropout(nn.Module):
    """What `former` is, with masks of the global batch; `number` tells the layers of a network apart."""

    def __init__(self, former: nn.Module, number: int, rows: Rows):
        super().__init__()
        self.number, self.rows, self.dims = number, rows, DROPS[type(former)]
        self.p = probability(former)
        self.scale = 1 / (1 - self.p) if self.p < 1 and getattr(former, "scale_by_keep", True) else 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x) if self.training else x

    @torch.compiler.disable  # generators do not compile
    def mask(self, x: Tensor) -> Tensor:
        """What x f[b,...] is multiplied by, of its dtype."""
        dims = self.dims or x.dim()
        shape = (self.rows.total, *x.shape[1:dims], *(1,) * (x.dim() - dims))
        mixed = np.random.SeedSequence([self.rows.seed, self.rows.step, self.number]).generate_state(1, np.uint64)
        generator = torch.Generator(x.device).manual_seed(int(mixed[0]) >> 1)
        kept = torch.rand(shape, generator=generator, device=x.device)[self.rows.own] >= self.p
        return kept.to(x.dtype) * self.scale

    def extra_repr(self) -> str:
        return f"p={self.p}, dims={self.dims}"


def probability(layer: nn.Module) -> float:
    return float(layer.drop_prob if isinstance(layer, DropPath) else layer.p)  # type: ignore[arg-type]


def of_global_batch(net: nn.Module, rows: Rows) -> None:
    """Every layer of a network that drops anything does so by `rows` from now on."""
    found = [
        (parent, name, layer)
        for parent in net.modules()
        for name, layer in parent.named_children()
        if type(layer) in DROPS and probability(layer) > 0
    ]
    for number, (parent, name, layer) in enumerate(found):
        setattr(parent, name, GlobalDropout(layer, number, rows))
