"""Equal tries: what a method's best trial would have been had it had fewer tries.

The best of eight tries is higher than the best of one, whatever the method. So methods are compared
at the number of tries that all of them had: the expected best of k of a method's n tries (J. Dodge
et al., Show Your Work, EMNLP 2019), averaged over all subsets of k tries, which is unbiased (R.
Tang et al., Showing Your Work Doesn't Always Work, ACL 2020). A method with nothing to tune needs
no more than one try.

A pruned trial counts with what it would have had at the end: its score, and what the method's
completed trials gained after that step. Failed trials are no tries here. The tries of a sampler
that learns are no random sample, so for such a search this is an approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from cid_ray.results.summary import METHOD_NAMES, RatioSummary

TAIL = 0.025
ROUNDING = 1e-12


@dataclass(frozen=True)
class BestOfTries:
    """The best val mIoU of so many tries.

    Attributes:
        tries: k.
        mean: over all choices of k tries.
        low, high: the range of 95 % of the choices.
    """

    tries: int
    mean: float
    low: float
    high: float


def best_of_tries(scores: Sequence[float], tries: int) -> BestOfTries:
    """The best of `tries` of some scores.

    Args:
        scores: val mIoU in percent of a method's trials, in any order.
        tries: how many of them, from 1 to all.

    Raises:
        ValueError: there are not so many scores.

    Example:
        >>> best_of_tries([50.0, 40.0, 30.0], 2)
        BestOfTries(tries=2, mean=46.666666666666664, low=40.0, high=50.0)
    """
    if not 1 <= tries <= len(scores):
        raise ValueError(f"tries must be from 1 to {len(scores)}, got {tries}")
    ordered = np.sort(np.array(scores, float))
    ranks = np.arange(len(ordered) + 1)
    at_most = np.ones(len(ranks))  # the chance that the best is among so many of the lowest
    for taken in range(tries):
        at_most *= np.maximum(ranks - taken, 0) / (len(ordered) - taken)
    low = ordered[np.argmax(at_most[1:] > TAIL + ROUNDING)]
    high = ordered[np.argmax(at_most[1:] >= 1 - TAIL - ROUNDING)]
    return BestOfTries(tries, float(ordered @ np.diff(at_most)), float(low), float(high))


def scores_of_tries(summary: RatioSummary) -> dict[str, list[float]]:
    """method -> val mIoU of each of its trials at its end, in the order of the records."""
    found: dict[str, list[float]] = {method: [] for method in METHOD_NAMES}
    gains: dict[tuple[str, int], float] = {}
    for score in summary.last_scores():
        if summary.states[score.run] != "failed":
            end = (score.method, score.step)
            if end not in gains:  # of thousands of trials few ends differ
                gains[end] = _gain_after(summary, *end)
            found[score.method].append(score.value + gains[end])
    return {method: scores for method, scores in found.items() if scores}


def _gain_after(summary: RatioSummary, method: str, step: int) -> float:
    """What completed trials of a method gained after a step, on average; 0 without any."""
    gains = []
    for run, rungs in summary.rungs.items():
        curve = {rung["step"]: rung[summary.metric] for rung in rungs}
        if rungs[-1]["method"] == method and summary.states[run] == "complete":
            ends = curve.get(step), rungs[-1][summary.metric]
            if None not in ends:
                gains.append(ends[1] - ends[0])
    return mean(gains) if gains else 0.0


def at_equal_tries(summary: RatioSummary) -> dict[str, BestOfTries]:
    """method -> its best of as many tries as the method with the fewest; {} where all had the same.

    Example:
        >>> at_equal_tries(summarize(read_records("runs/demo"))[0])
        {}
    """
    scores = scores_of_tries(summary)
    counts = {len(own) for method, own in scores.items() if is_tuned(summary, method)}
    if len(counts) < 2:
        return {}
    return {method: best_of_tries(own, min(len(own), *counts)) for method, own in scores.items()}


def is_tuned(summary: RatioSummary, method: str) -> bool:
    """Whether the records show that the search space has a hyperparameter of a method.

    Its search record says so. Before the end of the search the trials do: what took two values in
    them is searched, and what took one may be fixed.
    """
    searched = summary.searches.get(method, {}).get("hyperparameters")
    if searched is not None:
        return bool(searched)
    values: dict[str, set[str]] = {}
    read: set[str] = set()  # by the method
    for rungs in summary.rungs.values():
        params = rungs[-1].get("params") or {}
        for key, value in params.items():
            values.setdefault(key, set()).add(str(value))
        if rungs[-1]["method"] == method:
            read |= params.keys()
    return any(len(values[key]) > 1 for key in read)


def equal_tries_text(summary: RatioSummary) -> str:
    """What tries of different number do to the comparison; "" where all methods had the same."""
    found = at_equal_tries(summary)
    if not found:
        return ""
    scores = scores_of_tries(summary)
    counts = {m: len(own) for m, own in scores.items() if is_tuned(summary, m)}
    given = ", ".join(f"{METHOD_NAMES[method]} {count}" for method, count in counts.items())
    ranked = sorted(found, key=lambda method: -found[method].mean)
    best = ", ".join(
        f"{METHOD_NAMES[method]} {found[method].mean:.2f}{_range(found[method])}"
        for method in ranked
    )
    tries = min(counts.values())
    return (
        f"Tries differ: {given}. At {tries} {'try' if tries == 1 else 'tries'} each the expected "
        f"best val mIoU is: {best}."
    )


def _range(best: BestOfTries) -> str:
    return "" if best.low == best.high else f" ({best.low:.2f} to {best.high:.2f})"
