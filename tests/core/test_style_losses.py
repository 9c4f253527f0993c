"""Laws of the style losses: blind to positions, free of scale, each target moves the right side."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cid_ray.core import losses
from cid_ray.core.style import Style
from tests.helpers.core_pieces import (
    CHANNELS,
    make_config,
    permute_cells,
    random_feat,
    random_features,
    random_valid,
)


def test_style_statistics_of_cells_moved_between_images_stay_the_same() -> None:
    feat, valid = random_feat(0), torch.ones(4, 1, 6, 5)
    moved = permute_cells(feat, 0).transpose(0, 1).flatten(1)
    order = torch.randperm(moved.shape[1], generator=torch.Generator().manual_seed(1))
    moved = moved[:, order].reshape(CHANNELS, 4, 6, 5).transpose(0, 1)
    before, after = losses.channel_stats(feat, valid), losses.channel_stats(moved, valid)
    torch.testing.assert_close((after.mean, after.std), (before.mean, before.std))
    torch.testing.assert_close(losses.batch_gram(moved, valid), losses.batch_gram(feat, valid))


@pytest.mark.parametrize("scale", [0.1, 100.0])
def test_style_losses_of_rescaled_features_stay_the_same(scale: float) -> None:
    valid = random_valid(0)

    def both_losses(factor: float) -> tuple[Tensor, Tensor]:
        feat, target = random_feat(0) * factor, random_feat(1) * factor
        stats = (losses.channel_stats(feat, valid), losses.channel_stats(target, valid))
        grams = (losses.batch_gram(feat, valid), losses.batch_gram(target, valid))
        return losses.style_loss(*stats), losses.gram_style_loss(*grams)

    torch.testing.assert_close(both_losses(scale), both_losses(1.0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [0.5, 0.1, 0.01])
def test_style_loss_of_shrunk_features_grows(scale: float) -> None:
    feat, target, valid = random_feat(0), random_feat(1), random_valid(0)
    target_stats = losses.channel_stats(target, valid)
    shrunk = losses.style_loss(losses.channel_stats(target * scale, valid), target_stats)
    # The floor bounds the distance of what has shrunk to nothing: log(0.1) at most.
    assert shrunk > 2 * abs(math.log(max(scale, 0.2))) ** 2 * 0.45
    smaller = losses.style_loss(losses.channel_stats(feat * 0.01, valid), target_stats)
    assert smaller > losses.style_loss(losses.channel_stats(feat, valid), target_stats)


def test_style_losses_of_the_targets_own_statistics_are_zero() -> None:
    feat, valid = random_feat(0), random_valid(0)
    stats, gram = losses.channel_stats(feat, valid), losses.batch_gram(feat, valid)
    assert losses.style_loss(stats, stats) == 0 and losses.gram_style_loss(gram, gram) == 0


@pytest.mark.parametrize("stat", ["mean_std", "gram"])
@pytest.mark.parametrize("target", ["unlabeled", "labeled", "symmetric"])
def test_style_target_chooses_which_side_moves(target: str, stat: str) -> None:
    loss = make_config(style_target=target, style_stat=stat).loss
    style = Style(loss, CHANNELS, decay=0.9)
    student, teacher = random_features(0), random_features(2)

    def distance(feat: Tensor, valid: Tensor, target: Tensor, valid_target: Tensor) -> Tensor:
        if stat == "gram":
            gram = losses.batch_gram(feat, valid)
            return losses.gram_style_loss(gram, losses.batch_gram(target, valid_target))
        stats = losses.channel_stats(feat, valid)
        return losses.style_loss(stats, losses.channel_stats(target, valid_target))

    labeled_to_pool = distance(student.x, student.valid_x, teacher.u, teacher.valid_u)
    pool_to_labeled = distance(student.u, student.valid_u, teacher.x, teacher.valid_x)
    expected = {
        "unlabeled": labeled_to_pool,
        "labeled": pool_to_labeled,
        "symmetric": (labeled_to_pool + pool_to_labeled) / 2,
    }[target]
    found = style(student, teacher)
    torch.testing.assert_close(found, expected)
    grads = torch.autograd.grad(found, (student.x, student.u), allow_unused=True)
    assert [g is not None for g in grads] == [target != "labeled", target != "unlabeled"]
