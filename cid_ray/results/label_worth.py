"""How many labels the pool is worth: the number of labels with which supervised training alone
reaches the same score.

The ruler is the label curve of supervised training, fitted by the two power laws of laws.py. All
runs of one repeat share seed and label draw, and the draws of a repeat are nested over the counts.
What they do to all scores alike cancels, as in noise.py; the residual of all methods and counts
together is the noise. The interval is a parametric bootstrap over that noise and both laws: it
reaches from the low end of one law to the high end of the other.

At counts that were not searched, a method is taken to multiply labels by one factor: the geometric
mean of its factors at the counts that were.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from cid_ray.results.laws import PERFECT, Floats, Ladder
from cid_ray.results.noise import Noise, paired_blocks
from cid_ray.results.summary import RatioSummary

LEVEL = 0.95
REACH = 2.0  # the curve tells of half its smallest to twice its largest count
GRID_POINTS = 400
SAMPLES = 1000
MIN_COUNTS = 3  # of the supervised curve
SUPERVISED = "supervised"


@dataclass(frozen=True)
class Labels:
    """A number of labels with its 95 % interval.

    0 and infinity stand for fewer and for more labels than the curve can tell of.
    """

    count: float
    low: float
    high: float

    def record(self) -> dict[str, float | None]:
        """The same for a record; None where the curve cannot tell."""
        ends = {"count": self.count, "low": self.low, "high": self.high}
        return {name: value if 0 < value < np.inf else None for name, value in ends.items()}


class LabelCurve:
    """The supervised label curve, and what other methods are worth on it.

    Args:
        scores: method -> labeled images -> scores in percent, one for each repeat. The i-th score
            belongs to the same repeat everywhere. Two repeats or more.
        seed: of the bootstrap.

    Attributes:
        counts: labels of the supervised curve.
        reach: the fewest and the most labels that it can tell of.

    Raises:
        ValueError: less than three counts of supervised, or less than two repeats.

    Example:
        >>> supervised = {6: [40.0, 40.2], 12: [45.0, 45.2], 24: [49.0, 49.2], 48: [52.0, 52.2]}
        >>> curve = LabelCurve({"supervised": supervised, "cid": {12: [49.1, 49.1]}})
        >>> round(curve.worth("cid", 12).count)
        24
    """

    def __init__(self, scores: Mapping[str, Mapping[int, list[float]]], seed: int = 0):
        self.counts = tuple(sorted(scores[SUPERVISED]))
        noise = Noise(
            {f"{m} {n}": own for m, by_count in scores.items() for n, own in by_count.items()}
        )
        if len(self.counts) < MIN_COUNTS or noise.variance is None:
            raise ValueError(
                f"a label curve needs supervised at {MIN_COUNTS} counts and two repeats, "
                f"got {self.counts} and {noise.num_repeats}"
            )
        # Row 0 is what was measured; the others are as it may have been with other repeats.
        random = np.random.default_rng(seed)
        variance = noise.variance * noise.df / random.chisquare(noise.df, SAMPLES)
        sd = np.concatenate([[0.0], np.sqrt(variance / noise.num_repeats)])
        self._errors: dict[str, dict[int, Floats]] = {
            method: {
                count: PERFECT - np.mean(own) + sd * random.standard_normal(SAMPLES + 1)
                for count, own in sorted(by_count.items())
            }
            for method, by_count in scores.items()
        }
        self.reach = self.counts[0] / REACH, self.counts[-1] * REACH
        self._grid: Floats = np.geomspace(*self.reach, GRID_POINTS)
        errors = np.stack([self._errors[SUPERVISED][count] for count in self.counts], 1)
        self._curves = Ladder(scores[SUPERVISED]).curves(self._grid, np.maximum(errors, 0))

    def worth(self, method: str, count: int) -> Labels:
        """The supervised labels with the score that a method has with `count` labels."""
        return self._labels(self._errors[method][count])

    def labels_for(self, score: float, method: str = SUPERVISED) -> Labels:
        """The labels that a method needs for a score in percent."""
        target = np.full(SAMPLES + 1, PERFECT - score)
        if method == SUPERVISED:
            return self._labels(target)
        counts = self._errors[method]
        with np.errstate(divide="ignore", invalid="ignore"):
            factors = [np.log(self._inverted(self._errors[method][n]) / n) for n in counts]
            return self._labels(target, np.mean(factors, 0))

    def _labels(self, errors: Floats, log_factors: Floats | float = 0.0) -> Labels:
        """The labels for errors f[1 + samples], where a method multiplies labels by a factor."""
        with np.errstate(invalid="ignore"):
            found = self._inverted(errors) / np.exp(log_factors)
        tail = (1 - LEVEL) / 2
        # What cannot be said counts against both ends.
        lows = np.nan_to_num(found[:2, 1:], nan=0.0, posinf=np.inf).min(0)
        highs = np.nan_to_num(found[:2, 1:], nan=np.inf, posinf=np.inf).max(0)
        ends = (
            found[2, 0],
            np.quantile(lows, tail, method="lower"),
            np.quantile(highs, 1 - tail, method="higher"),
        )
        return Labels(*map(float, ends))

    def text(self, labels: Labels) -> str:
        """ "41 (30 to 58)", "41 (30 to more than 96)", "more than 96"."""
        count, low, high = map(self._count_text, (labels.count, labels.low, labels.high))
        return count if low == count == high else f"{count} ({low} to {high})"

    def _count_text(self, count: float) -> str:
        least, most = self.reach
        if count <= least:
            return f"less than {least:.0f}"
        return f"more than {most:.0f}" if count >= most else f"{count:.0f}"

    def _inverted(self, errors: Floats) -> Floats:
        """f[3, 1 + samples]: the count with such an error by the law without a floor, by the law
        with one, and by their mean; 0 or inf beyond the reach.
        """
        curves = np.concatenate([self._curves, self._curves.mean(0, keepdims=True)])
        place = (curves > errors[:, None]).sum(-1)
        inside = self._grid[np.minimum(place, GRID_POINTS - 1)]
        return np.where(place == 0, 0.0, np.where(place == GRID_POINTS, np.inf, inside))


def label_curve(summaries: list[RatioSummary]) -> LabelCurve | None:
    """The label curve of a search, from the repeats that all methods at all ratios share.

    Args:
        summaries: as `summarize` returns them.

    Returns:
        None where supervised was not repeated at three ratios or more.

    Example:
        >>> curve = label_curve(summarize(read_records("runs/demo")))
        >>> curve.worth("cid", 12)
    """
    found: dict[str, dict[Hashable, float]] = {}
    cells: dict[str, tuple[str, int]] = {}
    for summary in summaries:
        key = summary.score_key("test")
        for method, run in summary.repeated_runs(summary.noise("test")).items():
            cell = f"{method} {summary.label_count}"
            cells[cell] = method, summary.label_count
            found[cell] = {
                (final["repeat_index"], final.get("seed"), final.get("draw")): final[key]
                for final in summary.repeats[run]
                if final.get(key) is not None
            }
    scores: dict[str, dict[int, list[float]]] = {}
    paired = paired_blocks(found)
    for cell, own in paired.scores.items():
        method, count = cells[cell]
        scores.setdefault(method, {})[count] = own
    if len(scores.get(SUPERVISED, {})) < MIN_COUNTS or not paired.df:
        return None
    return LabelCurve(scores)
