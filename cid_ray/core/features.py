"""Features and statistics that relation and style losses compare, at about stride 16.

A C x C relation costs memory and time, and neighbouring positions of `feat` say nearly the same. So
both distillations work on cells of about 16 pixels instead of the decoder's stride of 4.

    B images   C channels of `feat`   H,W pixels of an image   h,w cells
    The canvas is the image padded to a multiple of the network's stride.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cid_ray.core.augment import apply_cutmix
from cid_ray.core.losses import IGNORE_INDEX
from cid_ray.core.model import pad_to_stride

CELL_PIXELS = 16


@dataclass(frozen=True)
class Features:
    """Pooled features of one network on both halves of the batch, and which cells are valid.

    The teacher's labeled half has no images where no loss compares with it.
    """

    x: Tensor  # f32[B,C,h,w]
    u: Tensor  # f32[B,C,h,w]
    valid_x: Tensor  # f32[B,1,h,w]
    valid_u: Tensor  # f32[B,1,h,w]


def pool_features(feat: Tensor, valid: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Average-pool `feat` over valid positions to cells of about 16 pixels.

    A cell is a power of two of positions wide, the largest of at most 16 pixels: 16 pixels, and 14
    for a ViT with patches of 14. So cells divide every canvas, and a cell is one token there.

    Args:
        feat: f[B,C,h',w'] on the canvas, at the decoder's stride.
        valid: bool[B,H,W], False on padding and on ignored pixels.
        stride: pixels; the network's (`Segmenter.stride`).

    Returns:
        f32[B,C,h,w], the mean over each cell's valid positions, and f32[B,1,h,w]: 1 where any pixel
        of the cell is valid, else 0.
    """
    canvas = pad_to_stride(valid.float()[:, None], stride)
    valid_positions = F.adaptive_max_pool2d(canvas, feat.shape[-2:])
    # Pixels per position: 4 for DeepLabV3+ and FPN, 1 for Unet, 1.75 for DPT at a patch of 14.
    position_pixels = canvas.shape[-1] / feat.shape[-1]
    side = 2 ** max(0, math.floor(math.log2(CELL_PIXELS / position_pixels)))
    if side == 1:
        return feat.float() * valid_positions, valid_positions
    fraction = F.avg_pool2d(valid_positions, side)
    pooled: Tensor = _PoolValid.apply(feat, valid_positions, fraction.clamp(min=1e-6), side)
    return pooled, (fraction > 0).float()


class _PoolValid(torch.autograd.Function):
    """Mean over the valid ones of side x side positions; `side` divides the canvas.

    Keeps nothing as large as `feat`. Plain autograd keeps one copy of it and makes three more in
    the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, feat: Tensor, valid_positions: Tensor, fraction: Tensor, side: int
    ) -> Tensor:
        ctx.save_for_backward(valid_positions, fraction)
        ctx.side = side
        ctx.dtype = feat.dtype
        return F.avg_pool2d(feat.float() * valid_positions, side) / fraction

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        valid_positions, fraction = ctx.saved_tensors
        per_position = grad / fraction / ctx.side**2
        spread = F.interpolate(per_position, scale_factor=ctx.side, mode="nearest")
        return spread.mul_(valid_positions).to(ctx.dtype), None, None, None


def pool_parts(
    feat: Tensor, valid: Sequence[Tensor], stride: int
) -> tuple[list[Tensor], list[Tensor]]:
    """`pool_features` of several sets of images that follow each other in `feat`.

    Args:
        feat: f[B,C,h',w'] on the canvas.
        valid: bool[b,H,W] of each set, together of all B images. A set may be empty.
        stride: pixels; the network's.

    Returns:
        The pooled features and the valid cells of each set.
    """
    # Pooled before it is split: the gradient of a slice of `feat` would be as large as `feat`.
    pooled, cells = pool_features(feat, torch.cat([*valid]), stride)
    sizes = [len(part) for part in valid]
    return list(pooled.split(sizes)), list(cells.split(sizes))


def pool_mixed(
    feat_u: Tensor, cutmix_box: Tensor, valid_s: Tensor, stride: int
) -> tuple[Tensor, Tensor]:
    """`pool_features` of a weak view's features in the geometry of the strong view.

    Args:
        feat_u: f[B,C,h',w'] of the weak view, on the canvas.
        cutmix_box: bool[B,H,W] of the strong view.
        valid_s: bool[B,H,W] of the strong view.
        stride: pixels; the network's.
    """
    canvas = pad_to_stride(cutmix_box.float()[:, None], stride)
    # Nearest, then binary: a position takes the partner's feature or keeps its own, never a blend.
    small = F.interpolate(canvas, size=feat_u.shape[-2:], mode="nearest")
    return pool_features(apply_cutmix(feat_u, small[:, 0] > 0.5), valid_s, stride)


def labels_to_grid(classes: Tensor, size: torch.Size, stride: int) -> Tensor:
    """i64[B,H,W] -> i64[B,h,w] for `size` h, w: the class at each cell's centre, 255 on padding."""
    # Classes must not be averaged, so a cell takes the one at its centre.
    canvas = pad_to_stride(classes[:, None].float(), stride, value=float(IGNORE_INDEX))
    height, width = canvas.shape[-2:]
    ys = ((torch.arange(size[0], device=canvas.device) + 0.5) * height / size[0]).long()
    xs = ((torch.arange(size[1], device=canvas.device) + 0.5) * width / size[1]).long()
    return canvas[:, 0][:, ys][:, :, xs].long()
