"""Is a difference real? Repeats of several candidates, analysed as randomized blocks.

Repeat i runs every candidate with the same seed and the same label draw: it is one block.

    score[candidate, repeat] = mean + candidate effect + repeat effect + residual

What seed and draw do to all candidates alike is the repeat effect: it cancels in every difference.
The residual has variance s2 on (n - 1)(m - 1) degrees of freedom (n repeats, m candidates). Two
means over n repeats then differ by chance with a standard error of sqrt(2 s2 / n). The NOISE FLOOR
is the difference that chance alone exceeds one time in twenty: Fisher's least significant
difference (R. A. Fisher, The Design of Experiments, 1935; W. G. Cochran and G. M. Cox, Experimental
Designs, 2nd ed. 1957, ch. 4). It is for one comparison at a time: of many comparisons without any
effect, one in twenty exceeds it.

Several comparisons that are reported together are a family. Holm's step-down correction of their
p-values (S. Holm, Scandinavian Journal of Statistics 6, 1979) keeps the chance of even one false
"above noise" in the family at 5 %.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

PROCEDURE = (
    "paired randomized blocks; floor = t(0.975, df) * sqrt(2 s2 / n), "
    "Fisher's least significant difference, 95 %; p-values of t tests with s2, corrected by Holm"
)
ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """A difference of two means.

    Attributes:
        difference: in points of mIoU.
        p: of the t test with the residual variance.
        adjusted_p: the same after Holm's correction for the family.
    """

    difference: float
    p: float
    adjusted_p: float

    @property
    def above_noise(self) -> bool:
        return self.adjusted_p < ALPHA


@dataclass(frozen=True)
class Noise:
    """Scores of candidates over the same n repeats.

    Variance and floors need two repeats of two candidates, else they are None.
    """

    scores: dict[str, list[float]]  # candidate -> one score per repeat

    @property
    def num_repeats(self) -> int:
        return len(next(iter(self.scores.values()), []))

    @property
    def df(self) -> int:
        """Degrees of freedom of the residual variance."""
        return max(0, self.num_repeats - 1) * max(0, len(self.scores) - 1)

    @property
    def variance(self) -> float | None:
        """Variance of the residual: of the scores without candidate and repeat effects."""
        if not self.df:
            return None
        block = np.array(list(self.scores.values()))  # [candidates, repeats]
        residual = block - block.mean(0) - block.mean(1, keepdims=True) + block.mean()
        return float((residual**2).sum() / self.df)

    @property
    def floor(self) -> float | None:
        """What the difference of two means must exceed to be more than noise."""
        return self._least_difference(self.num_repeats)

    @property
    def single_run_floor(self) -> float | None:
        """The same for two single runs that share seed and draw, as the trials of a search do."""
        return self._least_difference(1)

    def _least_difference(self, repeats: int) -> float | None:
        variance = self.variance
        if variance is None:
            return None
        # Imported here: scipy takes seconds to import, and most commands never get this far.
        from scipy.stats import t

        return float(t.ppf(0.975, self.df) * np.sqrt(2 * variance / repeats))

    def mean(self, candidate: str) -> float:
        return float(np.mean(self.scores[candidate]))

    def sd(self, candidate: str) -> float | None:
        """Standard deviation over the repeats, the repeat effect included."""
        if self.num_repeats < 2:
            return None
        return float(np.std(self.scores[candidate], ddof=1))

    def difference(self, candidate: str, baseline: str) -> float:
        """Mean of the paired differences, which is the difference of the means."""
        return self.mean(candidate) - self.mean(baseline)

    def compare(self, candidate: str, others: Sequence[str]) -> dict[str, Comparison]:
        """A candidate minus each of the others, as one family of comparisons.

        Returns:
            The comparisons, by the name of the other; none without a residual variance.

        Example:
            >>> noise = Noise({"a": [50.0, 52.0, 51.0], "b": [48.0, 49.8, 49.1]})
            >>> noise.compare("a", ["b"])["b"].above_noise
            True
        """
        variance = self.variance
        if variance is None or not others:
            return {}
        from scipy.stats import t  # imported here: it takes seconds

        differences = [self.difference(candidate, other) for other in others]
        error = float(np.sqrt(2 * variance / self.num_repeats))
        # Without any residual a difference is certain, and equal means are no difference.
        p = [
            float(2 * t.sf(abs(d) / error, self.df)) if error else float(d == 0)
            for d in differences
        ]
        adjusted = holm(p)
        return {
            other: Comparison(*values)
            for other, *values in zip(others, differences, p, adjusted, strict=True)
        }


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of a family, in the order given.

    Example:
        >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def paired_blocks(scores: Mapping[str, Mapping[Hashable, float]]) -> Noise:
    """The repeats that all candidates have finished.

    Args:
        scores: candidate -> key of a repeat (number, seed, draw) -> score.

    Returns:
        The complete blocks. A candidate with a single score, where others have more (it failed, or
        the search was stopped), is left out: it would cost the others all their repeats. So is one
        without scores.
    """
    most = max((len(by_repeat) for by_repeat in scores.values()), default=0)
    least = max(1, min(2, most))
    kept = {name: by_repeat for name, by_repeat in scores.items() if len(by_repeat) >= least}
    if not kept:
        return Noise({})
    first = next(iter(kept.values()))
    complete = [key for key in first if all(key in by_repeat for by_repeat in kept.values())]
    if not complete:
        return Noise({})
    return Noise(
        {name: [float(by_repeat[key]) for key in complete] for name, by_repeat in kept.items()}
    )
