"""Laws of the smooth fit. References: scipy's smoothing spline with GCV, t intervals, and curves
whose truth is known.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from scipy.interpolate import make_smoothing_spline

import cid_ray.results.smooth_fit as module
from cid_ray.results.smooth_fit import MAX_KNOTS, MIN_TRIALS, mean_scores, smooth_fit

CURVES: dict[str, Callable[[float], float]] = {
    "parabola": lambda x: 50 - 12 * (x - 0.7) ** 2,
    "level": lambda x: 50.0,
    "wave": lambda x: 50 + 2 * float(np.sin(5 * x)),
}


def noisy(curve: str, trials: int, seed: int) -> list[tuple[float, float]]:
    random = np.random.default_rng(seed)
    values = random.uniform(0, 1, trials)
    return [(float(x), CURVES[curve](float(x)) + random.normal(0, 1)) for x in values]


@pytest.mark.parametrize("curve", ["parabola", "wave"])
def test_fit_is_that_of_scipy(curve: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INFLATION", 1.0)
    points = noisy(curve, MAX_KNOTS, seed=0)
    fit = smooth_fit(points)
    assert fit is not None
    values, scores = map(np.array, zip(*sorted(points), strict=True))
    reference = make_smoothing_spline(values, scores)
    grid = np.linspace(values[0], values[-1], 50)
    assert fit.on(grid)[0] == pytest.approx(reference(grid), abs=0.05)


@pytest.mark.parametrize("trials", [MIN_TRIALS, 200])
@pytest.mark.parametrize("curve", CURVES)
def test_band_holds_the_truth_about_as_often_as_it_says(curve: str, trials: int) -> None:
    inside = []
    for seed in range(60):
        fit = smooth_fit(noisy(curve, trials, seed))
        assert fit is not None
        truth = np.array([CURVES[curve](x) for x in fit.x])
        inside.append(((fit.low <= truth) & (truth <= fit.high)).mean())
    assert 0.88 <= np.mean(inside) <= 0.98


def test_scores_without_a_trend_seldom_get_waves() -> None:
    waves = 0
    for seed in range(60):
        fit = smooth_fit(noisy("level", 40, seed))
        assert fit is not None
        turns = np.diff(np.sign(np.diff(fit.on(np.linspace(fit.x[0], fit.x[-1], 50))[0])))
        waves += int(np.count_nonzero(turns) > 1)
    assert waves <= 6


def test_few_trials_or_values_have_no_fit() -> None:
    assert smooth_fit(noisy("parabola", MIN_TRIALS - 1, 0)) is None
    assert smooth_fit([(float(n % 4), float(n)) for n in range(40)]) is None
    assert smooth_fit([(float(n % 5), float(n)) for n in range(40)]) is not None


def test_fit_over_logarithms_is_that_of_the_logarithms() -> None:
    points = noisy("parabola", 30, 0)
    fit = smooth_fit(points)
    log = smooth_fit([(10**value, score) for value, score in points], log=True)
    assert fit is not None and log is not None
    assert log.x == pytest.approx(fit.x) and log.low == pytest.approx(fit.low)


def test_trials_of_one_value_share_a_knot_and_narrow_the_band() -> None:
    few = smooth_fit([(float(n % 8), 50.0 + (n % 3)) for n in range(24)])
    many = smooth_fit([(float(n % 8), 50.0 + (n % 3)) for n in range(240)])
    assert few is not None and many is not None
    assert len(few.x) == len(many.x) == 8
    assert (many.high - many.low).max() < 0.5 * (few.high - few.low).max()


def test_straight_line_without_noise_is_fitted_exactly() -> None:
    fit = smooth_fit([(x / 10, 40 + x / 10) for x in range(60)])
    assert fit is not None and len(fit.x) == MAX_KNOTS
    assert fit.fit == pytest.approx(40 + fit.x, abs=1e-3)
    assert (fit.high - fit.low).max() < 0.1


def test_means_of_values_have_t_intervals() -> None:
    scores = {"self": [50.0, 51.0, 53.0], "cross": [40.0, 41.0]}
    points = [(kind, score) for kind, own in scores.items() for score in own]
    cross, own = mean_scores(points)
    assert (cross.value, cross.trials, cross.mean, cross.low) == ("cross", 2, 40.5, None)
    interval = stats.t.interval(
        0.95, 2, np.mean(scores["self"]), np.std(scores["self"], ddof=1) / 3**0.5
    )
    assert (own.low, own.high) == pytest.approx(interval)


def test_means_of_choices_of_any_type_are_in_alphabetical_order() -> None:
    points = [("b", 1.0), (True, 2.0), (None, 3.0), ("a", 4.0)]
    assert [mean.value for mean in mean_scores(points)] == ["None", "True", "a", "b"]
