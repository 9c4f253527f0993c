"""Laws of a plan: its chances are kept, and no other number of labels is expected to cost less."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cid_ray.config.search_schema import PricesConfig
from cid_ray.results.label_plan import LabelPlan, Purchase, plan_labels
from cid_ray.results.label_worth import LabelCurve
from tests.helpers.label_curves import COUNTS, simulated, truth


def plan(
    curve: LabelCurve, target: float, method: str = "cid", have: int = 12, **prices: float
) -> LabelPlan:
    return plan_labels(curve, target, method, have, PricesConfig(**prices))


@pytest.mark.parametrize(("repeats", "draw_sd"), [(3, 2.0), (10, 0.5)])
def test_a_new_run_reaches_the_target_with_the_chance_that_is_said(
    repeats: int, draw_sd: float
) -> None:
    """Over 40 searches. What seed and draw do to a new run is not known before it."""
    hits: dict[int, list[bool]] = {80: [], 95: []}
    for seed in range(40):
        rng = np.random.default_rng(1000 + seed)
        draws = rng.normal(0, draw_sd, repeats)
        scores = {
            "supervised": {n: list(truth(n) + draws + rng.normal(0, 0.5, repeats)) for n in COUNTS}
        }
        curve = LabelCurve(scores, seed)
        for chance, labels in plan(curve, truth(20), "supervised").labels.items():
            run = truth(min(labels, 1e9)) + rng.normal(0, draw_sd) + rng.normal(0, 0.5)
            hits[chance].append(run >= truth(20))
    assert np.mean(hits[80]) >= 0.7 and np.mean(hits[95]) >= 0.85


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
    needed = curve.needed_by_a_run(truth(30), "cid")[:2, 1:].ravel()
    needed = needed[~np.isnan(needed)]
    costs = [label * more + miss * np.mean(needed > 12 + more) for more in range(200)]
    assert found.expected_usd == pytest.approx(min(costs))
    assert found.more == int(np.argmin(costs)) and found.labels == 12 + found.more
    assert found.usd == pytest.approx(label * found.more)
    assert found.risk == pytest.approx(100 * np.mean(needed > found.labels))


def test_dear_labels_or_a_cheap_miss_buy_nothing() -> None:
    curve = LabelCurve(simulated(2.0, 0.5, draw_sd=0))
    one = plan(curve, truth(30), label=100.0, miss=1.0)
    assert one.purchase is not None and one.purchase.more == 0 and one.purchase.usd == 0
    assert "To label no more costs least; the risk of missing it is" in one.text(curve)


def test_target_beyond_the_curve_is_a_certain_miss() -> None:
    curve = LabelCurve(simulated(1.0, 0.1, draw_sd=0))
    one = plan(curve, 99.0, "supervised", label=1.0, miss=50.0)
    assert one.labels == {80: math.inf, 95: math.inf}
    assert one.purchase == Purchase(12, 0, 0.0, 100.0, 100.0, 50.0)
    text = "With supervised only, an 80 % chance of reaching it takes more than 96 labels."
    assert one.text(curve).startswith(text) and "95 %" not in one.text(curve)
    record = one.record(curve.reach)
    assert record["labels"] == {"80": 96, "95": 96} and record["beyond_reach"] == ["80", "95"]


def test_method_whose_worth_is_beyond_the_curve_has_no_plan() -> None:
    scores = simulated(2.0, 0.1, draw_sd=0)
    scores["cid"] = {n: [score + 30 for score in own] for n, own in scores["cid"].items()}
    curve = LabelCurve(scores)
    one = plan(curve, truth(30), label=1.0, miss=50.0)
    assert one.purchase is None and all(math.isnan(count) for count in one.labels.values())
    assert one.text(curve) == "With CID, the chance of reaching it cannot be told."
    assert one.record(curve.reach)["labels"] == {"80": None, "95": None}
