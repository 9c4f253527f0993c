"""Laws of the ways to spend: what more labels, tries and longer training would bring."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cid_ray.config.search_schema import PricesConfig
from cid_ray.results.label_worth import Gain
from cid_ray.results.records import Record
from cid_ray.results.spending import Spending, expected_maximum, recommendation, ways_to_spend
from cid_ray.results.summary import RatioSummary, summarize
from tests.helpers.records import full_trial, rung, search


def tuned(values: list[float], **fields: Any) -> RatioSummary:
    records: list[Record] = []
    for number, value in enumerate(values):
        records += full_trial("cid", 16, number, value, **{"loss.relation_weight": 0.1 * number})
    best = records[4 * int(np.argmax(values)) + 2]["run"]
    (summary,) = summarize([*records, search("cid", 16, best, **fields)])
    return summary


def test_expected_maximum_equals_simulated_one() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 8, 30):
        simulated = rng.normal(size=(100_000, count)).max(1).mean()
        assert expected_maximum(count) == pytest.approx(simulated, abs=0.02)


def test_more_tries_bring_what_normal_scores_would() -> None:
    values = [50.0, 52.0, 54.0, 51.0, 53.0]
    ways = {way.kind: way for way in ways_to_spend(tuned(values), None, PricesConfig())}
    gain = ways["tries"].gain
    assert gain is not None
    expected = np.std(values, ddof=1) * (expected_maximum(10) - expected_maximum(5))
    assert gain.points == pytest.approx(expected) and 0 == gain.low < gain.points < gain.high
    assert ways["tries"].what.startswith("5 more tries of CID (")


def gain_of_tries(values: list[float]) -> Gain:
    (gain,) = (w.gain for w in ways_to_spend(tuned(values), None, PricesConfig()) if w.gain)
    return gain


def test_failed_tries_promise_no_gain_of_more() -> None:
    rng = np.random.default_rng(0)

    def drawn(tries: int) -> NDArray[np.float64]:
        """One of six fails."""
        scores = rng.normal(41.0, 0.15, (20_000, tries))
        return np.where(rng.random(scores.shape) < 1 / 6, 10.0, scores)

    true_gain = drawn(48).max(1).mean() - drawn(24).max(1).mean()
    found = [gain_of_tries([10.0] * 4 + list(rng.normal(41.0, 0.15, 20))) for _ in range(50)]
    assert np.mean([gain.points for gain in found]) == pytest.approx(true_gain, rel=0.25)
    assert gain_of_tries([41.0, 10.0, 41.2, 40.9]).points < 0.2


@pytest.mark.parametrize("tries", [4, 9, 24])
def test_gain_of_tries_is_that_of_normal_scores(tries: int) -> None:
    rng = np.random.default_rng(0)
    true_gain = expected_maximum(2 * tries) - expected_maximum(tries)
    found = [gain_of_tries(list(rng.normal(50.0, 1.0, tries))) for _ in range(400)]
    assert np.mean([gain.points for gain in found]) == pytest.approx(true_gain, rel=0.2)
    assert np.mean([gain.high < true_gain for gain in found]) < 0.05


def test_budget_limits_what_is_bought_and_prices_are_said() -> None:
    values = [50.0, 52.0, 54.0, 51.0]
    prices = PricesConfig(label=10.0, hour=40_000.0)  # a try takes three seconds: 33 dollars
    ways = {way.kind: way for way in ways_to_spend(tuned(values), None, prices)}
    assert (ways["labels"].what, ways["labels"].usd) == ("10 more labels", 100.0)
    assert ways["tries"].what.startswith("3 more tries") or ways["tries"].what.startswith("2 more")
    assert all(way.usd is not None and way.usd <= 100.01 for way in ways.values())


@pytest.mark.parametrize(("price", "labels"), [(1e-320, "16 more labels"), (1e9, "1 more label")])
def test_extreme_prices_buy_all_or_nothing(price: float, labels: str) -> None:
    prices = PricesConfig(label=price, hour=price)
    ways = {way.kind: way for way in ways_to_spend(tuned([50.0, 52.0, 54.0, 51.0]), None, prices)}
    assert ways["labels"].what == labels
    assert (ways["tries"].gain is None) == (price > 1)
    if price > 1:
        for way in ways.values():
            assert way.what.startswith("1 more ") and way.text().endswith("costs more than $100")


def test_method_with_nothing_to_tune_gets_no_more_tries() -> None:
    ways = ways_to_spend(tuned([50.0] * 4, hyperparameters=[]), None, PricesConfig())
    assert [way.kind for way in ways] == ["labels", "training"]


def test_longer_training_needs_three_rungs_and_follows_them() -> None:
    two = ways_to_spend(tuned([50.0]), None, PricesConfig())[-1]
    assert two.gain is None and "3 rungs tell" in two.text()
    records = full_trial("cid", 16, 0, 60.0)
    curve = {2: 40.0, 5: 53.0, 10: 60.0}
    records = [rung("cid", 16, 0, s, v) for s, v in curve.items()] + records[2:]
    (summary,) = summarize([*records, search("cid", 16, records[-2]["run"])])
    way = ways_to_spend(summary, None, PricesConfig())[-1]
    assert way.gain is not None and 0 < way.gain.points < 10
    assert way.what.startswith("10 more steps of training")


@pytest.mark.parametrize(("hour", "what"), [(1.0, "10 more steps"), (240_000.0, "5 more steps")])
def test_longer_training_is_said_in_steps(hour: float, what: str) -> None:
    """Ten steps took three seconds, so half of them cost $100 at $240,000 an hour."""
    way = ways_to_spend(tuned([50.0]), None, PricesConfig(hour=hour))[-1]
    assert way.what.startswith(f"{what} of training (") and (way.usd or 0) <= 100.01


def test_recommendation_gains_most_for_the_budget_and_not_per_dollar() -> None:
    labels = Spending("labels", "24 more labels", 48.0, Gain(2.0, 0.5, 3.0))
    tries = Spending("tries", "4 more tries", 0.5, Gain(0.4, 0.1, 0.9))
    unsure = Spending("training", "longer", 0.1, Gain(5.0, -1.0, 9.0))
    text = recommendation([tries, labels, unsure])
    assert text == (
        "Next: 24 more labels ($48.00): +2.00 (+0.50 to +3.00) mIoU on val. Of the ways that are "
        "shown to pay it is expected to gain most for at most $100."
    )
    assert recommendation([tries, unsure]).endswith("on val. No other way is shown to pay.")
    free = [Spending(w.kind, w.what, None, w.gain) for w in (labels, tries, unsure)]
    assert recommendation(free).startswith("Next: 24 more labels: +2.00 (+0.50 to +3.00)")
    assert "gain most by a doubling; with prices.label" in recommendation(free)
    assert "ways are not compared while only one" in recommendation([labels, free[1]])
    assert "no way to spend is shown to pay" in recommendation([unsure])
