"""The strong view: colour, blur and CutMix on a batch of tensors, the same code on CPU and GPU.

Everything random is drawn for the GLOBAL batch from a CPU Generator seeded by (seed, step) and a worker uses its own
rows, so views do not depend on the number of workers. CutMix partners are neighbours (2i, 2i+1), which lie on one
worker; an image without a neighbour (batch size 1, the odd last one) is left unmixed, because an image mixed with
itself is no strong view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cid_ray.core import color

JITTER = (0.5, 0.5, 0.5, 0.25)  # brightness, contrast, saturation, hue: UniMatch's strong view
P_JITTER, P_GRAY, P_BLUR, P_CUTMIX = 0.8, 0.2, 0.5, 0.5
BLUR_SIGMA = (0.1, 2.0)
CUTMIX_AREA, CUTMIX_ASPECT = (0.02, 0.4), (0.3, 1 / 0.3)


def generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator for one step; independent of how many draws earlier steps made."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % (1 << 63))


@dataclass(frozen=True)
class StrongDraw:
    """The random numbers of one step for the global batch: chances and factors f32[B, ...], boxes i64[B,4]."""

    chance: Tensor  # [B, 4] jitter, gray, blur, cutmix
    jitter: Tensor  # [B, 4] brightness, contrast, saturation, hue in [-1, 1]
    sigma: Tensor  # [B]
    box: Tensor  # [B, 4] top, left, bottom, right

    def rows(self, share: range) -> StrongDraw:
        own = slice(share.start, share.stop)
        return StrongDraw(self.chance[own], self.jitter[own], self.sigma[own], self.box[own])


def draw_strong(batch: int, size: tuple[int, int], rng: torch.Generator) -> StrongDraw:
    chance = torch.rand(batch, 4, generator=rng)
    jitter = torch.rand(batch, 4, generator=rng) * 2 - 1
    low, high = BLUR_SIGMA
    sigma = torch.rand(batch, generator=rng) * (high - low) + low
    return StrongDraw(chance, jitter, sigma, draw_boxes(batch, size, rng))


def draw_boxes(batch: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """CutMix boxes i64[B,4] that lie inside the image; area and aspect in UniMatch's ranges (log-uniform aspect)."""
    height, width = size
    u = torch.rand(batch, 4, generator=rng)
    area = (u[:, 0] * (CUTMIX_AREA[1] - CUTMIX_AREA[0]) + CUTMIX_AREA[0]) * height * width
    aspect = torch.exp(u[:, 1] * math.log(CUTMIX_ASPECT[1] / CUTMIX_ASPECT[0]) + math.log(CUTMIX_ASPECT[0]))
    h = (area * aspect).sqrt().clamp(1, height)
    w = (area / h).clamp(1, width)
    top, left = u[:, 2] * (height - h), u[:, 3] * (width - w)
    return torch.stack([top, left, top + h, left + w], 1).round().long()


def strong_view(image_u: Tensor, draw: StrongDraw) -> Tensor:
    """Colour jitter, grayscale and blur of u8[B,3,H,W], each image with its own draw; same geometry, same dtype.

    Which images change is decided on the CPU, so nothing waits for the device.
    """
    jitter, gray, blur = (draw.chance[:, :3] < torch.tensor([P_JITTER, P_GRAY, P_BLUR])).T
    images = image_u.to(torch.float32)
    for chosen, change in ((jitter, _jitter), (gray, _gray), (blur, _blur)):
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            own = rows.to(images.device, non_blocking=True)
            images[own] = change(images[own], draw, rows)
    return images.to(torch.uint8)


def _jitter(images: Tensor, draw: StrongDraw, rows: Tensor) -> Tensor:
    amounts = (draw.jitter[rows] * torch.tensor(JITTER)).to(images.device, non_blocking=True)
    brightness, contrast, saturation, hue = amounts.T
    images = color.adjust_brightness(images, 1 + brightness)
    images = color.adjust_contrast(images, 1 + contrast)
    images = color.adjust_saturation(images, 1 + saturation)
    return color.adjust_hue(images, hue)


def _gray(images: Tensor, draw: StrongDraw, rows: Tensor) -> Tensor:
    return color.grayscale(images).expand_as(images)


def _blur(images: Tensor, draw: StrongDraw, rows: Tensor) -> Tensor:
    return color.gaussian_blur(images, draw.sigma[rows].to(images.device, non_blocking=True), BLUR_SIGMA[1])


def cutmix_mask(draw: StrongDraw, size: tuple[int, int], device: torch.device) -> Tensor:
    """bool[B,H,W]: pixels that come from the neighbour. All False for an image without a neighbour."""
    batch = len(draw.box)
    ys, xs = torch.arange(size[0], device=device)[:, None], torch.arange(size[1], device=device)[None, :]
    top, left, bottom, right = draw.box.to(device)[:, :, None, None].unbind(1)
    mixed = (draw.chance[:, 3] < P_CUTMIX) & (partners(batch) != torch.arange(batch))
    return (ys >= top) & (ys < bottom) & (xs >= left) & (xs < right) & mixed.to(device)[:, None, None]


def partners(batch: int) -> Tensor:
    """i64[B]: the neighbour whose pixels an image receives, or itself where it has none."""
    own = torch.arange(batch)
    other = own ^ 1
    return torch.where(other < batch, other, own)


def mix(values: Tensor, box: Tensor) -> Tensor:
    """Values [B,...,H,W] with the neighbour's inside bool[B,H,W]; images, labels, confidences and features alike."""
    other = values[partners(len(values)).to(values.device)]
    box = box.reshape(len(box), *[1] * (values.dim() - 3), *box.shape[1:])
    return torch.where(box, other, values)
