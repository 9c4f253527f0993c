"""Gradient accumulation that leaves every loss unchanged (Gradient Cache).

CID's terms compare statistics of the global batch. Adding up losses of micro-batches would be
another method. Here the micro-batches first pass without a graph. The losses are computed once from
all their outputs. Then each micro-batch passes again and carries its part of the gradient on. The
price is one more forward; memory is that of one micro-batch and of the outputs. Dropout is the same
in both passes (`core.dropout`).

Batch norm is the exception: it normalises each micro-batch by itself (over all workers). So every
micro-batch mixes labeled and unlabeled images. Without batch norm the result is that of the whole
batch.

    b images of this worker   n images of a micro-batch
Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cid_ray.core.dropout import BatchIndex

Autocast = Callable[[], AbstractContextManager[object]]


class MicroBatch(NamedTuple):
    """A part of a worker's batch between its two passes."""

    indices: Tensor  # i64[n], positions in the worker's batch
    images: Tensor  # u8[n,3,H,W]
    # logits f[n,K,H,W], feat f[n,C,h,w], ...: leaf tensors that collect the gradients of the losses
    outputs: tuple[Tensor, ...]


class MicroBatched:
    """A network called once a step in micro-batches. Call `backward` after the losses' own.

    Not an nn.Module, because it holds no weights.

    Args:
        net: images u8[n,3,H,W] -> (logits f[n,K,H,W], feat f[n,C,h,w], ...).
        num_micro_batches: at most this many; fewer for a smaller batch.
        autocast: makes the context of the second forward, the same as that of the first.
        batch: which images the network's dropout layers see.
    """

    def __init__(
        self, net: nn.Module, num_micro_batches: int, autocast: Autocast, batch: BatchIndex
    ):
        self.net = net
        self.num_micro_batches = num_micro_batches
        self.autocast = autocast
        self.batch = batch
        self.pending: list[MicroBatch] = []  # wait for their second pass

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images u8[b,3,H,W] -> logits, feat, ... as of one forward.

        With gradients enabled they are computed without a graph of the network; `backward` makes
        that graph later.
        """
        training = torch.is_grad_enabled()
        # Strides, not slices: labeled images come first and every micro-batch should have some.
        count = min(self.num_micro_batches, len(images))
        splits = [torch.arange(k, len(images), count, device=images.device) for k in range(count)]
        micro_batches = []
        with torch.no_grad(), frozen_running_stats(self.net) if training else nullcontext():
            for indices in splits:
                with self.batch.subset(indices) if training else nullcontext():
                    outputs = self.net(images[indices])
                    micro_batches.append(MicroBatch(indices, images[indices], outputs))
        if training:
            for micro_batch in micro_batches:
                for output in micro_batch.outputs:
                    output.requires_grad_()
        self.pending = micro_batches if training else []
        # Back to the order of `images`, which the losses rely on.
        order = torch.argsort(torch.cat(splits))
        parts = zip(*(micro_batch.outputs for micro_batch in micro_batches), strict=True)
        return tuple(torch.cat(part)[order] for part in parts)

    def backward(self) -> None:
        """Pass every micro-batch again, with a graph, and push the losses' gradients through it."""
        micro_batches = self.pending
        self.pending = []
        for micro_batch in micro_batches:
            accumulate: AbstractContextManager[object] = nullcontext()
            is_last = micro_batch is micro_batches[-1]
            if isinstance(self.net, nn.parallel.DistributedDataParallel) and not is_last:
                # One all_reduce of the accumulated gradients is enough: with the last micro-batch.
                accumulate = self.net.no_sync()
            with accumulate, self.batch.subset(micro_batch.indices), self.autocast():
                outputs = self.net(micro_batch.images)
                pairs = [
                    (output, leaf.grad)
                    for output, leaf in zip(outputs, micro_batch.outputs, strict=True)
                    if leaf.grad is not None
                ]
                torch.autograd.backward(
                    [output for output, _ in pairs], [grad for _, grad in pairs]
                )


@contextmanager
def frozen_running_stats(net: nn.Module) -> Iterator[None]:
    """Restore all buffers of `net` at the end of the block.

    Batch norm's running statistics must move once a step: in the pass that carries gradients.
    """
    saved = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        yield
    finally:
        for buffer, value in saved:
            buffer.copy_(value)
