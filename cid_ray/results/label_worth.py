"""How many labels the pool is worth: the number of labels with which supervised training alone
reaches the same score on test.

The ruler is the label curve of supervised training, fitted by the two power laws of laws.py. All
runs of one repeat share seed and label draw, and the draws of a repeat are nested over the counts.
What they do to all scores alike cancels, as in noise.py; the residual of all methods and counts
together is the noise. The interval is a parametric bootstrap over that noise and both laws: it
reaches from the low end of one law to the high end of the other.

The labels for a target are another question: new labels are another draw. So that interval adds
what repeats show seed and draw to do to all scores. Between the counts of a method the factor by
which it multiplies labels is interpolated; beyond them it stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from cid_ray.results.laws import PERFECT, Floats, Ladder
from cid_ray.results.noise import Noise, paired_blocks
from cid_ray.results.summary import RatioSummary

LEVEL = 0.95
REACH = 2.0  # the curve tells of half its smallest to twice its largest count
GRID_POINTS = 400
SAMPLES = 1000
MIN_COUNTS = 3  # of the supervised curve
MIN_RISE = 0.1  # points of mIoU over the reach
SUPERVISED = "supervised"


@dataclass(frozen=True)
class Labels:
    """A number of labels with its 95 % interval.

    0 and infinity stand for fewer and for more labels than the curve can tell of, NaN for a number
    that cannot be told.
    """

    count: float
    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float, float]:
        return self.count, self.low, self.high

    def record(self, reach: tuple[float, float]) -> dict[str, float | None]:
        """The same for a record: what is beyond the reach of the curve is at its end, NaN is None.

        Example:
            >>> Labels(41.0, 0.0, math.inf).record(reach=(3, 96))
            {'count': 41.0, 'low': 3, 'high': 96}
        """
        least, most = reach
        return {
            name: None if math.isnan(x) else min(max(x, least), most)
            for name, x in asdict(self).items()
        }

    def beyond(self, reach: tuple[float, float]) -> dict[str, str]:
        """Which of the three are beyond the reach, and on which side: "fewer" or "more".

        Example:
            >>> Labels(41.0, 0.0, math.inf).beyond(reach=(3, 96))
            {'low': 'fewer', 'high': 'more'}
        """
        least, most = reach
        sides = {n: "fewer" if x <= least else "more" for n, x in asdict(self).items()}
        return {n: sides[n] for n, x in asdict(self).items() if x <= least or x >= most}


@dataclass(frozen=True)
class Gain:
    """Points of mIoU with their 95 % interval."""

    points: float
    low: float
    high: float


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
        blocks = np.mean(list(noise.scores.values()), axis=0)
        block_variance = float(np.var(blocks, ddof=1))
        shift = np.concatenate([[0.0], random.standard_t(len(blocks) - 1, SAMPLES)])
        # What seed and draw do to the mean of so many repeats, and to one more run.
        self._mean_shift = math.sqrt(block_variance / len(blocks)) * shift
        run_variance = block_variance * (1 + 1 / len(blocks)) + noise.variance
        self._run_shift = math.sqrt(run_variance) * shift
        self.reach = float(math.ceil(self.counts[0] / REACH)), self.counts[-1] * REACH
        self._grid: Floats = np.geomspace(*self.reach, GRID_POINTS)
        errors = np.stack([self._errors[SUPERVISED][count] for count in self.counts], 1)
        ladder = Ladder({float(count): own for count, own in scores[SUPERVISED].items()})
        self._curves = ladder.curves(self._grid, np.maximum(errors, 0))

    @property
    def rises(self) -> bool:
        """Whether the supervised score rises with its labels; else it is no ruler."""
        scores = self.law()[1]
        return bool(scores[-1] - scores[0] > MIN_RISE)

    def has(self, method: str, count: int) -> bool:
        """Whether a method has scores at a count."""
        return count in self._errors.get(method, {})

    def methods_at(self, count: int) -> list[str]:
        """The methods other than supervised that have scores at a count."""
        return [m for m in self._errors if m != SUPERVISED and self.has(m, count)]

    def worth(self, method: str, count: int) -> Labels:
        """The supervised labels with the score that a method has with `count` labels."""
        return _labels(self._inverted(self._errors[method][count]))

    def labels_for(self, score: float, method: str = SUPERVISED) -> Labels:
        """The labels with which a method is expected to reach a score in percent."""
        return _labels(self._needed(score, method, self._mean_shift))

    def needed_by_a_run(self, score: float, method: str) -> Floats:
        """The labels with which one new run reaches it, of a new seed and draw: f[3, 1 + samples],
        by both laws and by their mean; first what is expected.

        0 or inf beyond the reach, NaN where it cannot be told.
        """
        return self._needed(score, method, self._run_shift)

    def _needed(self, score: float, method: str, shift: Floats) -> Floats:
        """The same where seed and draw move a score by `shift`, f[1 + samples]."""
        supervised = self._inverted(PERFECT - score + shift)
        if method == SUPERVISED:
            return supervised
        counts = self._errors[method]
        worths = np.stack([self._inverted(errors) for errors in counts.values()])
        worths[(worths == 0) | np.isinf(worths)] = np.nan  # what they are cannot be told
        with np.errstate(divide="ignore", invalid="ignore"):
            found = _inverse(np.log(supervised), np.log(list(counts)), np.log(worths))
        return np.exp(found)

    def gain(self, method: str, count: int, more: int) -> Gain | None:
        """What `more` labels add to a method's score at `count`, in points.

        None where more than one sample in twenty leaves the reach of the curve.
        """
        errors = self._errors[method][count]
        now = self._inverted(errors)
        then = now * (count + more) / count
        inside = (now > 0) & (then < self.reach[1])
        if not inside[2, 0] or inside[:2].mean() < LEVEL:
            return None
        curves = np.concatenate([self._curves, self._curves.mean(0, keepdims=True)])
        gains = np.full(then.shape, np.nan)
        for law, sample in zip(*np.nonzero(inside), strict=True):
            curve = curves[law, sample]
            ends = np.interp([now[law, sample], then[law, sample]], self._grid, curve)
            gains[law, sample] = ends[0] - ends[1]
        tail = (1 - LEVEL) / 2
        low, high = np.nanquantile(gains[:2, 1:], [tail, 1 - tail])
        return Gain(float(gains[2, 0]), float(low), float(high))

    def law(self) -> tuple[Floats, Floats]:
        """Counts over the reach, and the supervised score in percent that is expected at each."""
        return self._grid, PERFECT - self._curves[:, 0].mean(0)

    def text(self, labels: Labels) -> str:
        """ "41 (30 to 58)", "41 (30 to more than 96)", "more than 96"."""
        return self._text(labels, lambda count: f"{count:.0f}")

    def times_text(self, labels: Labels, own: int) -> str:
        """How many times a method's own labels that is: "1.7 (0.95 to more than 4.0)"."""
        return self._text(labels, lambda n: f"{n / own:.1f}" if n >= own else f"{n / own:.2g}")

    def _text(self, labels: Labels, number_text: Callable[[float], str]) -> str:
        least, most = self.reach

        def end_text(count: float) -> str:
            if math.isnan(count):
                return "an unknown number"
            if count <= least:
                return f"at most {number_text(least)}"
            return f"more than {number_text(most)}" if count >= most else number_text(count)

        count, low, high = map(end_text, labels.ends)
        return count if low == count == high else f"{count} ({low} to {high})"

    def _inverted(self, errors: Floats) -> Floats:
        """f[3, 1 + samples]: the count with such an error by the law without a floor, by the law
        with one, and by their mean; 0 or inf beyond the reach.
        """
        curves = np.concatenate([self._curves, self._curves.mean(0, keepdims=True)])
        place = (curves > errors[:, None]).sum(-1)
        inside = self._grid[np.minimum(place, GRID_POINTS - 1)]
        return np.where(place == 0, 0.0, np.where(place == GRID_POINTS, np.inf, inside))


