"""Where hyperparameters move along the label axis, and whether that is more than chance.

The setting of a ratio is the mean of a hyperparameter over the best quarter of its completed CID
trials (the geometric mean of one that was searched on a log scale). Trials are resampled for its
interval (bootstrap), and for the chance that settings at the fewest and the most labels are in the
other order. All hyperparameters of a search are one family, corrected by Holm as in noise.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cid_ray.results.figure_data import scale_of_key, slices_data
from cid_ray.results.formatting import format_p, format_value
from cid_ray.results.noise import ALPHA, holm
from cid_ray.results.summary import RatioSummary

MIN_TRIALS = 16  # completed ones at a ratio; with 8 chance moves one in twelve
TOP_FRACTION = 0.25
SAMPLES = 4000  # fewer of many trials: a large search stays a matter of seconds
MAX_SAMPLED_TRIALS = 2_000_000


@dataclass(frozen=True)
class Setting:
    """A hyperparameter at one ratio: the best quarter's mean with its 95 % interval."""

    ratio: str
    trials: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Movement:
    """A numeric hyperparameter from the fewest to the most labels.

    Attributes:
        key: of the configuration.
        settings: of each ratio, fewest labels first.
        p: that it moves by chance, after Holm's correction; None with too few trials or one ratio.
    """

    key: str
    settings: tuple[Setting, ...]
    p: float | None

    @property
    def moves(self) -> bool:
        return self.p is not None and self.p < ALPHA

    def text(self) -> str:
        """ "loss.conf_thresh falls with fewer labels: 0.91 at 1/8 (46), 0.71 at 1/16 (23)..."."""
        fewest, most = self.settings[0], self.settings[-1]
        if len(self.settings) == 1:
            known = _with_interval(fewest) if fewest.trials >= MIN_TRIALS else "cannot be told"
            return f"{self.key}: {known} from {fewest.trials} completed trials"
        trials = " and ".join(f"{each.trials}" for each in (most, fewest))
        if self.p is None:
            return f"{self.key}: cannot be told from {trials} completed trials"
        if not self.moves:
            return f"{self.key}: cannot be told ({format_p(self.p)}, {trials} completed trials)"
        verb = "falls" if fewest.value < most.value else "rises"
        return (
            f"{self.key} {verb} with fewer labels: {_with_interval(most)}, "
            f"{_with_interval(fewest)}; above noise, {format_p(self.p)}"
        )


def _with_interval(setting: Setting) -> str:
    value, low, high = map(format_value, (setting.value, setting.low, setting.high))
    return f"{value} ({low} to {high}) at {setting.ratio}"


def movements(summaries: list[RatioSummary], seed: int = 0) -> list[Movement]:
    """Every numeric hyperparameter that took a second value; of one ratio its setting there.

    Args:
        summaries: as `summarize` returns them.
        seed: of the bootstrap.

    Example:
        >>> for movement in movements(summarize(read_records("runs/camvid"))):
        ...     print(movement.text())
    """
    found: list[tuple[str, tuple[Setting, ...], float | None]] = []
    random = np.random.default_rng(seed)
    for key, by_ratio in slices_data(summaries).items():
        values = [value for points in by_ratio.values() for value, _ in points]
        scale = scale_of_key(key, values, summaries)
        if scale == "category":
            continue
        settings, samples = [], []
        for ratio, points in by_ratio.items():
            sampled = _best_quarter(np.array(points, float), scale == "log", random)
            low, high = np.quantile(sampled[1:], [0.025, 0.975])
            ends = (_original(float(x), scale == "log") for x in (sampled[0], low, high))
            settings.append(Setting(ratio, len(points), *ends))
            samples.append(sampled[1:])
        enough = len(settings) > 1 and min(settings[0].trials, settings[-1].trials) >= MIN_TRIALS
        size = min(len(samples[0]), len(samples[-1]))
        p = _p_of_order(samples[-1][:size] - samples[0][:size]) if enough else None
        found.append((key, tuple(settings), p))
    adjusted = iter(holm([p for _, _, p in found if p is not None]))
    return [
        Movement(key, settings, None if p is None else next(adjusted)) for key, settings, p in found
    ]


def _best_quarter(
    points: NDArray[np.float64], log: bool, random: np.random.Generator
) -> NDArray[np.float64]:
    """f[1 + samples]: the mean of the best quarter's values, of the trials and of resamples.

    Args:
        points: f[trials, 2] of value and score.
        log: whether values are on a log scale; then the mean of logarithms.
    """
    values = np.log(points[:, 0]) if log else points[:, 0]
    n = len(points)
    samples = max(200, min(SAMPLES, MAX_SAMPLED_TRIALS // n))
    rows = np.vstack([np.arange(n), random.integers(n, size=(samples, n))])
    order = np.argsort(-points[rows, 1], axis=1, kind="stable")
    top = np.take_along_axis(rows, order, 1)[:, : max(1, round(TOP_FRACTION * n))]
    return values[top].mean(1)


def _original(value: float, log: bool) -> float:
    return float(np.exp(value)) if log else value


def _p_of_order(differences: NDArray[np.float64]) -> float:
    """Two-sided: how often the difference has the other sign, or is none."""
    below, above = (differences <= 0).mean(), (differences >= 0).mean()
    return float(min(1.0, 2 * max(min(below, above), 1 / len(differences))))
