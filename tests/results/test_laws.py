"""Law: a forecast of a ladder encloses the truth as often as it says. References: known parameters,
SciPy's least squares from many starts, published label curves.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from benchmarks.laws import published_curves
from cid_ray.results.laws import PowerLaw, fit_power_law, forecast_score

COUNTS = (12, 24, 48, 96)
TRUTHS = [PowerLaw(120, 0.4, 0), PowerLaw(150, 0.6, 15), PowerLaw(300, 1.0, 20)]


def ladder(truth: PowerLaw, sd: float, repeats: int, seed: int) -> dict[float, list[float]]:
    random = np.random.default_rng(seed)
    return {
        n: [truth.score(n) + sd * random.standard_normal() for _ in range(repeats)] for n in COUNTS
    }


@pytest.mark.parametrize("truth", TRUTHS)
def test_known_parameters_are_found_without_noise(truth: PowerLaw) -> None:
    law = fit_power_law(ladder(truth, 0.0, 1, 0), with_floor=truth.floor > 0)
    found = (law.scale, law.exponent, law.floor)
    np.testing.assert_allclose(
        found, (truth.scale, truth.exponent, truth.floor), rtol=1e-6, atol=1e-6
    )
    assert law.score(192) == pytest.approx(truth.score(192), abs=1e-6)


@pytest.mark.parametrize("with_floor", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_fit_is_no_worse_than_scipy_from_many_starts(seed: int, with_floor: bool) -> None:
    scores = ladder(TRUTHS[1], 2.0, 3, seed)
    law = fit_power_law(scores, with_floor)

    def residuals(x: np.ndarray) -> np.ndarray:
        candidate = PowerLaw(x[0], x[1], x[2] if with_floor else 0.0)
        return np.array([candidate.score(n) - y for n, own in scores.items() for y in own])

    bounds = ([0, 0, 0], [1e4, 2, 100])
    starts = [(s, b, f) for s in (50, 300) for b in (0.2, 0.8, 1.5) for f in (1, 30)]
    best = min(least_squares(residuals, start, bounds=bounds).cost for start in starts)
    own = np.array([law.scale, law.exponent, law.floor])
    # The exponent is one of a grid.
    assert 0.5 * (residuals(own) ** 2).sum() <= best * 1.005 + 1e-3


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("repeats", [2, 5])
def test_interval_covers_the_truth_at_its_rate_over_500_ladders(
    truth: PowerLaw, repeats: int
) -> None:
    inside = 0
    for seed in range(500):
        forecast = forecast_score(ladder(truth, 1.0, repeats, seed), 192, 0.9, samples=200)
        inside += forecast.low <= truth.score(192) <= forecast.high
    # 0.9 minus three standard errors of a share of 500.
    assert inside / 500 >= 0.9 - 3 * (0.9 * 0.1 / 500) ** 0.5


def test_more_repeats_make_the_interval_narrower() -> None:
    widths = []
    for repeats in (2, 20):
        found = [forecast_score(ladder(TRUTHS[0], 1.0, repeats, s), 192) for s in range(20)]
        widths.append(np.mean([one.high - one.low for one in found]))
    assert widths[1] < 0.5 * widths[0]


def test_score_that_falls_with_labels_is_forecast_as_flat_and_uncertain() -> None:
    """The demo's first picture did that; a law cannot, so its misfit is noise."""
    forecast = forecast_score({12: [50.7, 50.5], 24: [45.4, 45.6], 48: [44.0, 44.2]}, 96)
    assert forecast.score == pytest.approx(46.73, abs=0.1)
    assert forecast.low < 44 < 49 < forecast.high


def test_forecasts_of_published_curves_beat_the_largest_count() -> None:
    off, off_last, inside = [], [], 0
    curves = published_curves()
    for curve in curves.values():
        *known, last = sorted(curve)
        forecast = forecast_score({n: [curve[n]] for n in known}, last)
        off.append(abs(forecast.score - curve[last]))
        off_last.append(abs(curve[known[-1]] - curve[last]))
        inside += forecast.low <= curve[last] <= forecast.high
    assert np.median(off) < 0.8 * np.median(off_last)
    assert inside >= 0.95 * len(curves)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({12: [50.0], 24: [55.0]}, "3 counts or more, got 2"),
        ({0: [50.0], 24: [55.0], 48: [56.0]}, "must be positive"),
        ({12: [50.0], 24: [], 48: [56.0]}, "must be positive and have scores"),
    ],
)
def test_ladder_without_enough_to_fit_is_refused(
    scores: dict[float, list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        forecast_score(scores, 96)
    with pytest.raises(ValueError, match=message):
        fit_power_law(scores, with_floor=True)


def test_count_to_forecast_must_be_positive() -> None:
    with pytest.raises(ValueError, match="count must be positive, got 0"):
        forecast_score(ladder(TRUTHS[0], 1.0, 2, 0), 0)
