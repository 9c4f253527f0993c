"""The figures of single hyperparameters: score against each with a smooth fit, and importances."""

from __future__ import annotations

from typing import Any

import numpy as np

from cid_ray.results.figure_data import MAX_POINTS, scale_of_key, slices_data, thinned
from cid_ray.results.figures import GRAY, add_legend, new_figure, to_svg
from cid_ray.results.hyperparameters import importances_at
from cid_ray.results.smooth_fit import mean_scores, smooth_fit
from cid_ray.results.summary import COLORS, RatioSummary

RATIO_COLORS = ("#7c3aed", "#059669", "#ea580c", "#0284c7", "#be185d", "#4d7c0f")
COLUMNS = 4
GRID_POINTS = 60  # of a drawn fit
MANY_POINTS = 100
CHOICE_WIDTH = 0.6  # of the space between two choices, for all ratios


def draw_slices(summaries: list[RatioSummary]) -> str | None:
    """One panel per hyperparameter: val mIoU of completed CID trials against its value."""
    slices = slices_data(summaries)
    if not slices:
        return None
    rows = -(-len(slices) // COLUMNS)
    figure, axes = new_figure(-(-len(slices) // rows), rows, (3.0, 2.6))
    colors = {s.name: RATIO_COLORS[i % len(RATIO_COLORS)] for i, s in enumerate(summaries)}
    for axis, (key, by_ratio) in zip(axes, slices.items(), strict=False):
        values = [value for points in by_ratio.values() for value, _ in points]
        scale = scale_of_key(key, values, summaries)
        if scale == "category":
            _draw_choices(axis, by_ratio, colors)
        else:
            _draw_numbers(axis, by_ratio, colors, scale)
        axis.set_xlabel(key)
    for axis in axes[len(slices) :]:
        axis.set_visible(False)
    add_legend(axes[0])
    figure.supylabel("val mIoU, %", fontsize=10)
    largest = max(len(points) for by_ratio in slices.values() for points in by_ratio.values())
    note = f", points: {len(thinned(range(largest)))} of {largest} at a ratio"
    note = note if largest > MAX_POINTS else ""
    figure.suptitle(f"completed CID trials only{note}", fontsize=10)
    return to_svg(figure)


def _draw_numbers(
    axis: Any, by_ratio: dict[str, list[tuple[Any, float]]], colors: dict[str, str], scale: str
) -> None:
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    for ratio, points in by_ratio.items():
        color = colors[ratio]
        alpha = _alpha(points)
        shown = zip(*thinned(points), strict=True)
        axis.scatter(*shown, color=color, s=14, alpha=alpha, label=ratio)
        fit = smooth_fit(points, scale == "log")
        if fit is None:
            continue
        grid = np.linspace(fit.x[0], fit.x[-1], GRID_POINTS)
        line, low, high = fit.on(grid)
        values = 10**grid if scale == "log" else grid
        axis.plot(values, line, color=color, lw=2)
        axis.fill_between(values, low, high, color=color, alpha=0.15, lw=0)
    axis.set_xscale(scale)
    if scale == "log":
        # by default matplotlib labels every tick of a range below a decade, one over the other
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.minorticks_off()


def _draw_choices(
    axis: Any, by_ratio: dict[str, list[tuple[Any, float]]], colors: dict[str, str]
) -> None:
    """Ratios next to each other: the trials, and beside them their mean with its interval."""
    choices = sorted({str(value) for points in by_ratio.values() for value, _ in points})
    step = CHOICE_WIDTH / len(by_ratio)
    for number, (ratio, points) in enumerate(by_ratio.items()):
        shift = step * (number - (len(by_ratio) - 1) / 2)
        places = {choice: choices.index(choice) + shift for choice in choices}
        shown = [(places[str(value)], score) for value, score in thinned(points)]
        style = {"color": colors[ratio]}
        axis.scatter(*zip(*shown, strict=True), s=14, alpha=_alpha(points), label=ratio, **style)
        for mean in mean_scores(points):
            if mean.low is not None and mean.high is not None:
                place = places[mean.value] + step / 3
                half = mean.high - mean.mean
                axis.errorbar(place, mean.mean, half, fmt="_", capsize=2, lw=1.5, **style)
    axis.set_xticks(range(len(choices)), choices)
    axis.margins(x=0.1)


def _alpha(points: list[tuple[Any, float]]) -> float:
    """Of many points less: fits and means stay visible over them."""
    return 0.6 if len(points) <= MANY_POINTS else 0.25


def draw_importances(summaries: list[RatioSummary]) -> str | None:
    """A panel per ratio, each bar with its number of trials; gray where those are too few."""
    shown = [(s, found) for s in summaries if (found := importances_at(s))]
    if not shown:
        return None
    figure, axes = new_figure(len(shown))
    for axis, (summary, found) in zip(axes, shown, strict=True):
        bars = list(reversed(found))
        names = [bar.key.split(".", 1)[-1] for bar in bars]
        colors = [COLORS["cid"] if bar.enough_trials else GRAY for bar in bars]
        drawn = axis.barh(names, [bar.fraction for bar in bars], color=colors)
        texts = [f"{bar.fraction:.2f}, {bar.trials} trials" for bar in bars]
        axis.bar_label(drawn, texts, padding=3, fontsize=9)
        axis.margins(x=0.45)  # room for the texts
        axis.set_title(summary.name, fontsize=10)
        axis.set_xlabel("fraction of importance")
    return to_svg(figure)
