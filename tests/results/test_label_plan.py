"""Laws of a plan: its chances are kept, and no other number of labels is expected to cost less."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cid_ray.config.search_schema import PricesConfig
from cid_ray.results.label_plan import LabelPlan, Purchase, plan_labels
from cid_ray.results.label_worth import LabelCurve
from tests.helpers.label_curves import simulated, truth


def plan(
    curve: LabelCurve, target: float, method: str = "cid", have: int = 12, **prices: float
) -> LabelPlan:
    return plan_labels(curve, target, method, have, PricesConfig(**prices))


def test_labels_of_a_chance_reach_the_target_that_often() -> None:
    """Over 50 searches. The target truly needs 20 labels."""
    hits = {80: 0, 95: 0}
    for seed in range(50):
        curve = LabelCurve(simulated(2.0, 0.5, seed=seed, draw_sd=0), seed)
        for chance, labels in plan(curve, truth(20), "supervised").labels.items():
            hits[chance] += labels >= 20
    assert hits[80] >= 36 and hits[95] >= 45


def test_more_chance_takes_more_labels_and_the_pool_takes_fewer() -> None:
    curve = LabelCurve(simulated(2.0, 0.3, draw_sd=0))
    alone, pool = plan(curve, truth(30), "supervised"), plan(curve, truth(30))
    for one in (alone, pool):
        assert one.labels[80] <= one.labels[95] and one.purchase is None
    assert pool.labels[80] < alone.labels[80]
    assert pool.text(curve).startswith("With CID, an 80 % chance of reaching it takes ")


@pytest.mark.parametrize(("label", "miss"), [(2.0, 500.0), (10.0, 200.0), (0.5, 5000.0)])
def test_no_other_number_of_labels_is_expected_to_cost_less(label: float, miss: float) -> None:
    curve = LabelCurve(simulated(2.0, 0.5, draw_sd=0))
    found = plan(curve, truth(30), label=label, miss=miss).purchase
    assert found is not None
    needed = np.nan_to_num(curve.needed(truth(30), "cid")[:2, 1:].ravel(), nan=np.inf)
    costs = [label * more + miss * np.mean(needed > 12 + more) for more in range(200)]
    assert found.expected_usd == pytest.approx(min(costs))
    assert found.more == int(np.argmin(costs)) and found.labels == 12 + found.more
    assert found.usd == pytest.approx(label * found.more)
    assert found.risk == pytest.approx(100 * np.mean(needed > found.labels))


def test_dear_labels_or_a_cheap_miss_buy_nothing() -> None:
    curve = LabelCurve(simulated(2.0, 0.5, draw_sd=0))
    one = plan(curve, truth(30), label=100.0, miss=1.0)
    assert one.purchase is not None and one.purchase.more == 0 and one.purchase.usd == 0
    assert "No more labels cost least: the risk of missing it is" in one.text(curve)


def test_target_beyond_the_curve_is_a_certain_miss() -> None:
    curve = LabelCurve(simulated(1.0, 0.1, draw_sd=0))
    one = plan(curve, 99.0, "supervised", label=1.0, miss=50.0)
    assert one.labels == {80: math.inf, 95: math.inf}
    assert one.purchase == Purchase(12, 0, 0.0, 100.0, 50.0)
    text = "With supervised only, an 80 % chance of reaching it takes more than 96 labels."
    assert one.text(curve).startswith(text) and "95 %" not in one.text(curve)
    record = one.record(curve.reach)
    assert record["labels"] == {"80": 96, "95": 96} and record["beyond_reach"] == ["80", "95"]
