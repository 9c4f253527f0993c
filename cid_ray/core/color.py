"""torchvision's colour operations and blur with one factor per image, so that a batch is one call.

torchvision.transforms.v2.functional takes one factor for all images of a call. These functions give
its uint8 result for each image, to within one of 255 levels (tests/core/test_color.py), with as few
kernels for a batch as for one image.

    N images   H,W pixels
    Images are f32[N,3,H,W] of whole numbers in 0..255, before and after. Brightness, contrast of
    bands and blur take any number of channels C.
Source: torchvision.transforms.v2.functional, whose formulas and rounding these follow.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

GRAY = (0.2989, 0.587, 0.114)  # weights of red, green and blue (ITU-R 601-2 luma)
HUE_SCALE = 255.999 / 255  # torchvision multiplies [0, 1] by 255.999 to get whole levels


def grayscale(images: Tensor) -> Tensor:
    """Luma f32[N,1,H,W] of images f32[N,3,H,W], rounded down to whole levels."""
    red, green, blue = images.unbind(1)
    return (red * GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2]).floor_()[:, None]


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """factor * image; `factor` f32[N], 1 changes nothing, 0 gives black."""
    return (images * factor.view(-1, 1, 1, 1)).clamp_(0, 255).floor_()


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean gray of each image; `factor` f32[N], 1 changes nothing, 0 gives gray."""
    return _blend(images, grayscale(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_band_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each band of f32[N,C,H,W] with its own mean, as `adjust_contrast` does a gray image."""
    return _blend(images, images.mean((2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grayscale image; `factor` f32[N], 1 changes nothing, 0 gives grayscale."""
    return _blend(images, grayscale(images), factor)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """factor * images + (1 - factor) * other."""
    ratio = factor.view(-1, 1, 1, 1)
    return (images * ratio).add_(other * (1 - ratio)).clamp_(0, 255).floor_()


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue by `shift` f32[N] in [-0.5, 0.5] of the colour circle (RGB -> HSV -> RGB)."""
    red, green, blue = images.unbind(1)
    low, value = torch.aminmax(images, dim=1)
    chroma = value - low
    # The hue in sixths of the circle, times chroma: 0 is red, 2 is green, 4 is blue.
    from_green = (blue - red).add_(chroma, alpha=2)
    from_blue = (red - green).add_(chroma, alpha=4)
    hue = torch.where(value == green, from_green, from_blue)
    hue = torch.where(value == red, green - blue, hue)
    # A gray pixel has no chroma; dividing by 1 there leaves its hue 0.
    hue = hue.div_(chroma.clamp(min=1)).add_(6 * shift.view(-1, 1, 1)).remainder_(6)
    # How much of the chroma each channel has at this hue, before clamping to [0, 1].
    fractions = ((hue - 3).abs_() - 1, 2 - (hue - 2).abs_(), 2 - (hue - 4).abs_())
    # HSV's value is low + chroma, so each channel is between these two.
    channels = [torch.addcmul(low, chroma, fraction.clamp_(0, 1)) for fraction in fractions]
    return torch.stack(channels, 1).mul_(HUE_SCALE).floor_()


def gaussian_blur(images: Tensor, sigma: Tensor, max_sigma: float) -> Tensor:
    """Blur each image with its own `sigma` f32[N] in pixels, at most `max_sigma`.

    A kernel ends at two sigmas; the border is reflected. All kernels have the size of the largest,
    with zeros outside their own, so that one grouped convolution serves the batch.
    """
    count, channels, _, _ = images.shape
    radius = math.ceil(2 * max_sigma)
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    log_weight = -(offsets**2) / (2 * sigma[:, None] ** 2)
    outside = offsets.abs() > torch.ceil(2 * sigma[:, None])
    weight = log_weight.masked_fill(outside, -math.inf).softmax(1)
    weight = weight.repeat_interleave(channels, 0)[:, None]  # [N*C, 1, taps]
    planes = F.pad(images, [radius] * 4, mode="reflect").flatten(0, 1)[None]
    # A Gaussian is separable: one pass along x, one along y.
    for kernel in (weight[:, :, None, :], weight[:, :, :, None]):
        planes = F.conv2d(planes, kernel, groups=count * channels)
    return planes.view(images.shape).round_()
