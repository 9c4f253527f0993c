"""Shared by tests of the core: networks without neighbourhoods, a batch with padding, configs.

B images   C channels of `feat`   K classes   H,W pixels   h,w cells of about 16 pixels
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cid_ray.config import Config, build_config
from cid_ray.core import augment
from cid_ray.core.features import Features
from cid_ray.core.method import LossTerms, Method, Network
from cid_ray.core.model import pad_to_stride

CLASSES = 4
CHANNELS = 6
SIDE = 64
SIZE = (SIDE, SIDE)
STEP = 40  # of 100: no ramp is at work
TERMS = ("total", "sup", "pseudo", "relation", "style", "mask_ratio")
KINDS = ("cross", "self", "transfer", "class")
VARIANTS = (  # every relation, every statistic, every target, both kinds of pseudo-label
    {"relation_kind": "self", "relation_grid": 2},
    {"relation_kind": "cross", "style_stat": "gram", "pseudo": "soft"},
    {"relation_kind": "transfer", "style_target": "symmetric"},
    {"relation_kind": "class", "style_target": "labeled", "style_stat": "gram", "pseudo": "soft"},
)
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v["relation_kind"])
Batch = dict[str, Tensor]
Four = tuple[Tensor, Tensor, Tensor, Tensor]  # student_x, student_u, teacher_x, teacher_u


class PointNet(nn.Module):
    """Logits f[B,K,H,W] and feat f[B,C,H',W'] at full resolution, each pixel from itself alone.

    It computes in float32 even under autocast. A pixel reaches no other one, so a leak of a masked
    pixel, or of another geometry, comes from the method.
    """

    def __init__(self, seed: int = 0, channels: int = CHANNELS):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Linear(3, channels)
        self.head = nn.Linear(channels, CLASSES)
        with torch.no_grad():
            self.body.weight.mul_(3)
            self.head.weight.mul_(3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", enabled=False):
            pixels = pad_to_stride(image.float() / 255 - 0.5, 32).movedim(1, -1)
            feat = torch.tanh(self.body(pixels))
            logits = self.head(feat).movedim(-1, 1)
            return logits[..., : image.shape[-2], : image.shape[-1]], feat.movedim(-1, 1)


class NoisyNet(nn.Module):
    """`net` with noise for logits and feat where bool[B,H,W] `where` is True."""

    def __init__(self, net: nn.Module, where: Tensor, seed: int = 0):
        super().__init__()
        self.net = net
        self.where = where
        self.seed = seed

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits, feat = self.net(image)
        where = self.where[-len(image) :, None]
        canvas = pad_to_stride(where.float(), 32, value=1.0) > 0
        rng = torch.Generator().manual_seed(self.seed)
        logits = torch.where(where, 9 * torch.randn(logits.shape, generator=rng), logits)
        return logits, torch.where(canvas, 9 * torch.randn(feat.shape, generator=rng), feat)


class RecordingNet(nn.Module):
    """`net`, keeping the images of each forward in `seen`."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Any:
        self.seen.append(image)
        return self.net(image)


def make_config(method: str = "cid", **loss: Any) -> Config:
    """100 steps of 4 + 4 images, no ramps, a low threshold; `loss` changes the loss section."""
    # `class` needs pseudo-labels of two classes that are labeled too.
    conf_thresh = 0.3 if loss.get("relation_kind") == "class" else 0.5
    no_ramps = {"pseudo_ramp": 0.0, "relation_ramp": 0.0, "style_ramp": 0.0}
    tree = {
        "method": method,
        "data": {"batch_size": 4, "batch_size_u": 4, "crop_size": SIDE},
        "train": {"steps": 100, "seed": 3},
        "loss": {"conf_thresh": conf_thresh, **no_ramps, **loss},
    }
    return build_config(tree, ())