def _inverse(wanted: Floats, log_counts: Floats, log_worths: Floats) -> Floats:
    """Log labels f[3, samples] whose worth is `wanted`, by the worths f[counts, 3, samples].

    Linear between the counts; beyond them with the factor of the last one.
    """
    worths = np.maximum.accumulate(log_worths, 0)  # more labels are worth no less
    found = wanted + log_counts[0] - worths[0]
    for i in range(len(log_counts) - 1):
        part = np.clip((wanted - worths[i]) / (worths[i + 1] - worths[i]), 0, 1)
        between = log_counts[i] + part * (log_counts[i + 1] - log_counts[i])
        found = np.where(wanted > worths[i], between, found)
    return np.where(wanted > worths[-1], wanted + log_counts[-1] - worths[-1], found)


def _labels(found: Floats) -> Labels:
    """The expected labels and their interval, of f[3, 1 + samples] as `_inverted` has them."""
    tail = (1 - LEVEL) / 2
    # A sample that cannot be told counts against both ends.
    lows = np.nan_to_num(found[:2, 1:], nan=0.0, posinf=np.inf).min(0)
    highs = np.nan_to_num(found[:2, 1:], nan=np.inf, posinf=np.inf).max(0)
    ends = (
        found[2, 0],
        np.quantile(lows, tail, method="lower"),
        np.quantile(highs, 1 - tail, method="higher"),
    )
    return Labels(*map(float, ends))


def label_curve(summaries: list[RatioSummary], split: str = "test") -> LabelCurve | None:
    """The label curve of a search, from the repeats that all methods at all ratios share.

    Args:
        summaries: as `summarize` returns them.
        split: whose scores are taken, test or val.

    Returns:
        None where supervised was not repeated at three ratios or more, or does not rise.

    Example:
        >>> curve = label_curve(summarize(read_records("runs/demo")))
        >>> curve.worth("cid", 12)
    """
    paired = shared_repeats(summaries, split)
    scores: dict[str, dict[int, list[float]]] = {}
    for cell, own in paired.scores.items():
        method, count = cell.split()
        scores.setdefault(method, {})[int(count)] = own
    if len(scores.get(SUPERVISED, {})) < MIN_COUNTS or not paired.df:
        return None
    curve = LabelCurve(scores)
    return curve if curve.rises else None


def shared_repeats(summaries: list[RatioSummary], split: str = "test") -> Noise:
    """The scores of "METHOD COUNT" in the repeats that all methods at all ratios share."""
    found: dict[str, dict[Hashable, float]] = {}
    for summary in summaries:
        for method, run in summary.repeated_runs(summary.noise(split)).items():
            found[f"{method} {summary.label_count}"] = summary.repeat_scores(run, split)
    return paired_blocks(found)
