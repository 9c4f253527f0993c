"""The figure of the label curve: every method against labels, and what CID is worth in labels."""

from __future__ import annotations

from typing import Any

from cid_ray.results.figure_data import half_floor, label_curve_data
from cid_ray.results.figures import add_legend, new_figure, to_svg
from cid_ray.results.label_worth import LabelCurve, label_curve
from cid_ray.results.summary import COLORS, METHOD_NAMES, RatioSummary

SHIFT_PER_METHOD = 0.012  # of the label count: methods are drawn next to each other


def draw_label_curve(summaries: list[RatioSummary]) -> str:
    """Score against labels. A dotted line leads from CID to the supervised labels it is worth."""
    figure, axes = new_figure(1, size=(6.4, 3.6))
    axis = axes[0]
    bar = half_floor(summaries)
    for number, (method, points) in enumerate(label_curve_data(summaries).items()):
        # error bars at the same label count would hide each other
        shift = 1 + SHIFT_PER_METHOD * number if bar else 1.0
        counts, scores = zip(*((count * shift, score) for count, score in points), strict=True)
        style = {"color": COLORS[method], "fmt": "o-", "capsize": 3}
        axis.errorbar(counts, scores, bar, label=METHOD_NAMES[method], **style)
    ticks = {summary.label_count: summary.name for summary in summaries}
    curve = label_curve(summaries)
    if curve:
        ticks |= _draw_worth(axis, curve, label_curve_data(summaries).get("cid", []))
    axis.set_xscale("log")
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.minorticks_off()
    axis.set_xlabel("labeled images")
    axis.set_ylabel("mIoU on test images, %")
    if bar:
        axis.set_title("bars that do not touch differ above noise (one comparison)", fontsize=10)
    add_legend(axis)
    return to_svg(figure)


def _draw_worth(axis: Any, curve: LabelCurve, points: list[tuple[int, float]]) -> dict[int, str]:
    """The supervised law, and what CID's points are worth on it; ticks at the end of its reach."""
    counts, scores = curve.law()
    style = {"color": COLORS["supervised"], "lw": 1}
    axis.plot(counts, scores, "--", label="supervised only, fitted", **style)
    for count, score in points:
        worth = curve.worth("cid", count).count
        if count < worth < curve.reach[1]:
            axis.plot([count, worth], [score, score], ":|", color=COLORS["cid"], lw=1)
    return {round(curve.reach[1]): f"{curve.reach[1]:.0f}"}
