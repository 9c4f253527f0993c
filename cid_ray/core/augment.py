"""The strong view: colour jitter, blur and CutMix on a batch of tensors, on CPU and GPU alike.

All random numbers are drawn for the GLOBAL batch from a CPU generator seeded by (seed, step). A
worker uses those of its own images, so views do not depend on the number of workers. CutMix
partners are the neighbours (2i, 2i+1), which are on one worker (config/sharding.py). An image
without a partner (batch size 1, the last of an odd batch) is not mixed: an image mixed with itself
is no strong view.

Saturation, hue and gray are defined for red, green and blue. Images of another number of channels
get brightness and contrast, of one factor for all bands, and blur.

    B images of a batch   H,W pixels
    cutmix_box bool[B,H,W]: pixels that come from the partner (UniMatch's `cutmix_box`)
Source: CutMix (Yun et al. 2019) with the ranges and probabilities of UniMatch's strong view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cid_ray.core import color

JITTER = (0.5, 0.5, 0.5, 0.25)  # largest change of brightness, contrast, saturation, hue
P_JITTER = 0.8
P_GRAY = 0.2
P_BLUR = 0.5
P_CUTMIX = 0.5
BLUR_SIGMA = (0.1, 2.0)  # pixels
CUTMIX_AREA = (0.02, 0.4)  # fraction of the image
CUTMIX_ASPECT = (0.3, 1 / 0.3)  # height / width


def step_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator for one step. It does not depend on how many numbers earlier steps drew."""
    # A prime larger than any usual number of steps keeps (seed, step) pairs apart.
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % (1 << 63))


@dataclass(frozen=True)
class StrongViewParams:
    """The random numbers of one step's strong views, of B images.

    Attributes:
        chance: f32[B,4] in [0, 1) for jitter, gray, blur, cutmix: applied where below P_JITTER, ...
        jitter: f32[B,4] in [-1, 1] for brightness, contrast, saturation, hue, in units of JITTER.
        sigma: f32[B], the blur's sigma in pixels.
        box: i64[B,4], the CutMix box: top, left, bottom, right in pixels.
    """

    chance: Tensor
    jitter: Tensor
    sigma: Tensor
    box: Tensor

    def shard(self, indices: range) -> StrongViewParams:
        """The numbers of a worker's images, at positions `indices` of the global batch."""
        local = slice(indices.start, indices.stop)
        return StrongViewParams(
            self.chance[local], self.jitter[local], self.sigma[local], self.box[local]
        )


def sample_strong_view(
    batch_size: int, size: tuple[int, int], rng: torch.Generator
) -> StrongViewParams:
    """Random numbers for a global batch of `batch_size` images of `size` H, W pixels."""
    # All numbers are drawn for all images, applied or not: none shifts the numbers of another.
    chance = torch.rand(batch_size, 4, generator=rng)
    jitter = torch.rand(batch_size, 4, generator=rng) * 2 - 1
    low, high = BLUR_SIGMA
    sigma = torch.rand(batch_size, generator=rng) * (high - low) + low
    return StrongViewParams(chance, jitter, sigma, sample_cutmix_boxes(batch_size, size, rng))


