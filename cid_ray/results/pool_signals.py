"""Health without labels: what the networks say of pool images, and would it have ranked the trials?

The signals are those that training/pool_signals.py records at each rung and the share of
pseudo-labels above their threshold; the calibration error on val, which needs its labels, stands
beside them. Kendall's tau (tau-b) compares the order that a signal gives the trials of a ratio with
that of their val mIoU: 1 is the same order, -1 the reverse, 0 chance. Only trials of one method are
compared with each other: a signal that tells methods apart does not rank their trials. p is that of
a permutation test within methods; all signals at all ratios are one family, corrected by Holm.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cid_ray.results.formatting import format_p
from cid_ray.results.noise import ALPHA, holm
from cid_ray.results.records import Record
from cid_ray.results.summary import METHOD_NAMES, RatioSummary, compared

NAMES = {
    "agreement": "student and teacher agree",
    "confidence": "mean confidence",
    "confident": "confidence above 95 %",
    "prior_distance": "class shares differ from the labels'",
    "mask_ratio": "pseudo-labels above the threshold",
    "ece": "calibration error on val, with its labels",
}
WITH_LABELS = "ece"
WITHOUT_PSEUDO_LABELS = ("supervised", "pool_bn")
MIN_TRIALS = 10  # the interval covers 89 % there, with six 46 %
MIN_TRIALS_OF_METHOD = 3
MAX_TRIALS = 100  # of more trials evenly spaced ones: each resample compares all pairs
SAMPLES = 2000  # of the bootstrap and of the permutations
Trial = tuple[str, dict[str, float], float]  # method, signals, val mIoU


@dataclass(frozen=True)
class Ranking:
    """Kendall's tau between a signal and val mIoU.

    Attributes:
        signal: key of NAMES.
        ratio: with its number of labels.
        trials: completed ones that have both, of methods with three or more.
        tau: -1 to 1.
        low, high: 95 % interval, bootstrap over trials.
        p: that the order is chance, after Holm's correction.
    """

    signal: str
    ratio: str
    trials: int
    tau: float
    low: float
    high: float
    p: float

    @property
    def above_noise(self) -> bool:
        return self.p < ALPHA

    def text(self) -> str:
        """ "0.62 (0.21 to 0.88)"."""
        return f"{self.tau:.2f} ({self.low:.2f} to {self.high:.2f})"


def signals_of(rung: Record) -> dict[str, float]:
    """Key of NAMES -> percent, of those that a rung's record has."""
    pool: dict[str, Any] = rung.get("pool_signals") or {}
    found = {key: pool.get(key) for key in NAMES}
    found["ece"] = rung.get("val/ece_teacher")
    ratio = rung["losses"].get("mask_ratio")
    if ratio is not None and rung["method"] not in WITHOUT_PSEUDO_LABELS:
        found["mask_ratio"] = 100 * ratio
    return {key: value for key, value in found.items() if value is not None}


def rankings(summaries: list[RatioSummary], seed: int = 0) -> list[Ranking]:
    """How well each signal ranks the completed trials of each ratio; repeats are left out.

    Example:
        >>> for ranking in rankings(summarize(read_records("runs/demo"))):
        ...     print(ranking.ratio, ranking.signal, ranking.text())
    """
    found = []
    for summary in compared(summaries):
        trials = _completed(summary)
        if not any("agreement" in signals for _, signals, _ in trials):
            continue  # records of before the signals
        for signal in NAMES:
            ranking = _rank(summary.name, signal, trials, np.random.default_rng(seed))
            if ranking is not None:
                found.append(ranking)
    adjusted = holm([each.p for each in found])
    return [replace(each, p=p) for each, p in zip(found, adjusted, strict=True)]


def _completed(summary: RatioSummary) -> list[Trial]:
    """The trials that were trained to the end."""
    scores = [score for score in summary.last_scores() if score.full_length]
    evenly = np.linspace(0, len(scores) - 1, min(MAX_TRIALS, len(scores))).round().astype(int)
    return [
        (scores[i].method, signals_of(summary.rungs[scores[i].run][-1]), scores[i].value)
        for i in evenly.tolist()
    ]


