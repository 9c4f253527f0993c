"""What a ladder of labels or of the pool says: a table, a figure, and what to do in words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from cid_ray.results.figures import GRAY, add_legend, new_figure, to_svg
from cid_ray.results.formatting import format_duration, format_mean, format_signed
from cid_ray.results.label_worth import MIN_COUNTS, SUPERVISED, LabelCurve, Labels
from cid_ray.results.ladder import (
    Curve,
    LadderForecast,
    curves_of,
    failed_lines,
    forecasts_of,
    half_interval,
    ladder_of,
    with_repeat_noise,
)
from cid_ray.results.ladder_records import Numbers, forecast_record, recommendation_record
from cid_ray.results.laws import forecast_score
from cid_ray.results.records import Record
from cid_ray.results.summary import COLORS, METHOD_NAMES

UNITS = {"labels": "labels", "pool": "pool images"}
LAW_POINTS = 24  # of the figure
LAW_SAMPLES = 300  # of the bootstrap, at each of them
HEADER = ("method", "count", "test mIoU (repeats)", "over the count before", "training")


def rows(records: list[Record]) -> list[tuple[str, ...]]:
    """The rows below HEADER: a count of a method each, fewest first."""
    ladder = ladder_of(records)
    found: list[tuple[str, ...]] = []
    for curve in curves_of(ladder, records):
        before = None
        for count in curve.counts:
            samples = curve.samples(count)
            gain = "" if before is None else gain_text(curve, count, before)
            found.append(
                (
                    METHOD_NAMES[curve.method],
                    f"{count:g} {UNITS[ladder]}",
                    f"{format_mean(curve.mean(count), curve.sd(count))} ({len(samples)})",
                    gain,
                    format_duration(curve.seconds[count]),
                )
            )
            before = count
    return found


def gain_of(curve: Curve, count: float, other: float) -> tuple[float, float | None]:
    """The paired gain and half of its 95 % interval; None for a single repeat."""
    return curve.gain(count, other) or (curve.mean(count) - curve.mean(other), None)


def gain_text(curve: Curve, count: float, other: float) -> str:
    """ "+2.10 ± 0.80": the paired gain with its 95 % interval; without it for a single repeat."""
    gain, half = gain_of(curve, count, other)
    return format_signed(gain) + ("" if half is None else f" ± {half:.2f}")


def conclusions(records: list[Record]) -> list[Record]:
    """The `forecast` records and the `recommendation` of each method."""
    ladder = ladder_of(records)
    found: list[Record] = []
    ruler = label_curve_of(ladder, records)
    for curve in curves_of(ladder, records):
        forecasts = forecasts_of(curve)
        found += [forecast_record(ladder, curve.method, one) for one in forecasts]
        numbers: Numbers = {}
        counts = curve.counts
        if ladder == "labels" and forecasts:
            numbers["gain_of_double"] = forecasts[-1].forecast.score - curve.mean(counts[-1])
        if ladder == "pool" and len(counts) > 1:
            numbers = gain_numbers(curve, counts[-1], counts[0])
        steps = {f"{c:g}": gain_numbers(curve, c, b) for b, c in itertools.pairwise(counts)}
        if ruler is not None:
            numbers |= {"reach_low": ruler.reach[0], "reach_high": ruler.reach[1]}
            for count, labels in _worths(ruler, curve).items():
                steps[f"{count:g}"] = steps.get(f"{count:g}", {}) | {
                    f"supervised_labels_{end}": number
                    for end, number in labels.record(ruler.reach).items()
                }
        found.append(recommendation_record(ladder, curve.method, numbers=numbers, by_count=steps))
    return found


def gain_numbers(curve: Curve, count: float, other: float) -> Numbers:
    gain, half = gain_of(curve, count, other)
    return {"gain": gain, "gain_half_interval": half}


def label_curve_of(ladder: str, records: list[Record]) -> LabelCurve | None:
    """The supervised label curve of a label ladder, with what other methods have on it.

    None without supervised at three counts, without two repeats that all counts share, or where
    supervised does not rise.
    """
    curves = {curve.method: curve for curve in curves_of(ladder, records)}
    supervised = curves.get(SUPERVISED)
    if ladder != "labels" or supervised is None or len(supervised.counts) < MIN_COUNTS:
        return None
    every = [set(own) for curve in curves.values() for own in curve.scores.values()]
    shared = sorted(set.intersection(*every))
    if len(shared) < 2:
        return None
    ruler = LabelCurve(
        {
            method: {int(n): [own[i] for i in shared] for n, own in curve.scores.items()}
            for method, curve in curves.items()
        }
    )
    return ruler if ruler.rises else None


def _worths(ruler: LabelCurve, curve: Curve) -> dict[float, Labels]:
    """Count -> the supervised labels with the same score; {} for supervised itself."""
    if curve.method == SUPERVISED:
        return {}
    return {count: ruler.worth(curve.method, int(count)) for count in curve.counts}


def lines(records: list[Record]) -> list[str]:
    """Sentences: how good the law was, what it expects, and what that means."""
    ladder = ladder_of(records)
    found: list[str] = []
    ruler = label_curve_of(ladder, records)
    for curve in curves_of(ladder, records):
        found += _curve_lines(ladder, curve)
        if ruler is not None:
            found += [
                f"{METHOD_NAMES[curve.method]}: {count:g} labels do the work of "
                f"{ruler.text(labels)} supervised labels"
                for count, labels in _worths(ruler, curve).items()
            ]
    return [*found, *failed_lines(records)]


def _curve_lines(ladder: str, curve: Curve) -> Iterator[str]:
    name, unit = METHOD_NAMES[curve.method], UNITS[ladder]
    forecasts = forecasts_of(curve)
    for one in forecasts:
        if one.measured is not None:
            yield (
                f"{name}: {one.count:g} {unit} were forecast from the counts below as "
                f"{describe_forecast(one)}, and measured as {one.measured:.2f}"
            )
    if ladder == "pool":
        yield f"{name}: {_pool_advice(curve)}"
    if not forecasts:
        yield f"{name}: a forecast needs three counts or more, this ladder has {len(curve.counts)}"
    elif ladder == "labels":
        yield f"{name}: {_label_advice(curve, forecasts)}"


def describe_forecast(one: LadderForecast) -> str:
    """ "63.10 (60.90 to 65.30)"."""
    forecast = one.forecast
    return f"{forecast.score:.2f} ({forecast.low:.2f} to {forecast.high:.2f})"


def _label_advice(curve: Curve, forecasts: list[LadderForecast]) -> str:
    """What to think of twice as many labels. "More labels pay" needs a law that has not failed."""
    *checked, double = forecasts
    largest = curve.counts[-1]
    now = curve.mean(largest)
    expected = (
        f"{double.count:g} labels are expected at {describe_forecast(double)} mIoU, "
        f"{format_signed(double.forecast.score - now)} over {largest:g}"
    )
    for one in checked:
        if one.measured is not None and not one.forecast.low <= one.measured <= one.forecast.high:
            return f"{expected}; but the law missed {one.count:g} labels, so do not rely on it"
    last = curve.gain(largest, curve.counts[-2])
    if last is None:
        return f"{expected}; with one repeat nothing can be told from noise: set scale.repeats=3"
    if last[0] > 0 and double.forecast.low > now + half_interval(curve.samples(largest)):
        return f"{expected}: more labels pay"
    return f"{expected}: whether more labels pay cannot be told from these counts and repeats"


def _pool_advice(curve: Curve) -> str:
    """What the whole pool adds to its smallest part, and what its last step added."""
    if len(curve.counts) < 2:
        return "a single count says nothing about more or less of the pool"
    least, before, largest = curve.counts[0], curve.counts[-2], curve.counts[-1]
    whole = f"{largest:g} pool images over {least:g}: {gain_text(curve, largest, least)} mIoU"
    gain, last = curve.gain(largest, least), curve.gain(largest, before)
    if gain is None:
        return f"{whole}, from one repeat; set scale.repeats=3 to tell it from noise"
    if gain[0] + gain[1] < 0:
        return f"{whole}: the larger pool hurts here"
    if gain[0] - gain[1] <= 0:
        return f"{whole}: whether a larger pool pays cannot be told; {_power_text(gain[1])}"
    if last is None:
        return whole
    if last[0] - last[1] > 0:
        return f"{whole}: the pool still pays at its full size; more unlabeled images may help"
    step = f"its last step, from {before:g} images on: {gain_text(curve, largest, before)}"
    return f"{whole}; {step}; {_power_text(last[1])}"


def _power_text(half_interval: float) -> str:
    """The smallest gain that is no noise: a smaller one may be there and was not seen."""
    return f"these repeats cannot tell a gain below {half_interval:.2f} from none"


def draw(records: list[Record]) -> str:
    """Scores against counts: every repeat, means, and the forecasts up to the double."""
    ladder = ladder_of(records)
    curves = curves_of(ladder, records)
    figure, axes = new_figure(1, size=(7.0, 4.0))
    axis = axes[0]
    for curve in curves:
        color = COLORS[curve.method]
        for count in curve.counts:
            samples = curve.samples(count)
            axis.plot([count] * len(samples), samples, ".", color=color, alpha=0.35, ms=5)
        means = [curve.mean(count) for count in curve.counts]
        axis.plot(curve.counts, means, "o-", color=color, label=METHOD_NAMES[curve.method])
        if len(curve.counts) >= MIN_COUNTS:
            _draw_law(axis, curve, color)
    axis.set_xscale("log")
    counts = sorted({count for curve in curves for count in curve.counts})
    axis.set_xticks(counts, [f"{count:g}" for count in counts])
    axis.minorticks_off()
    axis.set_xlabel(UNITS[ladder])
    axis.set_ylabel("mIoU on test images, %")
    axis.plot([], [], "--", color=GRAY, label="forecast, 95 % interval of its mean")
    add_legend(axis)
    return to_svg(figure)


def _draw_law(axis: Any, curve: Curve, color: str) -> None:
    scores = {count: curve.samples(count) for count in curve.counts}
    largest = curve.counts[-1]
    counts = np.geomspace(largest, 2 * largest, LAW_POINTS)
    found = [
        with_repeat_noise(
            curve, curve.counts, forecast_score(scores, float(count), samples=LAW_SAMPLES)
        )
        for count in counts
    ]
    axis.plot(counts, [one.score for one in found], "--", color=color, lw=1)
    lows, highs = [one.low for one in found], [one.high for one in found]
    axis.fill_between(counts, lows, highs, color=color, alpha=0.15, lw=0)
