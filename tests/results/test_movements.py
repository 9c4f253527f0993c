"""Laws of movements: an optimum that moves is found, and chance moves one in twenty families."""

from __future__ import annotations

import numpy as np
import pytest

from cid_ray.results.movements import MIN_TRIALS, Movement, movements
from cid_ray.results.records import Record
from cid_ray.results.summary import summarize
from tests.helpers.records import full_trial


def trials_at(
    count: int, best: float | None, trials: int, rng: np.random.Generator, noise: float = 0.5
) -> list[Record]:
    """Trials with two hyperparameters; `threshold` is best at a value, or has no effect."""
    records: list[Record] = []
    for number in range(trials):
        threshold, weight = rng.uniform(0.5, 1.0), float(np.exp(rng.uniform(-5, 0)))
        score = 50.0 + rng.normal(0, noise)
        score -= 0 if best is None else 60 * (threshold - best) ** 2
        values = {"loss.conf_thresh": threshold, "loss.style_weight": weight}
        records += full_trial("cid", count, number, float(score), **values)
    return records


def moved(few: float | None, many: float | None, trials: int, seed: int) -> dict[str, Movement]:
    rng = np.random.default_rng(seed)
    records = trials_at(16, few, trials, rng) + trials_at(64, many, trials, rng)
    return {each.key: each for each in movements(summarize(records))}


def test_optimum_that_moves_is_found_with_its_direction() -> None:
    found = moved(0.6, 0.9, 20, seed=0)
    threshold = found["loss.conf_thresh"]
    assert threshold.moves
    few, many = threshold.settings
    assert few.low < 0.6 < few.high and many.low < 0.9 < many.high
    assert threshold.text().startswith("loss.conf_thresh falls with fewer labels: 0.")
    assert "at 1/64 (64), 0." in threshold.text() and "above noise, p " in threshold.text()
    assert not found["loss.style_weight"].moves
    assert "loss.style_weight: cannot be told (p " in found["loss.style_weight"].text()
    assert "rises with fewer" in moved(0.9, 0.6, 20, seed=0)["loss.conf_thresh"].text()


def test_chance_moves_a_hyperparameter_in_few_families() -> None:
    false = [any(m.moves for m in moved(None, None, 16, s).values()) for s in range(100)]
    assert np.mean(false) <= 0.08


def test_log_scaled_hyperparameter_has_a_geometric_mean() -> None:
    records = [
        record
        for count in (16, 64)
        for number, weight in enumerate((0.01, 0.1, 1.0, 0.02))
        for record in full_trial("cid", count, number, 50.0 - number, **{"a.weight": weight})
    ]
    (movement,) = movements(summarize(records))
    assert movement.settings[0].value == pytest.approx(0.01)
    assert movement.settings[0].low <= 0.0101 and movement.settings[0].high > 0.01


def test_too_few_trials_are_said() -> None:
    movement = moved(0.6, 0.9, MIN_TRIALS - 1, seed=0)["loss.conf_thresh"]
    assert movement.p is None and not movement.moves
    assert movement.text() == "loss.conf_thresh: cannot be told from 15 and 15 completed trials"


@pytest.mark.parametrize("trials", [MIN_TRIALS, MIN_TRIALS - 1])
def test_single_ratio_has_a_setting_and_no_movement(trials: int) -> None:
    records = trials_at(16, 0.6, trials, np.random.default_rng(0))
    found = {each.key: each for each in movements(summarize(records))}
    threshold = found["loss.conf_thresh"]
    assert threshold.p is None and not threshold.moves
    (setting,) = threshold.settings
    assert setting.low < 0.6 < setting.high
    said = f"{setting.value:.4g} ({setting.low:.4g} to {setting.high:.4g}) at 1/16 (16)"
    said = said if trials == MIN_TRIALS else "cannot be told"
    assert threshold.text() == f"loss.conf_thresh: {said} from {trials} completed trials"


def test_categories_have_no_movement() -> None:
    records = [
        record
        for count in (16, 64)
        for number, kind in enumerate(("self", "cross"))
        for record in full_trial("cid", count, number, 50.0, **{"loss.relation_kind": kind})
    ]
    assert movements(summarize(records)) == []
