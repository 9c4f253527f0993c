"""Dropout whose mask depends on (seed, step, layer, image) and on nothing else.

torch draws masks from one stream of random numbers per process. Workers with the same seed would
then drop the same cells of different images, and results would depend on the number of workers.
Here each layer draws the masks of the whole GLOBAL batch and uses those of its own images. A batch
therefore gives the same result in any shards and micro-batches, and a resumed run has no random
state to restore.

    B images of the global batch   b images of this forward   ... further dimensions of the input
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from timm.layers import DropPath
from torch import Tensor, nn

# How many leading dimensions a layer's mask has; it is constant over the others. None: all of them.
MASK_DIMS: dict[type[nn.Module], int | None] = {
    nn.Dropout: None,
    nn.Dropout1d: 2,
    nn.Dropout2d: 2,
    nn.Dropout3d: 2,
    DropPath: 1,
}
FIRST_WIDTH = 1 << 20  # above any number of dropout layers


@dataclass
class BatchIndex:
    """Which images of the global batch the next forward takes; read by all dropout layers.

    Attributes:
        indices: i64[b], positions in the global batch in the order of the forward, on the network's
            device.
        batch_size: images of the global batch, B.
        seed: the run's seed.
        step: the training step, from 0; the trainer sets it before each step.
    """

    indices: Tensor
    batch_size: int
    seed: int
    step: int = 0

    def generator(self, layer_index: int, device: torch.device) -> torch.Generator:
        """The random numbers of one layer at this step."""
        entropy = [self.seed, self.step, layer_index]
        mixed_seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
        # manual_seed takes a signed 64-bit number, so the top bit is dropped.
        return torch.Generator(device).manual_seed(mixed_seed >> 1)

    @contextmanager
    def subset(self, index: Tensor) -> Iterator[None]:
        """Within the block a forward takes only the images `index` i64[n] of `indices`."""
        whole = self.indices
        self.indices = whole[index]
        try:
            yield
        finally:
            self.indices = whole


class GlobalDropout(nn.Module):
    """Replaces the dropout layer `layer`: the same rate and scale, but masks of the global batch.

    Args:
        layer: a layer of one of the types in MASK_DIMS.
        layer_index: its number in the network, so that layers have different masks.
        batch: which images a forward takes, shared by all layers of the network.
    """

    def __init__(self, layer: nn.Module, layer_index: int, batch: BatchIndex):
        super().__init__()
        self.layer_index = layer_index
        self.batch = batch
        self.dims = MASK_DIMS[type(layer)]
        self.p = drop_probability(layer)
        rescales = getattr(layer, "scale_by_keep", True)
        self.scale = 1 / (1 - self.p) if self.p < 1 and rescales else 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x) if self.training else x

    @torch.compiler.disable  # generators do not compile
    def mask(self, x: Tensor) -> Tensor:
        """The factor for x f[b,...]: 0 or `scale`, in the dtype of x."""
        # Drawn whole and then indexed: an image's mask must not depend on the other images here.
        dims = self.dims or x.dim()
        shape = (self.batch.batch_size, *x.shape[1:dims], *(1,) * (x.dim() - dims))
        generator = self.batch.generator(self.layer_index, x.device)
        kept = torch.rand(shape, generator=generator, device=x.device)[self.batch.indices] >= self.p
        return kept.to(x.dtype) * self.scale

    def extra_repr(self) -> str:
        return f"p={self.p}, dims={self.dims}"


class ComplementaryDropout(nn.Module):
    """Drops complementary channels from the two strong views of an image, as UniMatch V2 does.

    Of the encoder's maps, view 1 keeps a random half of the channels at twice their value, and
    view 2 the other half. Half of the pairs keep all channels. Labeled images are left alone, and
    so is everything in eval mode. Maps of equal width share their masks, as a ViT's do there.

    Args:
        batch: which images a forward takes: labeled ones, then view 1, then view 2.
        num_labeled: labeled images of the global batch.
        num_pairs: unlabeled images of the global batch.
    """

    def __init__(self, batch: BatchIndex, num_labeled: int, num_pairs: int):
        super().__init__()
        self.batch = batch
        self.num_labeled = num_labeled
        self.num_pairs = num_pairs

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x) if self.training else x

    @torch.compiler.disable  # generators do not compile
    def mask(self, x: Tensor) -> Tensor:
        """The factor f[b,C,1,1] for x f[b,C,h,w]: 0, 1 or 2."""
        channels = x.shape[1]
        # Widths are far from the numbers of dropout layers, and get random numbers of their own.
        generator = self.batch.generator(FIRST_WIDTH + channels, x.device)
        shape = (self.num_pairs, channels)
        first = 2.0 * (torch.rand(shape, generator=generator, device=x.device) < 0.5)
        order = torch.randperm(self.num_pairs, generator=generator, device=x.device)
        whole = order[: self.num_pairs // 2]
        first[whole] = 1.0
        labeled = torch.ones(self.num_labeled, channels, device=x.device)
        mask = torch.cat([labeled, first, 2 - first])[self.batch.indices]
        return mask.to(x.dtype)[:, :, None, None]


def drop_probability(layer: nn.Module) -> float:
    """The rate of a dropout or drop-path layer, in [0, 1]."""
    return float(layer.drop_prob if isinstance(layer, DropPath) else layer.p)  # type: ignore[arg-type]


def convert_dropout(net: nn.Module, batch: BatchIndex) -> None:
    """Replace every dropout layer of `net` with a rate above 0 by `GlobalDropout`, in place."""
    # Collected first: replacing layers while walking over the modules would skip some.
    found = [
        (parent, name, layer)
        for parent in net.modules()
        for name, layer in parent.named_children()
        if type(layer) in MASK_DIMS and drop_probability(layer) > 0
    ]
    for layer_index, (parent, name, layer) in enumerate(found):
        setattr(parent, name, GlobalDropout(layer, layer_index, batch))
