"""Laws of ladders: what a larger count of labels or images will bring, and how sure that is.

A ladder is the score at several counts. Its error, in points, falls like

    error(count) = floor + scale * count ** -exponent          none of them negative

as J. Hestness et al. (arXiv:1712.00409, 2017) and J. Rosenfeld et al. (arXiv:1909.12673, 2020)
found for many tasks. A few counts cannot tell whether there is a floor. Without one the law expects
more of the next labels, with one it expects less. So a forecast fits both: it is their mean, and
its interval reaches from the low end of one to the high end of the other. Its error on published
curves is in benchmarks/results/laws.

Neither torch nor ray is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PERFECT = 100.0  # mIoU in percent
EXPONENTS: Floats = np.linspace(0.0, 2.0, 401)


@dataclass(frozen=True)
class PowerLaw:
    """How the error, in points, falls with the count."""

    scale: float
    exponent: float
    floor: float

    def score(self, count: float) -> float:
        """The score in percent at a count."""
        return float(PERFECT - self.floor - self.scale * count**-self.exponent)


@dataclass(frozen=True)
class Forecast:
    """A score in percent at a count, and the interval that encloses the mean of its repeats."""

    score: float
    low: float
    high: float


class Ladder:
    """The scores at each count, as arrays.

    Raises:
        ValueError: less than three counts, a count that is not positive, a count without scores.
    """

    def __init__(self, scores: Mapping[float, Sequence[float]]):
        if len(scores) < 3:
            raise ValueError(f"a law needs 3 counts or more, got {len(scores)}")
        if min(scores) <= 0 or not all(len(own) for own in scores.values()):
            raise ValueError(f"counts must be positive and have scores, got {dict(scores)}")
        self.counts: Floats = np.array(sorted(scores), dtype=float)
        errors = [PERFECT - np.array(scores[count], dtype=float) for count in sorted(scores)]
        self.repeats = np.array([len(own) for own in errors])
        self.mean_errors: Floats = np.array([own.mean() for own in errors])
        self.within = float(sum(((own - own.mean()) ** 2).sum() for own in errors))

    def fit(self, errors: Floats, with_floor: bool) -> tuple[Floats, Floats, Floats, Floats]:
        """The law of each row of errors[rows, counts], by least squares.

        For a given exponent the rest is linear, so it is solved exactly and the best exponent taken
        (variable projection: G. Golub and V. Pereyra, SIAM J. Numer. Anal. 10, 1973). A search over
        all three parameters may end in a local minimum.

        Returns:
            Scale at the largest count, exponent, floor, and mean squared error of each row.
        """
        share = self.repeats / self.repeats.sum()
        basis = (self.counts / self.counts[-1]) ** -EXPONENTS[:, None]
        b, bb = basis @ share, basis**2 @ share
        e, be = (errors @ share)[:, None], (errors * share) @ basis.T
        scale, floor = be / bb, np.zeros_like(be)
        if with_floor:
            variance = bb - b**2
            slope = (be - e * b) / np.where(variance > 1e-12, variance, np.inf)
            slope = np.maximum(slope, 0)
            free = e - slope * b
            scale, floor = np.where(free >= 0, slope, scale), np.maximum(free, 0)
        ee = (errors**2 @ share)[:, None]
        loss = ee - 2 * (scale * be + floor * e) + scale**2 * bb + floor * (2 * scale * b + floor)
        best = loss.argmin(1)
        row = np.arange(len(errors))
        return scale[row, best], EXPONENTS[best], floor[row, best], np.maximum(loss[row, best], 0)

    def errors_at(self, count: float, errors: Floats) -> Floats:
        """[2, rows]: the error at a count by the law without and by the law with a floor."""
        return self.curves(np.array([count]), errors)[..., 0]

    def curves(self, counts: Floats, errors: Floats) -> Floats:
        """[2, rows, counts]: the same at several counts."""
        found = []
        for with_floor in (False, True):
            scale, exponent, floor, _ = (x[:, None] for x in self.fit(errors, with_floor))
            found.append(floor + scale * (counts / self.counts[-1]) ** -exponent)
        return np.stack(found)

    def variance(self) -> tuple[float, int]:
        """Of a single score around the law that fits better, and its degrees of freedom."""
        total = int(self.repeats.sum())
        found = []
        for with_floor, parameters in ((False, 2), (True, 3)):
            if total > parameters:
                loss = self.fit(self.mean_errors[None], with_floor)[3][0]
                df = total - parameters
                found.append(((total * float(loss) + self.within) / df, df))
        return min(found)


def fit_power_law(scores: Mapping[float, Sequence[float]], with_floor: bool) -> PowerLaw:
    """The power law of a ladder, by least squares over all scores.

    Args:
        scores: count -> scores in percent, of one or more repeats; three counts or more.
        with_floor: whether the error may stop above zero.

    Raises:
        ValueError: less than three counts, a count that is not positive, a count without scores.

    Examples:
        >>> law = fit_power_law({10: [60], 20: [71.716], 40: [80]}, with_floor=False)
        >>> round(law.exponent, 2), round(law.score(80), 1)
        (0.5, 85.9)
    """
    ladder = Ladder(scores)
    scale, exponent, floor, _ = (x.item() for x in ladder.fit(ladder.mean_errors[None], with_floor))
    return PowerLaw(scale * float(ladder.counts[-1]) ** exponent, exponent, floor)


def forecast_score(
    scores: Mapping[float, Sequence[float]],
    count: float,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> Forecast:
    """The score that a ladder's laws expect at another count.

    The interval comes from a parametric bootstrap: both laws are fitted again to `samples` ladders
    with as much noise as the scores have around the law. Repeats make that noise known; without
    them it is taken from the fit alone, and intervals are wide.

    Args:
        scores: count -> scores in percent, of one or more repeats; three counts or more.
        count: where to forecast, in the same unit.
        level: how often the interval should enclose the truth.

    Raises:
        ValueError: less than three counts, a count that is not positive, a count without scores.

    Examples:
        >>> ladder = {12: [50.1, 51.0], 24: [55.8, 56.4], 48: [61.0, 60.2]}
        >>> forecast = forecast_score(ladder, 96)
        >>> 61 < forecast.low < forecast.score < forecast.high < 69
        True
    """
    ladder = Ladder(scores)
    if count <= 0:
        raise ValueError(f"count must be positive, got {count}")
    expected = ladder.errors_at(count, ladder.mean_errors[None]).mean()
    variance, df = ladder.variance()
    random = np.random.default_rng(seed)
    sd = np.sqrt(variance * df / random.chisquare(df, samples))[:, None] / np.sqrt(ladder.repeats)
    errors = ladder.mean_errors + sd * random.standard_normal((samples, len(ladder.counts)))
    both = np.clip(ladder.errors_at(count, np.maximum(errors, 0)), 0, PERFECT)
    tail = (1 - level) / 2
    most, least = np.quantile(both.max(0), 1 - tail), np.quantile(both.min(0), tail)
    return Forecast(float(PERFECT - expected), float(PERFECT - most), float(PERFECT - least))
