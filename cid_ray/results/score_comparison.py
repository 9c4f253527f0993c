"""Scores of several runs, method by method: each run minus the first one, and whether chance alone
explains it.

Repeats of two runs are a pair if they share number, seed and label draw, and the split and the
table behind them. What seed and labels do to both alike then cancels in the difference of the pair.
The mean of the differences has a 95 % interval of Student's t distribution with n - 1 degrees of
freedom for n pairs (Student, Biometrika 6, 1908). All means that are judged here together are one
family: "above noise" is p < 0.05 after Holm's correction, as in noise.py. So a difference may be
within noise although its own interval leaves out 0.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cid_ray.results.ladder import half_interval
from cid_ray.results.noise import ALPHA, holm
from cid_ray.results.recorded_run import RecordedRun
from cid_ray.results.records import Record
from cid_ray.results.summary import METHOD_NAMES, RatioSummary, summarize

MIN_PAIRS = 2  # one difference has no spread
Pair = tuple[Hashable, ...]  # what two repeats must share


@dataclass(frozen=True)
class PairedDifference:
    """The mean over pairs of repeats of a run's test mIoU minus the first run's.

    Attributes:
        pairs: number of them.
        mean: in points of mIoU.
        low: low end of its 95 % interval.
        high: the high end.
        p: of the paired t test.
        adjusted_p: after Holm's correction for all differences that are judged together.
    """

    pairs: int
    mean: float
    low: float
    high: float
    p: float
    adjusted_p: float


@dataclass(frozen=True)
class ScoreDifference:
    """A run minus the first one, in points of mIoU; None where it cannot be told.

    Attributes:
        val: of the chosen runs.
        test: of the chosen runs.
        paired: of their repeats.
        judgement: "above noise", "within noise" or "no difference" of `paired`; else "".
        reason: why there is no judgement, else "".
    """

    val: float | None
    test: float | None
    paired: PairedDifference | None
    judgement: str
    reason: str


@dataclass(frozen=True)
class MethodScores:
    """One method at one label ratio in one run; None where nothing was measured.

    Attributes:
        ratio_name: the ratio with its number of labels.
        chosen: name of the chosen run.
        val: its mIoU in percent at the last step.
        test: the same on test.
        seconds: of its training.
        repeats: of the chosen run that have finished.
        mean: their test mIoU.
        sd: its standard deviation.
        tries: trials without repeats, those that failed included.
        difference: to the first run; None in that run, and where it lacks the method.
    """

    ratio_name: str
    chosen: str | None
    val: float | None
    test: float | None
    seconds: float | None
    repeats: int
    mean: float | None
    sd: float | None
    tries: int
    difference: ScoreDifference | None


@dataclass(frozen=True)
class MethodComparison:
    """One method at one label ratio: name of the run -> its scores, of the runs that have it."""

    ratio: str
    method: str
    runs: dict[str, MethodScores]


@dataclass(frozen=True)
class Measured:
    """One method at one ratio, as the records of one run have it."""

    run: RecordedRun
    summary: RatioSummary
    method: str

    @property
    def final(self) -> Record:
        """The final record of the chosen run; {} without one."""
        return self.summary.chosen.get(self.method, {})

    @cached_property
    def repeats(self) -> dict[Pair, float]:
        """What makes a pair -> test mIoU, of the finished repeats of the chosen run."""
        key = self.summary.score_key("test")
        return {
            tuple(end.get(n) for n in ("repeat_index", "seed", "draw", "data", "split_id")): score
            for end in self.summary.repeats.get(self.final.get("run", ""), [])
            if (score := end.get(key)) is not None
        }

    def images(self, split: str) -> Pair:
        """What names the images of a split; () without a chosen run.

        A table names them, unless they are a part of the label budget.
        """
        if not self.final:
            return ()
        is_val = split == "val" or self.final.get("test_is_val", False)
        of_budget = is_val and self.run.config.data.val_from_budget > 0
        table_split = self.final.get("test_split", "test") if split == "test" else split
        return self.final["data"], table_split, self.final["split_id"] if of_budget else ""


Grid = dict[tuple[str, str], dict[str, Measured]]  # ratio, method -> name of the run -> measured


def measure(runs: Sequence[RecordedRun]) -> Grid:
    """Sort the records of all runs by ratio and method, fewest labels first."""
    found: list[tuple[int, str, str, Measured]] = []
    for run in runs:
        for summary in summarize(run.records, run.metric):
            seen = {summary.method_of(name) for name in summary.rungs} | summary.chosen.keys()
            found += [
                (summary.label_count, summary.ratio, method, Measured(run, summary, method))
                for method in seen
            ]
    methods = list(METHOD_NAMES)
    counts: dict[str, int] = {}
    for count, ratio, _, _ in found:
        counts.setdefault(ratio, count)
    found.sort(key=lambda each: (counts[each[1]], each[1], methods.index(each[2])))
    grid: Grid = {}
    for _, ratio, method, measured in found:
        grid.setdefault((ratio, method), {})[measured.run.name] = measured
    return grid


def compare_scores(grid: Grid, first: str) -> list[MethodComparison]:
    """Every method at every ratio, each run minus the run named `first`."""
    paired = _paired_differences(grid, first)
    return [
        MethodComparison(
            ratio,
            method,
            {
                name: _scores(
                    each,
                    _difference(by_run[first], each, paired.get((ratio, method, name)))
                    if first in by_run and name != first
                    else None,
                )
                for name, each in by_run.items()
            },
        )
        for (ratio, method), by_run in grid.items()
    ]


def _scores(measured: Measured, difference: ScoreDifference | None) -> MethodScores:
    summary, method = measured.summary, measured.method
    repeats = list(measured.repeats.values())
    return MethodScores(
        ratio_name=summary.name,
        chosen=measured.final.get("run"),
        val=summary.score(method, "val"),
        test=summary.score(method, "test"),
        seconds=measured.final.get("seconds"),
        repeats=len(repeats),
        mean=statistics.mean(repeats) if repeats else None,
        sd=statistics.stdev(repeats) if len(repeats) > 1 else None,
        tries=len(set(_tries(measured))),
        difference=difference,
    )


def _tries(measured: Measured) -> Iterator[str]:
    """Names of the trials, those included that failed before their first score."""
    for record in measured.run.records:
        if (
            record["event"] in ("rung", "final", "trial", "failed")
            and record["ratio"] == measured.summary.ratio
            and record["method"] == measured.method
            and not record["repeats_of"]
        ):
            yield record["run"]


def _difference(
    first: Measured, other: Measured, paired: PairedDifference | None
) -> ScoreDifference:
    reason = "" if paired else _why_not_judged(first, other)
    return ScoreDifference(
        val=_chosen_difference(first, other, "val"),
        test=_chosen_difference(first, other, "test"),
        paired=paired,
        judgement=_judgement(paired) if paired else "",
        reason=reason,
    )


def _chosen_difference(first: Measured, other: Measured, split: str) -> float | None:
    """Of the chosen runs; None where the images differ."""
    scores = [each.summary.score(each.method, split) for each in (first, other)]
    if scores[0] is None or scores[1] is None or first.images(split) != other.images(split):
        return None
    return scores[1] - scores[0]


def _judgement(paired: PairedDifference) -> str:
    if paired.low == paired.high == 0:
        return "no difference"
    return "above noise" if paired.adjusted_p < ALPHA else "within noise"


def _why_not_judged(first: Measured, other: Measured) -> str:
    unfinished = [each.run.name for each in (first, other) if not each.final]
    if unfinished:
        return f"no chosen run in {' and '.join(unfinished)}"
    if first.images("test") != other.images("test"):
        return "different data"
    without = [each.run.name for each in (first, other) if not each.repeats]
    if len(without) == 2:
        return "one seed"
    if without:
        return f"no repeats in {without[0]}"
    shared = first.repeats.keys() & other.repeats.keys()
    return "one shared repeat" if shared else "no shared repeats"


def _paired_differences(grid: Grid, first: str) -> dict[tuple[str, str, str], PairedDifference]:
    """(ratio, method, run) -> its difference to the first run, where enough repeats are paired."""
    found = {}
    for (ratio, method), by_run in grid.items():
        if first not in by_run:
            continue
        for name, other in by_run.items():
            gains = paired_gains(by_run[first].repeats, other.repeats)
            if name != first and len(gains) >= MIN_PAIRS:
                found[ratio, method, name] = gains
    p_values = [paired_p(gains) for gains in found.values()]
    differences = {}
    for (key, gains), p, adjusted_p in zip(found.items(), p_values, holm(p_values), strict=True):
        mean, half = statistics.mean(gains), half_interval(gains)
        differences[key] = PairedDifference(
            len(gains), mean, mean - half, mean + half, p, adjusted_p
        )
    return differences


def paired_gains(first: Mapping[Pair, float], other: Mapping[Pair, float]) -> list[float]:
    """Other minus first, of each pair.

    Example:
        >>> paired_gains({(1, 100): 40.0, (2, 101): 42.0}, {(1, 100): 41.5, (2, 999): 45.0})
        [1.5]
    """
    return [other[key] - score for key, score in first.items() if key in other]


def paired_p(gains: Sequence[float]) -> float:
    """Two-sided p-value of the paired t test of at least two differences.

    Without any spread a mean is certain: p is 0, or 1 of a mean of 0.
    """
    from scipy.stats import t  # imported here: it takes seconds

    mean = statistics.mean(gains)
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    return float(2 * t.sf(abs(mean) / error, len(gains) - 1)) if error else float(mean == 0)
