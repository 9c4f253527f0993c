"""Parallel coordinates: every trial is a line across its hyperparameters to its score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cid_ray.results.figure_data import (
    completed_trials,
    scale_of_key,
    shown_trials,
    slices_data,
)
from cid_ray.results.figures import new_figure, to_svg
from cid_ray.results.summary import RatioSummary

MAX_AXES = 12  # hyperparameters; more would hide each other's names
MIN_TRIALS = 4
INCHES_PER_AXIS = 1.1
MIN_WIDTH = 10.4  # inches, as two panels of the other figures
HEIGHT = 3.4
ABSENT = -0.14  # where a line passes an axis whose hyperparameter the trial does not have
MAX_LETTERS = 14  # of a choice's name
SCORE = "val mIoU, %"
BEST_FRACTION = 0.1  # drawn wide


@dataclass(frozen=True)
class ParallelAxis:
    """An upright axis from 0 to 1: a hyperparameter, or the score.

    `choices` are the names of the levels, bottom first; empty of a number between low and high.
    """

    key: str
    low: float
    high: float
    log: bool
    choices: tuple[str, ...] = ()

    def height(self, value: Any) -> float:
        """Where a value is. None is one too: a level of a choice."""
        if self.choices:
            return (self.choices.index(str(value)) + 0.5) / len(self.choices)
        low, high, x = (np.log10(v) if self.log else v for v in (self.low, self.high, value))
        return float((x - low) / (high - low)) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Heights and texts: the levels, or both ends and round numbers between them."""
        if self.choices:
            return [(self.height(name), _shortened(name)) for name in self.choices]
        from matplotlib.ticker import LogLocator, MaxNLocator

        locator = LogLocator(subs=(1, 3)) if self.log else MaxNLocator(5)
        values = [v for v in locator.tick_values(self.low, self.high) if self.low <= v <= self.high]
        if len(values) < 2:
            values = [self.low, self.high]
        return [(self.height(v), f"{v:.4g}") for v in values]


def draw_parallel(summaries: list[RatioSummary]) -> str | None:
    """A panel per ratio with the completed CID trials, the best ones on top; None without any.

    The axes are the same in all panels. Of many hyperparameters those with the most importance.
    """
    keys = _shown_keys(summaries)
    shown = [s for s in summaries if len(completed_trials(s)) >= MIN_TRIALS]
    if not keys or not shown:
        return None
    axes = [_parameter_axis(key, summaries) for key in keys]
    width = max(MIN_WIDTH, INCHES_PER_AXIS * (len(axes) + 1))
    figure, panels = new_figure(1, len(shown), (width, HEIGHT))
    for panel, summary in zip(panels, shown, strict=True):
        _draw_panel(panel, summary, axes)
    left_out = len(slices_data(summaries)) - len(keys)
    if left_out:
        text = f"{left_out} hyperparameters of less importance are left out"
        figure.suptitle(text, fontsize=10)
    return to_svg(figure)


def _shown_keys(summaries: list[RatioSummary]) -> list[str]:
    keys = list(slices_data(summaries))
    if len(keys) <= MAX_AXES:
        return keys
    most = {
        key: max(s.cid_search.get("importances", {}).get(key, 0.0) for s in summaries)
        for key in keys
    }
    kept = sorted(keys, key=lambda key: -most[key])[:MAX_AXES]
    return [key for key in keys if key in kept]


def _parameter_axis(key: str, summaries: list[RatioSummary]) -> ParallelAxis:
    values = [value for points in slices_data(summaries)[key].values() for value, _ in points]
    scale = scale_of_key(key, values, summaries)
    if scale == "category":
        return ParallelAxis(key, 0, 1, False, tuple(sorted({str(value) for value in values})))
    return ParallelAxis(key, min(values), max(values), scale == "log")


def _draw_panel(panel: Any, summary: RatioSummary, parameters: list[ParallelAxis]) -> None:
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    everything = completed_trials(summary)
    trials, which = shown_trials(everything, lambda trial: trial[1])
    scores = [score for _, score in trials]
    axes = [*parameters, ParallelAxis(SCORE, min(scores), max(scores), False)]
    lines = [
        [
            *((i, _height_in(params, axis)) for i, axis in enumerate(parameters)),
            (len(parameters), axes[-1].height(score)),
        ]
        for params, score in trials
    ]
    ranks = np.linspace(0, 1, len(trials))  # the color is that of the rank: a failure dims no other
    wide = ranks >= 1 - BEST_FRACTION
    collection = LineCollection(
        lines,
        colors=colormaps["viridis_r"](0.1 + 0.9 * ranks),
        linewidths=np.where(wide, 1.8, 0.8),
        alpha=np.where(wide, 0.95, 0.5),
    )
    panel.add_collection(collection)
    absent = {axis.key for axis in parameters for params, _ in trials if axis.key not in params}
    _draw_axes(panel, axes, absent)
    total = len(everything)
    shown = f"{len(trials)} of {total} completed CID trials: {which}"
    count = shown if which else f"{total} completed CID trials"
    panel.set_title(f"{summary.name}, {count}", fontsize=10, loc="left", pad=38)


def _height_in(params: dict[str, Any], axis: ParallelAxis) -> float:
    """Where a trial's line crosses an axis; ABSENT where it does not have the hyperparameter."""
    return axis.height(params[axis.key]) if axis.key in params else ABSENT


def _draw_axes(panel: Any, axes: list[ParallelAxis], absent: set[str]) -> None:
    """Upright lines with names above, every second one higher, and values on a light ground."""
    ground = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
    for number, axis in enumerate(axes):
        panel.plot([number, number], [0, 1], color="#1b1f26", lw=1, zorder=3)
        name = axis.key.split(".", 1)[-1]
        style = {"fontsize": 9, "va": "center", "zorder": 4}
        panel.text(number, 1.22 if number % 2 else 1.1, name, ha="center", **style)
        for height, text in axis.ticks():
            panel.plot([number, number + 0.03], [height] * 2, color="#1b1f26", lw=1, zorder=3)
            panel.text(number + 0.05, height, text, ha="left", bbox=ground, **style)
        if axis.key in absent:
            panel.text(number + 0.05, ABSENT, "not used", ha="left", bbox=ground, **style)
    panel.set_xlim(-0.25, len(axes) - 0.4)
    panel.set_ylim(ABSENT - 0.06 if absent else -0.06, 1.05)
    panel.set_axis_off()


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 1]}…"
