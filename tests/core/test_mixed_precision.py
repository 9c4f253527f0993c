"""Law: under bf16 autocast, views, statistics and losses are the float32 ones.

The test network computes in float32 under autocast too: any difference is the losses' rounding.
"""

from __future__ import annotations

from typing import Any

import torch

from cid_ray.core import losses
from cid_ray.core.cross_relation import cross_relation_loss
from tests.helpers.core_pieces import (
    TERMS,
    PointNet,
    RecordingNet,
    each_variant,
    gradients,
    loss_terms,
    make_batch,
    make_config,
    prefix,
    random_feat,
    random_valid,
    step_with_only_cutmix,
)


@each_variant
def test_losses_under_bf16_autocast_are_float32(variant: dict[str, Any]) -> None:
    config, batch = make_config(**variant), make_batch(count=2)
    net, teacher = PointNet(0), PointNet(1)
    step = step_with_only_cutmix(config.train.seed)
    plain = loss_terms(config, net, teacher, batch, step)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss_terms(config, net, teacher, batch, step)
    for name in TERMS:
        assert getattr(mixed, name).dtype == torch.float32
        torch.testing.assert_close(getattr(mixed, name), getattr(plain, name), msg=prefix(name))
    torch.testing.assert_close(gradients(mixed.total, net), gradients(plain.total, net))


def test_strong_view_under_bf16_autocast_has_the_same_pixels() -> None:
    batch = make_batch(count=8)
    plain, mixed = RecordingNet(PointNet(0)), RecordingNet(PointNet(0))
    loss_terms(make_config(), plain, PointNet(1), batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss_terms(make_config(), mixed, PointNet(1), batch)
    assert torch.equal(plain.seen[0], mixed.seen[0])


def test_statistics_of_bf16_features_equal_those_of_same_numbers_in_float32() -> None:
    feat, valid = random_feat(0).bfloat16(), random_valid(0)
    half, single = losses.channel_stats(feat, valid), losses.channel_stats(feat.float(), valid)
    for a, b in ((half.mean, single.mean), (half.std, single.std)):
        assert a.dtype == torch.float32 and torch.equal(a, b)
    assert torch.equal(losses.batch_gram(feat, valid), losses.batch_gram(feat.float(), valid))
    one, two = random_feat(1).bfloat16(), random_feat(2).bfloat16()
    half_self = losses.self_relation_loss(one, two, valid)
    assert torch.equal(half_self, losses.self_relation_loss(one.float(), two.float(), valid))
    half_cross = cross_relation_loss(one, one, two, two, valid, valid, 0.1)
    one, two = one.float(), two.float()
    single_cross = cross_relation_loss(one, one, two, two, valid, valid, 0.1)
    assert torch.equal(half_cross, single_cross)
