"""Reference: ramps and the sum of the terms as formulas. A method is a set of weights."""

from __future__ import annotations

import math

import pytest
import torch

from cid_ray.core.schedules import LossWeights, pseudo_ramp, ramp_up
from tests.helpers.core_pieces import (
    PointNet,
    assert_identical,
    loss_terms,
    make_batch,
    make_config,
)


def test_ramp_up_is_exp_of_minus_5_times_squared_distance_to_its_end() -> None:
    for t in (0.0, 0.1, 0.5, 0.9):
        assert ramp_up(t * 0.2, 0.2) == pytest.approx(math.exp(-5 * (1 - t) ** 2))
    assert ramp_up(0.2, 0.2) == ramp_up(0.9, 0.2) == ramp_up(0.0, 0.0) == 1


def test_pseudo_ramp_is_zero_in_burn_in_then_ramps_up() -> None:
    assert pseudo_ramp(0.0, 0.3, 0.2) == pseudo_ramp(0.299, 0.3, 0.2) == 0
    assert pseudo_ramp(0.4, 0.3, 0.2) == pytest.approx(math.exp(-5 * 0.25))
    assert pseudo_ramp(0.3, 0.3, 0.2) == pytest.approx(math.exp(-5))
    assert pseudo_ramp(0.5, 0.3, 0.2) == pseudo_ramp(0.3, 0.3, 0.0) == 1


def test_burn_in_until_its_end_gives_the_numbers_of_pool_bn() -> None:
    batch, net, teacher = make_batch(), PointNet(0), PointNet(1)
    burn_in, pool_bn = make_config("mean_teacher", pseudo_burn_in=0.5), make_config("pool_bn")
    before_end = loss_terms(burn_in, net, teacher, batch, 49)
    assert_identical(before_end, loss_terms(pool_bn, net, teacher, batch, 49), net)
    assert loss_terms(burn_in, net, teacher, batch, 50).pseudo > 0


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("supervised", 0),
        ("pool_bn", 0),
        ("mean_teacher", 1),
        ("unimatch_v2", 1),
        ("self_training", 1),
        ("cid", 3),
    ],
)
def test_method_has_the_positive_weights_of_its_terms(method: str, expected: int) -> None:
    weights = LossWeights.at_progress(method, make_config().loss, 0.5)
    assert sum(w > 0 for w in (weights.pseudo, weights.relation, weights.style)) == expected
    assert weights.pseudo > 0 or method in ("supervised", "pool_bn")


def test_self_training_has_neither_burn_in_nor_ramp() -> None:
    loss = make_config(pseudo_weight=0.7, pseudo_burn_in=0.5, pseudo_ramp=0.5).loss
    assert LossWeights.at_progress("self_training", loss, 0.0) == LossWeights(0.7, 0, 0)


@pytest.mark.parametrize("step", [0, 7, 90])
def test_total_is_half_of_both_cross_entropies_plus_ramped_relation_and_style(step: int) -> None:
    config = make_config(
        pseudo_weight=0.7,
        pseudo_burn_in=0.02,
        pseudo_ramp=0.2,
        relation_weight=1.3,
        relation_ramp=0.15,
        style_weight=0.4,
        style_ramp=0.3,
    )
    t = step / 100

    def ramp(progress: float, length: float) -> float:
        return math.exp(-5 * (1 - min(1, progress / length)) ** 2)

    lam_u = 0.7 * ramp(t - 0.02, 0.2) if t >= 0.02 else 0
    terms = loss_terms(config, PointNet(0), PointNet(1), make_batch(), step)
    expected = (terms.sup + lam_u * terms.pseudo) / 2
    expected = expected + 1.3 * ramp(t, 0.15) * terms.relation + 0.4 * ramp(t, 0.3) * terms.style
    torch.testing.assert_close(terms.total, expected)
    assert terms.relation > 0 and terms.style > 0 and (terms.pseudo > 0) == (step > 1)
