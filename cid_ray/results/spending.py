"""Labels or GPU-hours: what the next $100 would bring in labels, in tries and in longer training.

Each kind is a doubling, or less where $100 buys less. All gains are on val, so they can be
compared: trials and rungs are scored there only, and test must not decide what to do next. Labels:
the label curve of val (label_worth.py). Tries: the best of more tries, as if the scores above the
median were those of a normal distribution; what repeats show to be luck of seeds is taken off.
Longer training: the two power laws (laws.py) through the rungs of the chosen run. Where the records
do not suffice, the text says what to measure.

Ways are compared by their gain for the same budget, not by gain per dollar: the first try or label
always brings the most per dollar, and the next ones bring less.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cid_ray.config.search_schema import PricesConfig
from cid_ray.results.formatting import format_duration
from cid_ray.results.label_worth import LEVEL, Gain, LabelCurve
from cid_ray.results.laws import Ladder, forecast_score
from cid_ray.results.summary import METHOD_NAMES, RatioSummary
from cid_ray.results.tries import is_tuned, scores_of_tries

BUDGET_USD = 100.0
MIN_TRIES = 4
MIN_RUNGS = 3
SPLIT = "val"  # of all gains
UPPER_DF = 0.4  # per trial, of the variance above the median: as in simulated normal samples
TOO_DEAR = f"costs more than ${BUDGET_USD:.0f}"


@dataclass(frozen=True)
class Spending:
    """One way to spend.

    Attributes:
        kind: labels, tries or training.
        what: in words, such as "24 more labels".
        usd: what it costs; None: no price is known.
        gain: on val; None where it cannot be told.
        missing: why there is no gain, and what to measure.
        note: on how the gain is measured.
    """

    kind: str
    what: str
    usd: float | None
    gain: Gain | None
    missing: str = ""
    note: str = ""

    def text(self) -> str:
        """ "24 more labels ($48.00): +1.90 (+0.40 to +3.20) mIoU on val"."""
        cost = "" if self.usd is None else f" ({_usd_text(self.usd)})"
        if self.gain is None:
            return f"{self.what}{cost}: {self.missing}"
        points, low, high = self.gain.points, self.gain.low, self.gain.high
        note = f", {self.note}" if self.note else ""
        return f"{self.what}{cost}: {points:+.2f} ({low:+.2f} to {high:+.2f}) mIoU on {SPLIT}{note}"

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "split": SPLIT}


def ways_to_spend(
    summary: RatioSummary, curve: LabelCurve | None, prices: PricesConfig
) -> list[Spending]:
    """The next labels, tries and steps of the best method at one ratio; none before it is known.

    Args:
        summary: of the ratio.
        curve: the label curve of the search on val, if there is one.
        prices: of a label and of an hour.
    """
    method = best_method(summary)
    if method is None:
        return []
    ways = [_labels(summary, method, curve, prices)]
    tuned = best_method(summary, tuned_only=True)
    if tuned and any(summary.method_of(run) == tuned for run in summary.rungs):
        ways.append(_tries(summary, tuned, prices))
    return [*ways, _training(summary, method, prices)]


def best_method(summary: RatioSummary, tuned_only: bool = False) -> str | None:
    """The method with the best mean over repeats on val, else with the best chosen run."""
    noise = summary.noise("val")
    runs = summary.repeated_runs(noise)
    scores = {method: noise.mean(run) for method, run in runs.items()}
    if not scores:
        found = {method: summary.score(method, "val") for method in summary.chosen}
        scores = {method: score for method, score in found.items() if score is not None}
    methods = [m for m in scores if is_tuned(summary, m) or not tuned_only]
    return max(methods, key=lambda method: scores[method], default=None)


def recommendation(ways: list[Spending]) -> str:
    """Which way to go first, in one sentence; "" without any."""
    paying = [way for way in ways if way.gain and way.gain.low > 0]
    if not ways:
        return ""
    if not paying:
        return (
            "Next: no way to spend is shown to pay; more repeats (search.repeats.n) or points of "
            "the label curve (search.supervised_ratios) would tell."
        )
    priced = [way.usd is not None for way in paying]
    if any(priced) and not all(priced):
        return (
            "Next: ways are not compared while only one of prices.label and prices.hour is known."
        )
    best, *others = sorted(paying, key=lambda way: -way.gain.points)  # type: ignore[union-attr]
    reason = "No other way is shown to pay"
    if others:
        reason = "Of the ways that are shown to pay it is expected to gain most"
        reason += f" for at most ${BUDGET_USD:.0f}" if all(priced) else " by a doubling"
    remedy = "" if all(priced) else "; with prices.label and prices.hour costs are compared too"
    return f"Next: {best.text()}. {reason}{remedy}."


def _labels(
    summary: RatioSummary, method: str, curve: LabelCurve | None, prices: PricesConfig
) -> Spending:
    count = summary.label_count
    more, usd = _affordable(count, prices.label)
    gain = None
    missing = "cannot be told; it needs a supervised label curve that rises on val"
    if _is_too_dear(usd):
        missing = TOO_DEAR
    elif curve is not None and curve.has(method, count):
        gain = curve.gain(method, count, more)
        missing = (
            f"cannot be told; the label curve ends at {curve.reach[1]:.0f} supervised labels: add "
            "a larger ratio to search.supervised_ratios"
        )
    what = f"{more} more {'label' if more == 1 else 'labels'}"
    return Spending("labels", what, usd, gain, "" if gain else missing)


def _affordable(most: int, usd_each: float | None) -> tuple[int, float | None]:
    """How many of at most so many the budget buys, and what they cost; all where no price is known,
    and one where it buys none.
    """
    if usd_each is None:
        return most, None
    more = most if usd_each * most <= BUDGET_USD else max(1, int(BUDGET_USD / usd_each))
    return more, more * usd_each


def _is_too_dear(usd: float | None) -> bool:
    return usd is not None and round(usd, 2) > BUDGET_USD


def _usd_text(usd: float) -> str:
    return "less than $0.01" if usd < 0.01 else f"${usd:.2f}"


def _tries(summary: RatioSummary, method: str, prices: PricesConfig) -> Spending:
    scores = scores_of_tries(summary).get(method, [])
    tries = len(scores)
    seconds = _seconds_per_try(summary, method)
    usd_each = None if prices.hour is None else prices.hour * seconds / 3600
    more, usd = _affordable(max(tries, 1), usd_each)
    tries_text = "try" if more == 1 else "tries"
    what = f"{more} more {tries_text} of {METHOD_NAMES[method]} ({format_duration(seconds * more)})"
    if _is_too_dear(usd):
        return Spending("tries", what, usd, None, TOO_DEAR)
    if tries < MIN_TRIES:
        missing = f"cannot be told; {MIN_TRIES} trials tell (search.trials)"
        return Spending("tries", what, usd, None, missing)
    per_sd = expected_maximum(tries + more) - expected_maximum(tries)
    luck = summary.noise("val").variance
    points, low, high = (_part_without_luck(sd, luck or 0.0) * per_sd for sd in _upper_sd(scores))
    if luck is None:  # all of it may be luck
        return Spending("tries", what, usd, Gain(points, 0.0, high), note="luck not measured")
    return Spending("tries", what, usd, Gain(points, low, high), note="without luck")


def _upper_sd(scores: list[float]) -> tuple[float, float, float]:
    """The standard deviation that the scores above the median have around it, with its interval.

    That of all scores in a normal distribution. Trials that fail, fewer than half, do not widen
    it: they say nothing of the best.
    """
    from scipy.stats import chi2

    above = np.maximum(np.array(scores) - np.median(scores), 0)
    sd = float(np.sqrt(2 * (above**2).sum() / (len(scores) - 1)))
    df = UPPER_DF * len(scores)
    tail = (1 - LEVEL) / 2
    low, high = (float(sd * np.sqrt(df / chi2.ppf(p, df))) for p in (1 - tail, tail))
    return sd, low, high


def _part_without_luck(sd: float, luck: float) -> float:
    """What a trial that is one `sd` better on val is better in truth.

    Of the variance of trials' scores `luck` is that of seeds, which repeats have measured.
    """
    return max(0.0, sd**2 - luck) / sd if sd else 0.0


def expected_maximum(count: int) -> float:
    """The expected largest of some standard normal numbers.

    Example:
        >>> round(expected_maximum(2), 4)  # 1 / sqrt(pi)
        0.5642
    """
    from scipy.stats import norm

    x = np.linspace(-10, 10, 4001)
    density = count * norm.pdf(x) * norm.cdf(x) ** (count - 1)
    return float((x * density).sum() * (x[1] - x[0]))


def _seconds_per_try(summary: RatioSummary, method: str) -> float:
    """Mean seconds of a method's trials, the pruned ones too."""
    own = [
        rungs[-1]["seconds"] for rungs in summary.rungs.values() if rungs[-1]["method"] == method
    ]
    return float(np.mean(own))


def _training(summary: RatioSummary, method: str, prices: PricesConfig) -> Spending:
    run = str(summary.chosen[method]["run"])
    seconds = float(summary.chosen[method]["seconds"])
    rungs = {
        float(rung["step"]): [rung[summary.metric]]
        for rung in summary.rungs.get(run, [])
        if rung[summary.metric] is not None
    }
    steps = int(summary.chosen[method]["step"])
    usd_each = None if prices.hour is None else prices.hour * seconds / 3600 / steps
    more, usd = _affordable(steps, usd_each)
    steps_text = "step" if more == 1 else "steps"
    what = f"{more} more {steps_text} of training ({format_duration(seconds * more / steps)})"
    if _is_too_dear(usd):
        return Spending("training", what, usd, None, TOO_DEAR)
    if len(rungs) < MIN_RUNGS:
        missing = f"cannot be told; {MIN_RUNGS} rungs tell (train.rungs)"
        return Spending("training", what, usd, None, missing)
    last = max(rungs)
    then = forecast_score(rungs, last + more)
    law = Ladder(rungs)
    now = 100 - float(law.errors_at(last, law.mean_errors[None]).mean())
    gain = Gain(then.score - now, then.low - now, then.high - now)
    return Spending("training", what, usd, gain)
