"""Is a difference real? Paired repeats of several candidates, read as randomized blocks.

Pair i runs every candidate with the same seed and the same label draw, so the pairs are the blocks:

    score[candidate, pair] = mean + candidate effect + pair effect + residual

What a seed and a draw do to all candidates alike is the pair effect: it cancels in every difference. The residual has
variance s2 on (n - 1)(m - 1) degrees of freedom (n pairs, m candidates); two means over n pairs then differ by chance
with a standard error of sqrt(2 s2 / n), and the NOISE FLOOR is the difference that chance alone exceeds one time in
twenty: Fisher's least significant difference in randomized blocks (R. A. Fisher, The Design of Experiments, 1935;
W. G. Cochran and G. M. Cox, Experimental Designs, 2nd ed. 1957, ch. 4). It is for one comparison at a time: of many
comparisons without any effect, one in twenty exceeds it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

METHOD = "paired randomized blocks; floor = t(0.975, df) * sqrt(2 s2 / n), Fisher's least significant difference, 95 %"


@dataclass(frozen=True)
class Noise:
    """Candidates' scores over the same n pairs; what two pairs and two candidates at least would tell is else None."""

    scores: dict[str, list[float]]  # candidate -> one score a pair

    @property
    def pairs(self) -> int:
        return len(next(iter(self.scores.values()), []))

    @property
    def df(self) -> int:
        return max(0, self.pairs - 1) * max(0, len(self.scores) - 1)

    @property
    def variance(self) -> float | None:
        """Of the residual: what is left of the scores without candidate and pair effects."""
        if not self.df:
            return None
        block = np.array(list(self.scores.values()))
        residual = block - block.mean(0) - block.mean(1, keepdims=True) + block.mean()
        return float((residual**2).sum() / self.df)

    @property
    def floor(self) -> float | None:
        """What the difference of two means must exceed to be more than noise."""
        return self._least_difference(self.pairs)

    @property
    def single_run_floor(self) -> float | None:
        """The same for two single runs that share seed and draw, as the trials of a search do."""
        return self._least_difference(1)

    def _least_difference(self, repeats: int) -> float | None:
        variance = self.variance
        if variance is None:
            return None
        from scipy.stats import t  # seconds to import; most commands never ask

        return float(t.ppf(0.975, self.df) * np.sqrt(2 * variance / repeats))

    def mean(self, candidate: str) -> float:
        return float(np.mean(self.scores[candidate]))

    def sd(self, candidate: str) -> float | None:
        """Over the pairs: what seed and draw do to this candidate's score, the pair effect included."""
        return float(np.std(self.scores[candidate], ddof=1)) if self.pairs > 1 else None

    def difference(self, candidate: str, over: str) -> float:
        """Mean of the paired differences, which is the difference of the means."""
        return self.mean(candidate) - self.mean(over)

    def within_noise(self, difference: float) -> bool | None:
        """Whether a difference of two means is no larger than the floor; None when the floor is not known."""
        return None if self.floor is None else abs(difference) <= self.floor


def blocks(scores: Mapping[str, Mapping[Hashable, float]]) -> Noise:
    """The pairs that every candidate has finished; candidate -> pair -> score.

    A candidate with a single score beside others with more (it failed, or was cut off) would cost them all their
    pairs and is left out; one without scores always is.
    """
    most = max((len(by_pair) for by_pair in scores.values()), default=0)
    kept = {name: by_pair for name, by_pair in scores.items() if len(by_pair) >= max(1, min(2, most))}
    if not kept:
        return Noise({})
    first = next(iter(kept.values()))
    complete = [pair for pair in first if all(pair in by_pair for by_pair in kept.values())]
    return Noise(
        {name: [float(by_pair[pair]) for pair in complete] for name, by_pair in kept.items()} if complete else {}
    )
