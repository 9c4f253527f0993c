"""Laws of the supervised and the pseudo-label loss, against F.cross_entropy and short formulas.

Plain loops over pixels are compared in test_losses_against_numpy.py.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cid_ray.core import losses, pseudo_labels
from tests.helpers.core_pieces import CLASSES, make_batch


def random_predictions() -> tuple[Tensor, Tensor, Tensor]:
    """Student logits f32[2,K,6,5], teacher probabilities of that shape, valid bool[2,6,5]."""
    rng = torch.Generator().manual_seed(0)
    logits, other = (3 * torch.randn(2, CLASSES, 6, 5, generator=rng) for _ in range(2))
    return logits, other.softmax(1), torch.rand(2, 6, 5, generator=rng) < 0.8


def pseudo_loss(kind: str, temperature: float, conf_thresh: float = 0.0) -> Tensor:
    loss, _ = pseudo_labels.pseudo_label_loss(
        *random_predictions(), conf_thresh=conf_thresh, kind=kind, temperature=temperature
    )
    return loss


def test_supervised_loss_equals_mean_over_labeled_pixels() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, CLASSES, 8, 8, generator=rng)
    mask = make_batch(size=(8, 8))["mask_x"][:2].long()
    mask[0, :2] = 255
    for weights in (None, torch.tensor([0.5, 2.0, 1.0, 0.0])):
        expected = F.cross_entropy(logits, mask, weight=weights, ignore_index=255)
        torch.testing.assert_close(losses.supervised_loss(logits, mask, weights), expected)


def test_pseudo_label_loss_divides_by_valid_pixels_not_by_confident_ones() -> None:
    logits = torch.zeros(1, 2, 1, 4)
    conf = torch.tensor([[[0.99, 0.6, 0.99, 0.6]]])
    probs = torch.stack([conf, 1 - conf], 1)
    valid = torch.tensor([[[True, True, True, False]]])
    loss, mask_ratio = pseudo_labels.pseudo_label_loss(
        logits, probs, valid, conf_thresh=0.95, kind="hard", temperature=1.0
    )
    assert loss.item() == pytest.approx(2 * math.log(2) / 3)
    assert mask_ratio.item() == pytest.approx(2 / 3)


def test_soft_targets_at_temperature_1_are_the_probabilities() -> None:
    logits, probs, valid = random_predictions()
    per_pixel = -(probs * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(pseudo_loss("soft", 1.0), per_pixel[valid].mean())


def test_soft_targets_at_low_temperature_equal_hard_ones() -> None:
    cold, hard = pseudo_loss("soft", 0.0005), pseudo_loss("hard", 0.0005)
    torch.testing.assert_close(cold, hard, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(pseudo_loss("soft", 0.5), pseudo_loss("hard", 0.5), rtol=1e-2)


def test_mask_ratio_is_fraction_of_valid_pixels_at_or_above_threshold() -> None:
    logits, probs, valid = random_predictions()
    for thresh in (0.0, 0.5, 0.9, 1.0):
        _, mask_ratio = pseudo_labels.pseudo_label_loss(
            logits, probs, valid, conf_thresh=thresh, kind="hard", temperature=1.0
        )
        expected = sum(c >= thresh for c in probs.amax(1)[valid].tolist()) / int(valid.sum())
        assert mask_ratio.item() == pytest.approx(expected)