def _rank(
    ratio: str, signal: str, trials: list[Trial], random: np.random.Generator
) -> Ranking | None:
    """None with too few trials, or where one of the two is the same in all of a method."""
    having = [trial for trial in trials if signal in trial[1]]
    counts = Counter(method for method, _, _ in having)
    having = [trial for trial in having if counts[trial[0]] >= MIN_TRIALS_OF_METHOD]
    if len(having) < MIN_TRIALS:
        return None
    methods = np.array([method for method, _, _ in having])
    one, other = (
        np.sign(np.subtract.outer(values, values))
        for values in (
            np.array([signals[signal] for _, signals, _ in having]),
            np.array([miou for _, _, miou in having]),
        )
    )
    same = methods[:, None] == methods
    scale = np.sqrt((one**2 * same).sum() * (other**2 * same).sum())
    if scale == 0:
        return None
    tau = float((one * other * same).sum() / scale)
    p = _chance(one * same, other, methods, abs(tau) * scale, random)
    low, high = _interval(one, other, same, methods, random)
    return Ranking(signal, ratio, len(having), tau, low, high, p)


def _within(methods: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(methods == method) for method in np.unique(methods)]


def _chance(
    one: np.ndarray,
    other: np.ndarray,
    methods: np.ndarray,
    observed: float,
    random: np.random.Generator,
) -> float:
    """How often scores that are shuffled within methods agree as much, either way."""
    order = np.arange(len(methods))
    hits = 0
    for _ in range(SAMPLES):
        for places in _within(methods):
            order[places] = random.permutation(places)
        hits += abs((one * other[order][:, order]).sum()) >= observed - 1e-9
    return (1 + hits) / (1 + SAMPLES)


def _interval(
    one: np.ndarray,
    other: np.ndarray,
    same: np.ndarray,
    methods: np.ndarray,
    random: np.random.Generator,
) -> tuple[float, float]:
    """95 % of tau over trials that are resampled within methods.

    A resample is a count for each trial, so tau-b is three quadratic forms of the counts.
    """
    draws = np.zeros((SAMPLES, len(methods)))
    for places in _within(methods):
        count = len(places)
        draws[:, places] = random.multinomial(count, np.full(count, 1 / count), SAMPLES)
    agree, first, second = (
        ((draws @ (form * same)) * draws).sum(1) for form in (one * other, one**2, other**2)
    )
    taus = agree / np.sqrt(np.maximum(first * second, 1e-12))
    low, high = np.quantile(taus, [ALPHA / 2, 1 - ALPHA / 2]).tolist()
    return low, high


def ranking_sentence(found: list[Ranking]) -> str:
    """Which signal one could have chosen by; "" without a signal."""
    without = [each for each in found if each.signal != WITH_LABELS]
    if not without:
        return ""
    best = max(without, key=lambda each: (each.above_noise, abs(each.tau)))
    if not best.above_noise:
        return "No signal without labels ranks these trials as val does, beyond chance."
    reverse = " in reverse" if best.tau < 0 else ""
    return (
        f"Of the signals without labels, '{NAMES[best.signal]}' ranks trials most like val"
        f"{reverse}: Kendall's tau {best.text()} over {best.trials} trials at {best.ratio}, "
        f"{format_p(best.p)}."
    )


def ranking_table(found: list[Ranking]) -> list[tuple[str, dict[str, str]]]:
    """Name of each signal, and for each ratio its tau; marked where it is above noise."""
    return [
        (
            NAMES[signal],
            {
                each.ratio: f"{each.text()}{' *' if each.above_noise else ''}"
                for each in found
                if each.signal == signal
            },
        )
        for signal in dict.fromkeys(each.signal for each in found)
    ]


def health_table(summary: RatioSummary) -> list[tuple[str, dict[str, float]]]:
    """Name of each method with a chosen run, and the signals of its last rung."""
    found = []
    for method, final in summary.chosen.items():
        rungs = summary.rungs.get(final["run"])
        if rungs and (signals := signals_of(rungs[-1])):
            found.append((METHOD_NAMES[method], signals))
    return found


def class_share_table(summary: RatioSummary) -> tuple[list[str], list[tuple[str, list[float]]]]:
    """How often each class is seen, in percent of the pixels: in the labels, and in the pool.

    Returns:
        The columns, "labels" and then the methods with a chosen run, and a row for each class.
    """
    columns: dict[str, dict[str, float]] = {}
    for method, final in summary.chosen.items():
        rungs = summary.rungs.get(final["run"], [])
        pool = (rungs[-1].get("pool_signals") or {}) if rungs else {}
        if pool:
            columns.setdefault("labels", pool["label_shares"])
            columns[METHOD_NAMES[method]] = pool["class_shares"]
    classes = columns.get("labels", {})
    rows = [(name, [shares.get(name, 0.0) for shares in columns.values()]) for name in classes]
    return list(columns), rows
