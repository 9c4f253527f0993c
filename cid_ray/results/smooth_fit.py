"""A smooth fit of scores to a hyperparameter, with its band; means with intervals for a few values.

The fit is the natural cubic smoothing spline, its penalty chosen by generalized cross-validation
(GCV), as scipy's `make_smoothing_spline` does it. That has no band and no inflated GCV, so the
spline is solved here in the eigenvectors of its penalty. The band is the 95 % interval of Wahba
(1983): over the curve it holds the mean score about as often as it says, and a bootstrap with a
fixed penalty does so less often. n trials, m knots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_TRIALS = 16  # for a fit; below, GCV follows single trials
MIN_VALUES = 5  # different ones, for a fit
MIN_OF_A_MEAN = 3  # trials of a value, for an interval of their mean
MAX_KNOTS = 40  # trials next to each other share a knot
MAX_FREEDOM = 8  # of the fit; at most half of the knots
INFLATION = 1.4  # of the degrees of freedom in GCV, after Kim and Gu (2004): else waves of chance
LEVEL = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SmoothFit:
    """Knots f[m], the fit and its band there."""

    x: Floats
    fit: Floats
    low: Floats
    high: Floats

    def on(self, grid: Floats) -> tuple[Floats, Floats, Floats]:
        """Fit, low and high end at other places between the first and the last knot."""
        from scipy.interpolate import CubicSpline, PchipInterpolator

        fit = CubicSpline(self.x, self.fit, bc_type="natural")(grid)
        half = PchipInterpolator(self.x, self.high - self.fit)(grid)
        return fit, fit - half, fit + half


@dataclass(frozen=True)
class MeanScore:
    """Mean score of the trials with one value, and its 95 % interval (t); None with too few."""

    value: str
    trials: int
    mean: float
    low: float | None
    high: float | None


def smooth_fit(points: Sequence[tuple[float, float]], log: bool = False) -> SmoothFit | None:
    """The fit of (value, score); None with fewer than MIN_TRIALS or MIN_VALUES.

    Args:
        points: of each trial.
        log: fit over the logarithm of the value; knots are logarithms (base 10) then.

    Example:
        >>> fit = smooth_fit([(x / 20, 50 - x / 10) for x in range(20)])
    """
    if len(points) < MIN_TRIALS or len({value for value, _ in points}) < MIN_VALUES:
        return None
    data = np.array(sorted(points), float)
    x, y, weights, within = _knots(np.log10(data[:, 0]) if log else data[:, 0], data[:, 1])
    roots = np.sqrt(weights)
    penalties, vectors = np.linalg.eigh(_roughness(x) / np.outer(roots, roots))
    penalties = np.maximum(penalties, 0)
    rotated = vectors.T @ (roots * y)
    # The two smallest penalties are those of a straight line: exactly 0, but for rounding.
    penalties[:2] = 0
    best = _choose(penalties, rotated, within, len(points))
    shrink = 1 / (1 + best * penalties)
    fit = vectors @ (shrink * rotated) / roots
    residuals = float((((1 - shrink) * rotated) ** 2).sum()) + within
    freedom = len(points) - float(shrink.sum())
    variances = (vectors**2 @ shrink) / weights * residuals / freedom
    half = _t(freedom) * np.sqrt(variances)
    return SmoothFit(x, fit, fit - half, fit + half)


def _knots(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats, float]:
    """Mean value, mean score, trials of each knot, and the squares of scores within knots."""
    _, ranks = np.unique(x, return_inverse=True)
    count = int(ranks.max()) + 1
    if count > MAX_KNOTS:  # equal numbers of trials; equal values stay together
        first = np.searchsorted(x, x)
        ranks = np.unique(first * MAX_KNOTS // len(x), return_inverse=True)[1]
    weights = np.bincount(ranks).astype(float)
    means = np.bincount(ranks, y) / weights
    within = float(((y - means[ranks]) ** 2).sum())
    return np.bincount(ranks, x) / weights, means, weights, within


def _roughness(x: Floats) -> Floats:
    """f[m, m]: y K y is the integral of the squared second derivative of the spline through y."""
    from scipy.interpolate import CubicSpline

    x = (x - x[0]) / (x[-1] - x[0])
    second = CubicSpline(x, np.eye(len(x)), bc_type="natural")(x, 2)
    steps = np.diff(x)
    # the product of two functions that are linear between knots
    diagonal = (np.append(steps, 0) + np.append(0, steps)) / 3
    product = np.diag(diagonal) + np.diag(steps / 6, 1) + np.diag(steps / 6, -1)
    return np.asarray(second.T @ product @ second)


def _choose(penalties: Floats, rotated: Floats, within: float, trials: int) -> float:
    """The weight of the penalty with the least GCV score, of those that are smooth enough."""
    most = min(MAX_FREEDOM, len(penalties) / 2)
    scale = 1 / np.median(penalties[2:])
    scores = {}
    for weight in scale * np.logspace(-6, 8, 113):
        shrink = 1 / (1 + weight * penalties)
        if shrink.sum() <= most:
            residuals = (((1 - shrink) * rotated) ** 2).sum() + within
            scores[float(weight)] = residuals / (trials - INFLATION * shrink.sum()) ** 2
    return min(scores, key=lambda weight: scores[weight])


def mean_scores(points: Sequence[tuple[Any, float]]) -> list[MeanScore]:
    """The mean score of each value that occurs, as text in alphabetical order."""
    by_value = scores_of_choices(points)
    return [_mean_score(value, np.array(by_value[value])) for value in sorted(by_value)]


def scores_of_choices(points: Sequence[tuple[Any, float]]) -> dict[str, list[float]]:
    """value as text -> scores of its trials."""
    by_value: dict[str, list[float]] = {}
    for value, score in points:
        by_value.setdefault(str(value), []).append(score)
    return by_value


def _mean_score(value: str, scores: Floats) -> MeanScore:
    mean = float(scores.mean())
    if len(scores) < MIN_OF_A_MEAN:
        return MeanScore(value, len(scores), mean, None, None)
    half = _t(len(scores) - 1) * float(scores.std(ddof=1)) / len(scores) ** 0.5
    return MeanScore(value, len(scores), mean, mean - half, mean + half)


def _t(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))
