"""torchvision's colour operations and blur with a factor for every image, so that a batch is one call.

Images are f32[N,3,H,W] of whole numbers in 0..255, before and after. torchvision.transforms.v2.functional takes one
factor for all images of a call; these give what it gives image by image for uint8, to one of 255 levels
(tests/core/test_color.py), in as few kernels for a batch as for an image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

GRAY = (0.2989, 0.587, 0.114)  # red, green, blue
HUE_SCALE = 255.999 / 255  # torchvision's way back to whole levels


def grayscale(images: Tensor) -> Tensor:
    """f32[N,1,H,W]."""
    red, green, blue = images.unbind(1)
    return (red * GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2]).floor_()[:, None]


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor.view(-1, 1, 1, 1)).clamp_(0, 255).floor_()


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, grayscale(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, grayscale(images), factor)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    ratio = factor.view(-1, 1, 1, 1)
    return (images * ratio).add_(other * (1 - ratio)).clamp_(0, 255).floor_()


def adjust_hue(images: Tensor, turn: Tensor) -> Tensor:
    """`turn` f32[N] in [-0.5, 0.5] of the colour circle."""
    red, green, blue = images.unbind(1)
    low, value = torch.aminmax(images, dim=1)
    chroma = value - low
    sixths = torch.where(
        value == red, green - blue,
        torch.where(value == green, (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4)),
    )  # fmt: skip
    sixths = sixths.div_(chroma.clamp(min=1)).add_(6 * turn.view(-1, 1, 1)).remainder_(6)
    shares = (sixths - 3).abs_() - 1, 2 - (sixths - 2).abs_(), 2 - (sixths - 4).abs_()
    turned = torch.stack([torch.addcmul(low, chroma, share.clamp_(0, 1)) for share in shares], 1)
    return turned.mul_(HUE_SCALE).floor_()


def gaussian_blur(images: Tensor, sigma: Tensor, most: float) -> Tensor:
    """Each image by its own `sigma` f32[N], at most `most`; the kernel ends at two of them, the border is reflected."""
    count, channels, _, _ = images.shape
    radius = math.ceil(2 * most)
    steps = torch.arange(-radius, radius + 1, device=images.device)
    weight = -(steps**2) / (2 * sigma[:, None] ** 2)
    weight = weight.masked_fill(steps.abs() > torch.ceil(2 * sigma[:, None]), -math.inf).softmax(1)
    weight = weight.repeat_interleave(channels, 0)[:, None]  # [N*3, 1, taps]
    planes = F.pad(images, [radius] * 4, mode="reflect").flatten(0, 1)[None]
    for shaped in (weight[:, :, None, :], weight[:, :, :, None]):
        planes = F.conv2d(planes, shaped, groups=count * channels)
    return planes.view(images.shape).round_()
