"""The two or three views of a step's unlabeled images, and what the losses know of a batch.

The weak view is the loaded image. A strong view changes its colours (core/augment.py) and mixes it
with its neighbour by CutMix. `unimatch_v2` has two strong views, drawn independently.

    B images   I channels of an image   H,W pixels
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from cid_ray.core import augment
from cid_ray.core.distributed import BatchShard
from cid_ray.core.losses import IGNORE_INDEX


@dataclass(frozen=True)
class BatchViews:
    """What the losses know of this worker's part of a batch, besides the networks' outputs.

    Attributes:
        mask_x: i64[B,H,W], 255 where there is no label.
        valid_u: bool[B,H,W] of the weak view, False on padding.
        cutmix_boxes: bool[B,H,W] of each strong view.
        shard_x, shard_u: which images of the global batches they are.
    """

    mask_x: Tensor
    valid_u: Tensor
    cutmix_boxes: tuple[Tensor, ...]
    shard_x: BatchShard
    shard_u: BatchShard

    @cached_property
    def labeled(self) -> Tensor:
        """bool[B,H,W]: the pixels that have a label."""
        return self.mask_x != IGNORE_INDEX

    @cached_property
    def valid_s(self) -> tuple[Tensor, ...]:
        """bool[B,H,W] of each strong view, False on padding."""
        return tuple(augment.apply_cutmix(self.valid_u, box) for box in self.cutmix_boxes)


def strong_views(
    image_u_w: Tensor, count: int, seed: int, step: int, shard_u: BatchShard
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Strong views u8[B,I,H,W] of a weak one, and the cutmix_box bool[B,H,W] of each.

    The first view is the same for any `count`.
    """
    size = (image_u_w.shape[-2], image_u_w.shape[-1])
    # Drawn for the global batch: else views would depend on the number of workers.
    rng = augment.step_generator(seed, step)
    images, boxes = [], []
    for _ in range(count):
        params = augment.sample_strong_view(shard_u.batch_size, size, rng).shard(shard_u.indices)
        box = augment.cutmix_mask(params, size, image_u_w.device)
        images.append(augment.apply_cutmix(augment.strong_view(image_u_w, params), box))
        boxes.append(box)
    return images, tuple(boxes)
