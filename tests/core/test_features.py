"""Laws of pooled features: a cell is the mean of its valid positions. Reference: plain autograd."""

from __future__ import annotations

import torch
from torch import nn

from cid_ray.core.features import pool_features
from cid_ray.core.model import pad_to_stride
from tests.helpers.core_pieces import random_feat


def test_pool_features_of_partly_valid_cell_averages_valid_pixels_only() -> None:
    feat, valid = random_feat(0, (1, 2, 32, 32)), torch.zeros(1, 32, 32, dtype=torch.bool)
    valid[0, :5, :7] = True
    pooled, cells = pool_features(feat, valid, 32)
    assert cells.tolist() == [[[[1, 0], [0, 0]]]]
    torch.testing.assert_close(pooled[0, :, 0, 0], feat[0, :, :5, :7].mean((1, 2)))
    assert pooled[0, :, 1].abs().max() == 0


def test_pool_features_backward_equals_plain_autograd() -> None:
    feat, valid = torch.randn(2, 5, 24, 32), torch.rand(2, 90, 120) > 0.5
    valid[1, :40] = False
    ours, plain = (
        feat.clone().to(memory_format=torch.channels_last).requires_grad_() for _ in range(2)
    )
    pooled, _ = pool_features(ours, valid, 32)
    canvas = pad_to_stride(valid.float()[:, None], 32)
    positions = nn.functional.adaptive_max_pool2d(canvas, feat.shape[-2:])
    fraction = nn.functional.avg_pool2d(positions, 4).clamp(min=1e-6)
    expected = nn.functional.avg_pool2d(plain * positions, 4) / fraction
    weight = torch.randn_like(expected)
    (pooled * weight).sum().backward()
    (expected * weight).sum().backward()
    assert torch.equal(pooled, expected)
    assert ours.grad is not None and plain.grad is not None
    assert torch.equal(ours.grad, plain.grad)
