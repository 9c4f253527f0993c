"""Gradient accumulation that changes no loss: the student's batch passes in parts, the losses see it whole.

CID's terms compare statistics of the global batch, so adding up the losses of parts would be another method. Here the
parts pass without a graph first, the losses are computed once from all their outputs, and each part passes again to
carry its share of the gradient on (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup"). It costs one more forward; memory is that of one part, and of the outputs. Dropout is the same in both passes
(`core.dropout`).

Batch norm is the exception: it normalises every part by itself (over all workers). So a part takes labeled and
unlabeled images alike; the numbers of the whole batch come back exactly with an encoder and a decoder without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cid_ray.core.dropout import Rows

Autocast = Callable[[], AbstractContextManager[object]]


class Part(NamedTuple):
    own: Tensor  # i64: which of the batch
    images: Tensor
    logits: Tensor
    feat: Tensor


class InParts:
    """A network to be called once a step; `backward` follows the losses' own. Not a Module: it holds no weights.

    `rows` are those that its dropout looks at.
    """

    def __init__(self, net: nn.Module, parts: int, autocast: Autocast, rows: Rows):
        self.net, self.parts, self.autocast, self.rows = net, parts, autocast, rows
        self.open: list[Part] = []

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images u8[B,3,H,W] -> logits and feat as of one forward; in training mode without a graph of the network."""
        parts = min(self.parts, len(images))
        shares = [torch.arange(k, len(images), parts, device=images.device) for k in range(parts)]
        self.open = []
        training = torch.is_grad_enabled()
        with torch.no_grad(), frozen_statistics(self.net) if training else nullcontext():
            for own in shares:
                with self.rows.part(own) if training else nullcontext():
                    self.open.append(Part(own, images[own], *self.net(images[own])))
        if training:
            for part in self.open:
                part.logits.requires_grad_()
                part.feat.requires_grad_()
        order = torch.argsort(torch.cat(shares))
        whole = torch.cat([p.logits for p in self.open])[order], torch.cat([p.feat for p in self.open])[order]
        if not training:
            self.open = []
        return whole

    def backward(self) -> None:
        """Every part again, with a graph, for the gradients that the losses have left at its outputs."""
        net, parts, self.open = self.net, self.open, []
        for part in parts:
            adding: AbstractContextManager[object] = nullcontext()
            if isinstance(net, nn.parallel.DistributedDataParallel) and part is not parts[-1]:
                adding = net.no_sync()  # workers' sums are taken once, with the last part
            with adding, self.rows.part(part.own), self.autocast():
                again = self.net(part.images)
                pairs = [(a, o.grad) for a, o in zip(again, part[2:], strict=True) if o.grad is not None]
                torch.autograd.backward([a for a, _ in pairs], [grad for _, grad in pairs])


@contextmanager
def frozen_statistics(net: nn.Module) -> Iterator[None]:
    """Running statistics are moved once a step, by the passes that carry gradients."""
    kept = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
