"""Law: padding and pixels labeled 255 have no influence on any loss or gradient.

Noise is put where pixels are masked; losses and gradients must not change. The last test checks
that the test network lets no pixel reach another one: else these tests would prove nothing.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from cid_ray.core import augment
from cid_ray.core.model import pad_to_stride
from tests.helpers.core_pieces import (
    KINDS,
    NoisyNet,
    PointNet,
    assert_close_and_positive,
    cutmix_box,
    each_variant,
    gradients,
    loss_terms,
    make_batch,
    make_config,
    step_that_moves_padding,
)


@each_variant
def test_losses_with_other_pixels_under_255_stay_the_same(variant: dict[str, Any]) -> None:
    batch, net = make_batch(), PointNet(0)
    changed = copy.deepcopy(batch)
    hidden = (batch["mask_x"] == 255)[:, None].expand(-1, 3, -1, -1)
    changed["image_x"][hidden] = torch.randint(0, 256, (int(hidden.sum()),), dtype=torch.uint8)
    config = make_config(**variant)
    one, other = (loss_terms(config, net, PointNet(1), b) for b in (batch, changed))
    assert_close_and_positive(one, other, net)


@each_variant
def test_losses_with_noise_on_padding_and_255_stay_the_same(variant: dict[str, Any]) -> None:
    config, batch = make_config(**variant), make_batch()
    net, teacher = PointNet(0), PointNet(1)
    step = step_that_moves_padding(config, batch["valid_u"])
    hidden_x, hidden_w = batch["mask_x"] == 255, ~batch["valid_u"]
    hidden_s = augment.apply_cutmix(hidden_w, cutmix_box(config, step))
    found = []
    for seed in range(2):
        noisy_student = NoisyNet(net, torch.cat([hidden_x, hidden_s]), seed)
        noisy_teacher = NoisyNet(teacher, torch.cat([hidden_x, hidden_w]), seed + 10)
        found.append(loss_terms(config, noisy_student, noisy_teacher, batch, step))
    assert_close_and_positive(found[0], found[1], net)
    assert 0 < found[0].mask_ratio < 1


def test_supervised_loss_of_masks_of_255_is_zero_without_gradient() -> None:
    batch, net = make_batch(), PointNet(0)
    batch["mask_x"].fill_(255)
    terms = loss_terms(make_config("supervised"), net, PointNet(1), batch)
    assert terms.total == 0
    assert all(g.abs().max() == 0 for g in gradients(terms.total, net).values())


def test_losses_of_padding_alone_are_zero_and_finite() -> None:
    batch = make_batch()
    batch["valid_u"].zero_()
    batch["mask_x"].fill_(255)
    for kind in KINDS:
        terms = loss_terms(make_config(relation_kind=kind), PointNet(0), PointNet(1), batch)
        assert all(math.isfinite(value) for value in terms.to_floats().values())
        assert terms.pseudo == 0 and terms.mask_ratio == 0 and terms.sup == 0


def test_point_net_with_one_pixel_changed_changes_that_pixel_only() -> None:
    image = make_batch()["image_u"]
    changed = image.clone()
    changed[..., 10, 20] = 255 - changed[..., 10, 20]
    for before, after in zip(PointNet(0)(image), PointNet(0)(changed), strict=True):
        differs = (before != after).any(1)
        assert differs.sum() == differs[:, 10, 20].sum() == len(image)
    assert pad_to_stride(torch.zeros(1, 3, 65, 81), 32).shape[-2:] == (96, 96)