def sample_cutmix_boxes(batch_size: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """CutMix boxes i64[B,4] (top, left, bottom, right in pixels) inside an image of `size` H, W.

    The area is uniform in CUTMIX_AREA and the aspect log-uniform in CUTMIX_ASPECT, as in UniMatch.
    """
    height, width = size
    u = torch.rand(batch_size, 4, generator=rng)
    area = (u[:, 0] * (CUTMIX_AREA[1] - CUTMIX_AREA[0]) + CUTMIX_AREA[0]) * height * width
    log_range = math.log(CUTMIX_ASPECT[1] / CUTMIX_ASPECT[0])
    aspect = torch.exp(u[:, 1] * log_range + math.log(CUTMIX_ASPECT[0]))
    box_height = (area * aspect).sqrt().clamp(1, height)
    # From the clamped height, so that a box cut by the image keeps its area where it can.
    box_width = (area / box_height).clamp(1, width)
    top = u[:, 2] * (height - box_height)
    left = u[:, 3] * (width - box_width)
    return torch.stack([top, left, top + box_height, left + box_width], 1).round().long()


def strong_view(image_u_w: Tensor, params: StrongViewParams) -> Tensor:
    """Colour jitter, grayscale and blur of u8[B,C,H,W], each image by its own `params`.

    The geometry stays. Which images change is decided on the CPU, so nothing waits for the device.
    """
    is_rgb = image_u_w.shape[1] == 3
    # By the columns of `chance`. Bands other than red, green and blue have no grey.
    changes = (_jitter, _gray, _blur) if is_rgb else (_jitter_bands, None, _blur)
    limits = torch.tensor([P_JITTER, P_GRAY, P_BLUR])
    # Each change runs on the chosen images only; the others cost nothing.
    chosen = params.chance[:, :3] < limits
    images = image_u_w.to(torch.float32)
    for column, change in enumerate(changes):
        indices = chosen[:, column].nonzero()[:, 0]
        if change is not None and len(indices):
            on_device = indices.to(images.device, non_blocking=True)
            images[on_device] = change(images[on_device], params, indices)
    return images.to(torch.uint8)


def _jitter(images: Tensor, params: StrongViewParams, indices: Tensor) -> Tensor:
    amounts = params.jitter[indices] * torch.tensor(JITTER)
    brightness, contrast, saturation, hue = amounts.to(images.device, non_blocking=True).T
    images = color.adjust_brightness(images, 1 + brightness)
    images = color.adjust_contrast(images, 1 + contrast)
    images = color.adjust_saturation(images, 1 + saturation)
    return color.adjust_hue(images, hue)


def _jitter_bands(images: Tensor, params: StrongViewParams, indices: Tensor) -> Tensor:
    amounts = params.jitter[indices, :2] * torch.tensor(JITTER[:2])
    brightness, contrast = amounts.to(images.device, non_blocking=True).T
    images = color.adjust_brightness(images, 1 + brightness)
    return color.adjust_band_contrast(images, 1 + contrast)


def _gray(images: Tensor, params: StrongViewParams, indices: Tensor) -> Tensor:
    return color.grayscale(images).expand_as(images)


def _blur(images: Tensor, params: StrongViewParams, indices: Tensor) -> Tensor:
    sigma = params.sigma[indices].to(images.device, non_blocking=True)
    return color.gaussian_blur(images, sigma, max_sigma=BLUR_SIGMA[1])


def cutmix_mask(params: StrongViewParams, size: tuple[int, int], device: torch.device) -> Tensor:
    """The cutmix_box bool[B,H,W]: True where pixels come from the partner.

    All False for an image that is not mixed or has no partner. `size` is H, W.
    """
    batch_size = len(params.box)
    ys = torch.arange(size[0], device=device)[:, None]
    xs = torch.arange(size[1], device=device)[None, :]
    top, left, bottom, right = params.box.to(device)[:, :, None, None].unbind(1)
    has_partner = cutmix_partners(batch_size) != torch.arange(batch_size)
    mixed = (params.chance[:, 3] < P_CUTMIX) & has_partner
    inside = (ys >= top) & (ys < bottom) & (xs >= left) & (xs < right)
    return inside & mixed.to(device)[:, None, None]


def cutmix_partners(batch_size: int) -> Tensor:
    """i64[B]: the neighbour whose pixels an image receives, or the image itself without one."""
    index = torch.arange(batch_size)
    neighbour = index ^ 1  # flips the last bit: 0 <-> 1, 2 <-> 3, ...
    return torch.where(neighbour < batch_size, neighbour, index)


def apply_cutmix(values: Tensor, cutmix_box: Tensor) -> Tensor:
    """Values [B,...,H,W] with the partner's values inside cutmix_box bool[B,H,W].

    Serves images, labels, probabilities and features, so that all of them have one geometry.
    """
    partner = values[cutmix_partners(len(values)).to(values.device)]
    # [B,1,...,1,H,W], so that one box serves all channels.
    box = cutmix_box.reshape(len(cutmix_box), *[1] * (values.dim() - 3), *cutmix_box.shape[1:])
    return torch.where(box, partner, values)
