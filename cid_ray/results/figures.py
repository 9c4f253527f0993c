"""The figures of report and live page as SVG text, drawn by matplotlib from figure_data.py.

SVG keeps a page self-contained and its texts selectable. A fixed hash salt and no date make the
same records draw the same bytes.
"""

from __future__ import annotations

import io
from typing import Any

from cid_ray.results.figure_data import (
    curves_data,
    history_data,
    pareto_data,
    shown_curves,
    thinned,
)
from cid_ray.results.summary import COLORS, METHOD_NAMES, RatioSummary

GRAY = "#9ca3af"
COST_LABELS = {"seconds": "seconds", "latency_ms": "latency, ms"}
PARETO_COLUMNS = 2
END_MARKS = {"pruned": "dotted: pruned", "running": "arrow: running"}  # how a curve shows its end
STATE_MARKERS = {
    "complete": ("o", COLORS["cid"]),
    "pruned": ("x", GRAY),
    "running": ("^", GRAY),
}


def draw_history(summaries: list[RatioSummary]) -> str:
    """Ratio by ratio: every trial's value, the best so far, and the baselines as lines."""
    figure, axes = new_figure(len(summaries))
    for axis, summary in zip(axes, summaries, strict=True):
        trials = [t for t in history_data(summary) if t["value"] is not None]
        num_shown = 0
        for state, (marker, color) in STATE_MARKERS.items():
            of_state = thinned([t for t in trials if t["state"] == state])
            num_shown += len(of_state)
            if of_state:
                numbers = [t["trial"] for t in of_state]
                values = [t["value"] for t in of_state]
                axis.plot(numbers, values, marker, color=color, label=state)
        floor = summary.noise("val").single_run_floor
        _draw_best_so_far(axis, trials, floor)
        _draw_baselines(axis, summary, floor)
        axis.xaxis.get_major_locator().set_params(integer=True)
        note = f", {num_shown} of {len(trials)} trials" if num_shown < len(trials) else ""
        axis.set_title(summary.name + note, fontsize=10)
        axis.set_xlabel("CID trial")
        axis.set_ylabel("val mIoU at its last rung, %")
        add_legend(axis)
    return to_svg(figure)


def _draw_best_so_far(axis: Any, trials: list[dict[str, Any]], floor: float | None) -> None:
    best = [(t["trial"], t["best"]) for t in trials if t["best"] is not None]
    if not best:
        return
    numbers, values = zip(*best, strict=True)
    axis.step(numbers, values, where="post", color=COLORS["cid"], lw=1, label="best so far")
    if floor is not None:
        low = [value - floor for value in values]
        label = "within noise of the best, single runs"
        axis.fill_between(
            numbers, low, values, step="post", color=COLORS["cid"], alpha=0.12, lw=0, label=label
        )


def _draw_baselines(axis: Any, summary: RatioSummary, floor: float | None) -> None:
    for method in METHOD_NAMES:
        score = summary.score(method, "val")
        if method == "cid" or score is None:
            continue
        axis.axhline(score, color=COLORS[method], ls="--", lw=1, label=METHOD_NAMES[method])
        if floor is not None and method == "supervised":
            axis.axhspan(score - floor, score + floor, color=COLORS[method], alpha=0.12, lw=0)


def draw_curves(summaries: list[RatioSummary]) -> str:
    figure, axes = new_figure(len(summaries))
    for axis, summary in zip(axes, summaries, strict=True):
        curves = curves_data(summary)
        shown = shown_curves(curves)
        for method in METHOD_NAMES:
            _draw_curves_of_method(axis, method, [c for c in shown if c["method"] == method])
        notes = [text for state, text in END_MARKS.items() if state in summary.states.values()]
        if len(shown) < len(curves):
            notes.append(f"{len(shown)} of {len(curves)} runs")
        axis.set_title(", ".join([summary.name, *notes]), fontsize=10)
        axis.set_xlabel("images seen")
        axis.set_ylabel("val mIoU, %")
        add_legend(axis)
    return to_svg(figure)


def _draw_curves_of_method(axis: Any, method: str, curves: list[dict[str, Any]]) -> None:
    """One collection of lines per method: thousands of single lines would take seconds."""
    from matplotlib.collections import LineCollection

    if not curves:
        return
    color = COLORS[method]
    style: dict[str, Any] = {"color": color, "lw": 2, "alpha": 1}
    if method == "cid":
        style |= {"lw": 1, "alpha": 0.55}
    lines = LineCollection(
        [curve["points"] for curve in curves],
        linestyles=[":" if curve["state"] == "pruned" else "-" for curve in curves],
        **style,
    )
    axis.add_collection(lines)
    points = [point for curve in curves for point in curve["points"]]
    axis.plot(*zip(*points, strict=True), ".", color=color, alpha=style["alpha"])
    axis.plot([], [], "-", marker=".", label=METHOD_NAMES[method], **style)  # for the legend
    ends = [curve["points"][-1] for curve in curves if curve["state"] == "running"]
    if ends:
        axis.plot(*zip(*ends, strict=True), ">", color=color)


def draw_pareto(summaries: list[RatioSummary]) -> str | None:
    shown = [s for s in summaries if s.cid_search.get("pareto")]
    if not shown:
        return None
    figure, axes = new_figure(min(PARETO_COLUMNS, len(shown)), -(-len(shown) // PARETO_COLUMNS))
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    for axis, summary in zip(axes, shown, strict=False):
        data = pareto_data(summary)
        if data["others"]:
            axis.scatter(
                *zip(*data["others"], strict=True), color=GRAY, s=18, label="beaten by another"
            )
        front = zip(*data["front"], strict=True)
        axis.plot(*front, "o-", color=COLORS["cid"], lw=1, label="beaten by none")
        axis.set_title(summary.name, fontsize=10)
        axis.set_xlabel(cost_label(summary))
        axis.set_ylabel("val mIoU, %")
        add_legend(axis)
    return to_svg(figure)


def cost_label(summary: RatioSummary) -> str:
    """The second objective of a search, in words."""
    name = str(summary.cid_search.get("second_objective", "second objective"))
    return COST_LABELS.get(name, name)


def new_figure(
    columns: int, rows: int = 1, size: tuple[float, float] = (5.2, 3.4)
) -> tuple[Any, list[Any]]:
    """A figure and its axes, row by row; `size` is that of one of them, in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    return figure, axes


def add_legend(axis: Any) -> None:
    """One legend for all panels of the figure, below them: it lies over no line."""
    figure = axis.figure
    for legend in list(figure.legends):
        legend.remove()
    handles: dict[str, Any] = {}
    for each in figure.axes:
        handles |= dict(zip(*reversed(each.get_legend_handles_labels()), strict=True))
    if handles:
        columns = min(len(handles), max(2, int(figure.get_figwidth() / 1.9)))
        places = {"frameon": False, "fontsize": 9, "ncols": columns}
        figure.legend(handles.values(), handles, loc="outside lower center", **places)


def to_svg(figure: Any) -> str:
    import matplotlib
    from matplotlib.text import Text

    # A name with dollar signs is no formula: a wrong one would end the report.
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    out = io.StringIO()
    with matplotlib.rc_context(
        {
            "svg.hashsalt": "cid_ray",
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "text.parse_math": False,  # of texts that are made while drawing
        }
    ):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