def make_method(config: Config, channels: int = CHANNELS, **options: Any) -> Method:
    """The losses for networks with the features of `PointNet` on an image of SIZE."""
    shapes = [(channels, SIDE // 16, SIDE // 16)] * (1 + len(config.encoder_levels))
    return Method(config, CLASSES, shapes, **options)


def make_batch(seed: int = 0, count: int = 4, size: tuple[int, int] = SIZE) -> Batch:
    """Images of coloured blobs and noise, masks with holes of 255.

    Some labeled images are padded below, some unlabeled ones on the right.
    """
    rng = torch.Generator().manual_seed(seed)

    def images() -> Tensor:
        coarse = torch.rand(count, 3, 4, 4, generator=rng)
        smooth = nn.functional.interpolate(coarse, size=size, mode="bilinear")
        noise = torch.rand(count, 3, *size, generator=rng)
        return ((0.8 * smooth + 0.2 * noise) * 255).to(torch.uint8)

    coarse = torch.randint(0, CLASSES, (count, 1, 8, 8), generator=rng).float()
    mask = nn.functional.interpolate(coarse, size=size, mode="nearest")[:, 0].to(torch.uint8)
    valid_x = torch.ones(count, *size, dtype=torch.bool)
    valid_u = torch.ones(count, *size, dtype=torch.bool)
    for i in range(count):
        valid_x[i, size[0] - 7 * (i % 3) :] = False
        valid_u[i, :, size[1] - 12 * (i % 4) :] = False
        mask[i, 5 * i : 5 * i + 9, 10:31] = 255
    mask[~valid_x] = 255
    batch = {"image_x": images(), "mask_x": mask, "valid_x": valid_x}
    batch |= {"image_u": images(), "valid_u": valid_u}
    batch["image_x"][~valid_x[:, None].expand(-1, 3, -1, -1)] = 0
    batch["image_u"][~valid_u[:, None].expand(-1, 3, -1, -1)] = 0
    return batch


def random_feat(seed: int, shape: tuple[int, ...] = (4, CHANNELS, 6, 5)) -> Tensor:
    """f32[B,C,h,w] whose channels are correlated and differ in mean and scale."""
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(shape[1], shape[1], generator=rng)
    shift = torch.randn(shape[1], 1, 1, generator=rng)
    scale = 1 + torch.rand(shape[1], 1, 1, generator=rng)
    noise = torch.randn(shape, generator=rng)
    return torch.einsum("dc,bchw->bdhw", mixing, noise) * scale + shift


def random_feats() -> Four:
    """Four different `random_feat`: the arguments of the relation losses."""
    return random_feat(0), random_feat(1), random_feat(2), random_feat(3)


def random_valid(seed: int, shape: tuple[int, ...] = (4, 1, 6, 5)) -> Tensor:
    """f32[B,1,h,w] in {0,1}: about three in four, another number in each image."""
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.75).float()


def random_features(seed: int) -> Features:
    """Features with gradients, of labeled and unlabeled images."""
    return Features(
        random_feat(seed).requires_grad_(),
        random_feat(seed + 1).requires_grad_(),
        random_valid(0),
        random_valid(1),
    )


def permute_cells(feat: Tensor, seed: int) -> Tensor:
    """`feat` with its cells in another order, the same for all images and channels."""
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(feat[0, 0].numel(), generator=rng)
    return feat.flatten(2)[..., order].reshape(feat.shape)


def view_params(
    config: Config, step: int, count: int = 4, size: tuple[int, int] = SIZE
) -> augment.StrongViewParams:
    """The random numbers that the method draws at this step."""
    rng = augment.step_generator(config.train.seed, step)
    return augment.sample_strong_view(count, size, rng)


def cutmix_box(config: Config, step: int, count: int = 4, size: tuple[int, int] = SIZE) -> Tensor:
    """The boxes bool[B,H,W] that the method mixes at this step."""
    params = view_params(config, step, count, size)
    return augment.cutmix_mask(params, size, torch.device("cpu"))


def moves_padding(config: Config, step: int, valid: Tensor) -> bool:
    """Whether CutMix brings padding to pixels that had none, and the reverse."""
    mixed = augment.apply_cutmix(valid, cutmix_box(config, step, len(valid)))
    return bool((mixed & ~valid).any() and (valid & ~mixed).any())


def step_that_moves_padding(config: Config, valid: Tensor) -> int:
    return next(step for step in range(1000) if moves_padding(config, step, valid))


@lru_cache
def step_with_only_cutmix(seed: int) -> int:
    """A step whose strong view of two images is CutMix and nothing else, and moves padding."""
    config = build_config({"train": {"seed": seed}}, ())
    valid = make_batch(count=2)["valid_u"]
    limits = torch.tensor([augment.P_JITTER, augment.P_GRAY, augment.P_BLUR])
    for step in range(50_000):
        unchanged = (view_params(config, step, 2).chance[:, :3] >= limits).all()
        if unchanged and moves_padding(config, step, valid):
            return step
    raise LookupError("no such step")


def loss_terms(
    config: Config, student: Network, teacher: Network, batch: Batch, step: int = STEP
) -> LossTerms:
    """The terms of a fresh Method, whose EMA statistics are those of this batch."""
    terms: LossTerms = make_method(config)(student, teacher, batch, step)
    return terms


def gradients(loss: Tensor, net: nn.Module) -> dict[str, Tensor]:
    """d loss / d parameter by name; zeros where the loss does not depend on a parameter."""
    names, values = zip(*net.named_parameters(), strict=True)
    if not loss.requires_grad:
        return {name: torch.zeros_like(value) for name, value in zip(names, values, strict=True)}
    found = torch.autograd.grad(
        loss, values, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(names, found, strict=True))


def prefix(name: str) -> Callable[[str], str]:
    """For `msg` of torch.testing.assert_close: its message after the name of what differs."""
    return lambda message: f"{name}: {message}"


def assert_close_and_positive(one: LossTerms, other: LossTerms, net: nn.Module) -> None:
    """Equal losses and gradients up to rounding, and every term at work."""
    for name in TERMS:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), msg=prefix(name))
        assert getattr(one, name) > 0
    torch.testing.assert_close(gradients(one.total, net), gradients(other.total, net))


def assert_identical(
    one: LossTerms, other: LossTerms, net: nn.Module, other_net: nn.Module | None = None
) -> None:
    """Losses and gradients equal bit by bit."""
    for name in TERMS:
        assert torch.equal(getattr(one, name).detach(), getattr(other, name).detach()), name
    expected = gradients(other.total, other_net or net)
    for name, value in gradients(one.total, net).items():
        assert torch.equal(value, expected[name]), name
