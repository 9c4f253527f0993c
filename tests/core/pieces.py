"""What the core's tests are built from: a network without neighbourhoods, a batch with padding, settings of the method.

B batch   C channels   K classes   H,W pixels   h,w cells of about 16 pixels
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cid_ray.config import Config, override
from cid_ray.core import augment
from cid_ray.core.method import Method
from cid_ray.core.model import pad_to_stride

CLASSES, CHANNELS, SIDE = 4, 6, 64
TERMS = ("total", "sup", "pseudo", "relation", "style", "mask_ratio")
KINDS = ("cross", "self", "transfer", "class")
Batch = dict[str, Tensor]


class PointNet(nn.Module):
    """Logits f[B,K,H,W] and feat f[B,C,H',W'] at full resolution, each pixel from itself alone, always in float32.

    What one pixel holds reaches no other, so a leak of a masked pixel, or of another geometry, is the method's own.
    """

    def __init__(self, seed: int = 0, channels: int = CHANNELS):
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.head = nn.Linear(3, channels), nn.Linear(channels, CLASSES)
        with torch.no_grad():
            self.body.weight.mul_(3)
            self.head.weight.mul_(3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", enabled=False):
            pixels = pad_to_stride(image.float() / 255 - 0.5).movedim(1, -1)
            feat = torch.tanh(self.body(pixels))
            logits = self.head(feat).movedim(-1, 1)
            return logits[..., : image.shape[-2], : image.shape[-1]], feat.movedim(-1, 1)


class Disturbed(nn.Module):
    """A network whose logits and feat are noise wherever bool[B,H,W] says, and its own elsewhere."""

    def __init__(self, net: nn.Module, where: Tensor, seed: int = 0):
        super().__init__()
        self.net, self.where, self.seed = net, where, seed

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits, feat = self.net(image)
        where, rng = self.where[-len(image) :, None], torch.Generator().manual_seed(self.seed)
        canvas = pad_to_stride(where.float(), value=1.0) > 0
        logits = torch.where(where, 9 * torch.randn(logits.shape, generator=rng), logits)
        return logits, torch.where(canvas, 9 * torch.randn(feat.shape, generator=rng), feat)


class Watching(nn.Module):
    """A network that keeps what each of its forwards saw."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.seen = net, list[Tensor]()

    def forward(self, image: Tensor) -> Any:
        self.seen.append(image)
        return self.net(image)


def config(method: str = "cid", **loss: Any) -> Config:
    """100 steps of 4 + 4 images, no ramps, a low threshold; `loss` changes the loss section."""
    tree = {
        "method": method,
        "data": {"batch_size": 4, "batch_size_u": 4, "crop_size": SIDE},
        "train": {"steps": 100, "seed": 3},
        "loss": {"conf_thresh": 0.5, "pseudo_ramp": 0.0, "relation_ramp": 0.0, "style_ramp": 0.0, **loss},
    }
    return override(tree, ())


def method_of(cfg: Config, channels: int = CHANNELS) -> Method:
    return Method(cfg, CLASSES, channels)


def make_batch(seed: int = 0, count: int = 4, size: tuple[int, int] = (SIDE, SIDE)) -> Batch:
    """Images with blobs of colour and noise, masks with holes of 255, padding on the right and below of some images."""
    rng = torch.Generator().manual_seed(seed)

    def images() -> Tensor:
        coarse = torch.rand(count, 3, 4, 4, generator=rng)
        smooth = nn.functional.interpolate(coarse, size=size, mode="bilinear")
        return ((0.8 * smooth + 0.2 * torch.rand(count, 3, *size, generator=rng)) * 255).to(torch.uint8)

    coarse = torch.randint(0, CLASSES, (count, 1, 8, 8), generator=rng).float()
    mask = nn.functional.interpolate(coarse, size=size, mode="nearest")[:, 0].to(torch.uint8)
    valid_x, valid_u = torch.ones(count, *size, dtype=torch.bool), torch.ones(count, *size, dtype=torch.bool)
    for i in range(count):
        valid_x[i, size[0] - 7 * (i % 3) :] = False
        valid_u[i, :, size[1] - 12 * (i % 4) :] = False
        mask[i, 5 * i : 5 * i + 9, 10:31] = 255
    mask[~valid_x] = 255
    batch = {"image_x": images(), "mask_x": mask, "valid_x": valid_x, "image_u": images(), "valid_u": valid_u}
    batch["image_x"][~valid_x[:, None].expand(-1, 3, -1, -1)] = 0
    batch["image_u"][~valid_u[:, None].expand(-1, 3, -1, -1)] = 0
    return batch


def features(seed: int, shape: tuple[int, ...] = (4, CHANNELS, 6, 5)) -> Tensor:
    """f32[B,C,h,w] whose channels are correlated and differ in mean and scale."""
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(shape[1], shape[1], generator=rng)
    shift, scale = torch.randn(shape[1], 1, 1, generator=rng), 1 + torch.rand(shape[1], 1, 1, generator=rng)
    return torch.einsum("dc,bchw->bdhw", mixing, torch.randn(shape, generator=rng)) * scale + shift


def some_valid(seed: int, shape: tuple[int, ...] = (4, 1, 6, 5)) -> Tensor:
    """f32[B,1,h,w] in {0,1}, about three in four valid, their number different in every image."""
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.75).float()


def draw_of(cfg: Config, step: int, count: int = 4, size: tuple[int, int] = (SIDE, SIDE)) -> augment.StrongDraw:
    """The draw that the method makes at this step."""
    return augment.draw_strong(count, size, augment.generator(cfg.train.seed, step))


def box_of(cfg: Config, step: int, count: int = 4, size: tuple[int, int] = (SIDE, SIDE)) -> Tensor:
    return augment.cutmix_mask(draw_of(cfg, step, count, size), size, torch.device("cpu"))


def gradients(loss: Tensor, net: nn.Module) -> dict[str, Tensor]:
    """d loss / d parameter by name; zeros where the loss does not depend on a parameter."""
    names, values = zip(*net.named_parameters(), strict=True)
    if not loss.requires_grad:
        return {name: torch.zeros_like(value) for name, value in zip(names, values, strict=True)}
    found = torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))
