"""Law: teacher and student are compared in one geometry. What CutMix moves, it moves on both sides.

The steps used here have a strong view that is CutMix and nothing else.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from cid_ray.core import augment, losses
from cid_ray.core.features import pool_features
from tests.helpers.core_pieces import (
    PointNet,
    cutmix_box,
    loss_terms,
    make_batch,
    make_config,
    step_with_only_cutmix,
)


@pytest.mark.parametrize("kind", ["cross", "self", "class"])
def test_relation_of_identical_networks_under_cutmix_is_zero(kind: str) -> None:
    """It is 0 only where the teacher's features are mixed with the student's boxes."""
    config, batch, net = make_config(relation_kind=kind), make_batch(count=2), PointNet(0)
    step = step_with_only_cutmix(config.train.seed)
    assert loss_terms(config, net, copy.deepcopy(net), batch, step).relation.abs() < 1e-6
    assert loss_terms(config, net, PointNet(1), batch, step).relation > 1e-4


def test_relation_of_mixed_and_unmixed_features_is_positive() -> None:
    config, batch, net = make_config(), make_batch(count=2), PointNet(0)
    box = cutmix_box(config, step_with_only_cutmix(config.train.seed), 2)
    _, feat = net(batch["image_u"])
    plain, cells = pool_features(feat, batch["valid_u"], 32)
    valid_s = augment.apply_cutmix(batch["valid_u"], box)
    mixed, _ = pool_features(augment.apply_cutmix(feat, box), valid_s, 32)
    assert losses.self_relation_loss(mixed, plain, cells) > 1e-4


def test_pseudo_labels_under_cutmix_are_those_of_the_mixed_image() -> None:
    config, batch = make_config("mean_teacher"), make_batch(count=2)
    net, teacher = PointNet(0), PointNet(1)
    step = step_with_only_cutmix(config.train.seed)
    box = cutmix_box(config, step, 2)
    image = augment.apply_cutmix(batch["image_u"], box)
    valid = augment.apply_cutmix(batch["valid_u"], box)
    probs = teacher(image)[0].softmax(1)
    per_pixel = F.cross_entropy(net(image)[0], probs.argmax(1), reduction="none")
    kept = (probs.amax(1) >= 0.5) & valid
    terms = loss_terms(config, net, teacher, batch, step)
    torch.testing.assert_close(terms.pseudo, (per_pixel * kept).sum() / valid.sum())
    torch.testing.assert_close(terms.mask_ratio, kept.sum() / valid.sum())
