"""Laws of the label curve: a method that is worth a known number of labels is found to be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cid_ray.results.label_worth import LabelCurve, label_curve
from cid_ray.results.summary import summarize
from tests.helpers.label_curves import COUNTS, Scores, simulated, truth
from tests.helpers.records import repeated_search


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.8])
def test_known_worth_is_found_without_noise(factor: float) -> None:
    curve = LabelCurve(simulated(factor, sigma=1e-6))
    for count in (12, 24):
        worth = curve.worth("cid", count)
        # the law without a floor is a little off, as it has no floor
        assert worth.count == pytest.approx(factor * count, rel=0.1)
        assert worth.low <= factor * count * 1.02 and worth.high >= factor * count * 0.98


def test_interval_of_worth_encloses_the_truth_as_often_as_it_says() -> None:
    enclosed = []
    for seed in range(120):
        worth = LabelCurve(simulated(2.0, 0.7, seed=seed), seed).worth("cid", 12)
        enclosed.append(worth.low <= 24 <= worth.high)
    assert np.mean(enclosed) >= 0.93


def test_supervised_is_worth_its_own_labels() -> None:
    curve = LabelCurve(simulated(1.0, 0.5))
    for count in COUNTS:
        worth = curve.worth("supervised", count)
        assert worth.low < count < worth.high


def test_effect_of_a_draw_changes_no_worth() -> None:
    scores = simulated(2.0, 0.3)
    shifted = {
        method: {n: [s + d for s, d in zip(own, (9, -4, -5), strict=True)] for n, own in by.items()}
        for method, by in scores.items()
    }
    expected, found = LabelCurve(scores).worth("cid", 12), LabelCurve(shifted).worth("cid", 12)
    assert (found.count, found.low, found.high) == pytest.approx(
        (expected.count, expected.low, expected.high)
    )


def test_labels_for_a_score_invert_the_curve_and_divide_by_the_factor() -> None:
    curve = LabelCurve(simulated(2.0, 0.02))
    target = truth(40)
    alone, with_pool = curve.labels_for(target), curve.labels_for(target, "cid")
    assert alone.count == pytest.approx(40, rel=0.05) and alone.low < 40 < alone.high
    assert with_pool.count == pytest.approx(20, rel=0.1)
    assert with_pool.low < 20 < with_pool.high


@pytest.mark.parametrize("draw_sd", [0.0, 3.0])
def test_interval_of_a_target_holds_what_a_new_draw_does(draw_sd: float) -> None:
    """The scores of all repeats are high or low together; the target is that of the mean draw."""
    enclosed = []
    for seed in range(80):
        scores = simulated(2.0, 0.5, seed=seed)
        draws = np.random.default_rng(seed + 500).normal(0, draw_sd, 3)
        moved = {
            method: {n: list(np.array(own) + draws) for n, own in by.items()}
            for method, by in scores.items()
        }
        curve = LabelCurve(moved, seed)
        for method, labels in (("supervised", 20.0), ("cid", 10.0)):
            found = curve.labels_for(truth(20), method)
            enclosed.append(found.low <= labels <= found.high)
    assert np.mean(enclosed) >= 0.92


def test_target_that_a_method_has_reached_needs_the_labels_that_it_had() -> None:
    scores = simulated(2.0, 0.02)
    scores["cid"][24] = [s - 2 for s in scores["cid"][24]]  # the factor falls with the labels
    curve = LabelCurve(scores)
    for count in (12, 24):
        reached = float(np.mean(scores["cid"][count]))
        assert curve.labels_for(reached, "cid").count == pytest.approx(count, rel=0.03)


def test_what_the_curve_cannot_tell_is_said() -> None:
    curve = LabelCurve(simulated(1.0, 0.1))
    assert curve.reach == (3, 96)
    far, near = curve.labels_for(99.0), curve.labels_for(10.0)
    assert math.isinf(far.count) and near.count == 0
    assert curve.text(far) == "more than 96" and curve.text(near) == "at most 3"
    assert far.record(curve.reach) == {"count": 96, "low": 96, "high": 96}
    assert near.record(curve.reach) == {"count": 3, "low": 3, "high": 3}
    assert set(far.beyond(curve.reach).values()) == {"more"}
    assert set(near.beyond(curve.reach).values()) == {"fewer"}
    noisy = LabelCurve(simulated(4.0, 2.0))
    assert noisy.text(noisy.worth("cid", 24)).endswith(" to more than 96)")


def test_reach_of_a_curve_from_one_label_on_ends_at_one_label() -> None:
    supervised = {1: [30.0, 30.2], 2: [36.0, 36.1], 5: [42.0, 42.2]}
    curve = LabelCurve({"supervised": supervised})
    assert curve.reach == (1, 10) and curve.text(curve.labels_for(2.0)) == "at most 1"


def test_factor_beyond_the_curve_makes_the_labels_for_a_target_unknown() -> None:
    """What a method is worth above 96 supervised labels is not known to be much or little."""
    scores = simulated(2.0, 0.02)
    scores["cid"] = {n: [s + 30 for s in own] for n, own in scores["cid"].items()}
    curve = LabelCurve(scores)
    needed = curve.labels_for(truth(40), "cid")
    assert math.isnan(needed.count)
    assert curve.text(needed) == "an unknown number (at most 3 to more than 96)"
    assert needed.record(curve.reach) == {"count": None, "low": 3, "high": 96}
    assert needed.beyond(curve.reach) == {"low": "fewer", "high": "more"}


def test_supervised_curve_that_does_not_rise_is_no_ruler() -> None:
    falling = {6: [52.0, 52.1], 12: [51.0, 51.1], 24: [50.0, 50.1]}
    assert not LabelCurve({"supervised": falling, "cid": {12: [51.0, 51.1]}}).rises
    assert LabelCurve(simulated(1.0, 0.1)).rises
    records = repeated_search(4, supervised=52.0) + repeated_search(8, supervised=51.0)
    assert label_curve(summarize(records + repeated_search(16, supervised=50.0))) is None


@pytest.mark.parametrize(
    "scores",
    [
        {"supervised": {6: [1.0, 2.0], 12: [1.0, 2.0]}},
        {"supervised": {6: [1.0], 12: [1.0], 24: [1.0]}},
    ],
)
def test_curve_of_too_few_counts_or_repeats_is_refused(scores: Scores) -> None:
    with pytest.raises(ValueError, match="supervised at 3 counts and two repeats"):
        LabelCurve(scores)


def test_label_curve_of_a_search_needs_three_ratios_with_shared_repeats() -> None:
    records = repeated_search(16) + repeated_search(8, supervised=45.0)
    assert label_curve(summarize(records)) is None
    records += repeated_search(4, supervised=40.0)
    summaries = summarize(records)
    curve = label_curve(summaries)
    assert curve is not None and curve.counts == (4, 8, 16)
    for record in records:
        if record["ratio"] == "1/4" and record["repeats_of"]:
            record["seed"] = 50
    assert label_curve(summarize(records)) is None
