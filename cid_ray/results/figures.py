"""Figures as SVG text. Data functions (`*_data`) and drawing are apart, so a figure's numbers can be tested."""

from __future__ import annotations

import io
from statistics import median
from typing import Any

from cid_ray.results.summary import METHODS, RatioSummary, run_method

COLORS = {"supervised": "#6b7280", "pool_bn": "#d97706", "mean_teacher": "#2563eb", "cid": "#dc2626"}
RATIO_COLORS = ("#7c3aed", "#059669", "#ea580c", "#0284c7", "#be185d", "#4d7c0f")
COSTS = {"seconds": "seconds", "latency_ms": "latency, ms"}
PARETO_COLUMNS, SLICE_COLUMNS = 2, 4
SIGNS = {"pruned": "dotted: pruned", "running": "arrow: running"}  # how a curve shows its end
WIDE = 10  # values that span less than this have a linear axis


def label_curve_data(summaries: list[RatioSummary], split: str = "test") -> dict[str, list[tuple[int, float]]]:
    """method -> [(label_count, mIoU)], fewest labels first: the mean over the repeats where there are any."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for summary in summaries:
        noise = summary.noise(split)
        runs = summary.repeated(noise)
        for method in METHODS:
            score = noise.mean(runs[method]) if method in runs else summary.score(method, split)
            if score is not None:
                curves.setdefault(method, []).append((summary.label_count, score))
    return curves


def spread_data(summaries: list[RatioSummary], split: str = "test") -> dict[str, list[tuple[int, float, float]]]:
    """method -> [(label_count, mean, standard deviation over the pairs)], where it was repeated."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for summary in summaries:
        noise = summary.noise(split)
        for method, run in summary.repeated(noise).items():
            spread = noise.sd(run)
            if spread is not None:
                found.setdefault(method, []).append((summary.label_count, noise.mean(run), spread))
    return found


def floor_data(summaries: list[RatioSummary], split: str = "test") -> list[tuple[float, float, float]]:
    """[(label_count, low, high)]: means in this band around supervised only are within noise of it."""
    found: list[tuple[float, float, float]] = []
    for summary in summaries:
        noise = summary.noise(split)
        run = summary.repeated(noise).get("supervised")
        if run and noise.floor is not None:
            mean = noise.mean(run)
            found.append((summary.label_count, mean - noise.floor, mean + noise.floor))
    return found


def history_data(summary: RatioSummary) -> list[dict[str, Any]]:
    """CID trials in order: number, value at the last rung reached, share of full length, how it ended, best so far."""
    found, best = [], None
    for place, run in enumerate(sorted(r for r in summary.rungs if run_method(summary, r) == "cid")):
        last = summary.rungs[run][-1]
        value, how = last[summary.metric], summary.ended[run]
        if how == "complete" and value is not None:
            best = value if best is None else max(best, value)
        share = last["step"] / last["steps"]
        number = run.rpartition("-")[2]  # a run of `train` has none
        trial = int(number) if number.isdigit() else place
        found.append({"trial": trial, "value": value, "share": share, "how": how, "best": best})
    return found


def curves_data(summary: RatioSummary) -> dict[str, dict[str, Any]]:
    """run -> its method, how it ended and [(images_seen, val mIoU)]."""
    return {
        run: {
            "method": run_method(summary, run),
            "how": summary.ended[run],
            "points": [(r["images_seen"], r[summary.metric]) for r in rungs if r[summary.metric] is not None],
        }
        for run, rungs in summary.rungs.items()
    }


def slices_data(summaries: list[RatioSummary]) -> dict[str, dict[str, list[tuple[Any, float]]]]:
    """setting -> ratio -> [(value, val mIoU)] of CID trials of full length, for settings that took several values."""
    found: dict[str, dict[str, list[tuple[Any, float]]]] = {}
    for summary in summaries:
        for run, rungs in summary.rungs.items():
            last = rungs[-1]
            score = last[summary.metric]
            if run_method(summary, run) != "cid" or summary.ended[run] != "complete" or score is None:
                continue
            for key, value in (last.get("params") or {}).items():
                found.setdefault(key, {}).setdefault(summary.name, []).append((value, score))
    return {
        key: slices
        for key, slices in found.items()
        if len({str(value) for points in slices.values() for value, _ in points}) > 1
    }


def scale_of(values: list[Any]) -> str:
    """category, log or linear: how an axis shows these values. Log where most of them crowd at its low end."""
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return "category"
    low, high = min(values), max(values)
    return "log" if low > 0 and high > WIDE * low and median(values) < (low + high) / 4 else "linear"


def pareto_data(summary: RatioSummary) -> dict[str, list[tuple[float, float]]]:
    """[(cost, val mIoU)] of trials that no other beats in both ("front", cheapest first) and of the other full ones."""
    search = summary.search
    front = {p["run"]: (p["cost"], p["value"]) for p in search.get("pareto") or []}
    others = [
        (row[search["cost"]], row[summary.metric])
        for run, row in summary.trials.items()
        if row["method"] == "cid"
        and run not in front
        and search.get("cost") in row
        and row.get(summary.metric) is not None
    ]
    return {"front": sorted(front.values()), "others": sorted(others)}


def draw_label_curve(summaries: list[RatioSummary]) -> str:
    figure, axes = _figure(1)
    axis = axes[0]
    spreads, band = spread_data(summaries), floor_data(summaries)
    for number, (method, points) in enumerate(label_curve_data(summaries).items()):
        shift = 1 + 0.012 * number if spreads else 1.0  # side by side, so that error bars can be told apart
        counts, scores = zip(*((count * shift, score) for count, score in points), strict=True)
        axis.plot(counts, scores, "o-", color=COLORS[method], label=METHODS[method])
        for count, mean, spread in spreads.get(method, []):
            axis.errorbar(count * shift, mean, spread, color=COLORS[method], capsize=3, lw=1)
    if band:
        if len(band) == 1:  # it needs a width
            band = [(0.9 * band[0][0], *band[0][1:]), (1.1 * band[0][0], *band[0][1:])]
        counts, low, high = zip(*band, strict=True)
        axis.fill_between(counts, low, high, color=COLORS["supervised"], alpha=0.15, lw=0, label="noise floor, 95 %")
    axis.set_xscale("log")
    axis.set_xticks([s.label_count for s in summaries], [s.name for s in summaries])
    axis.minorticks_off()
    axis.set_xlabel("labeled images")
    axis.set_ylabel("mIoU on held-out images, %")
    axis.legend(frameon=False, fontsize=8)
    return _svg(figure)


def draw_history(summaries: list[RatioSummary]) -> str:
    """The search, ratio by ratio: every trial's value, what was pruned, the best so far, and the baselines as lines."""
    figure, axes = _figure(len(summaries))
    for axis, summary in zip(axes, summaries, strict=True):
        trials = [t for t in history_data(summary) if t["value"] is not None]
        for how, marker, color in (
            ("complete", "o", COLORS["cid"]),
            ("pruned", "x", "#9ca3af"),
            ("running", "^", "#9ca3af"),
        ):
            some = [t for t in trials if t["how"] == how]
            if some:
                axis.scatter(
                    [t["trial"] for t in some], [t["value"] for t in some], marker=marker, color=color, label=how
                )
        best = [(t["trial"], t["best"]) for t in trials if t["best"] is not None]
        floor = summary.noise("val").single_run_floor
        if best:
            numbers, values = zip(*best, strict=True)
            axis.step(numbers, values, where="post", color=COLORS["cid"], lw=1, label="best so far")
            if floor is not None:
                low = [value - floor for value in values]
                label = "within noise of the best, single runs"
                axis.fill_between(numbers, low, values, step="post", color=COLORS["cid"], alpha=0.12, lw=0, label=label)
        for method in METHODS:
            score = summary.score(method, "val")
            if method != "cid" and score is not None:
                axis.axhline(score, color=COLORS[method], ls="--", lw=1, label=METHODS[method])
                if floor is not None and method == "supervised":
                    axis.axhspan(score - floor, score + floor, color=COLORS[method], alpha=0.12, lw=0)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(summary.name, fontsize=10)
        axis.set_xlabel("CID trial")
        axis.set_ylabel("val mIoU at its last rung, %")
        axis.legend(frameon=False, fontsize=7)
    return _svg(figure)


def draw_curves(summaries: list[RatioSummary]) -> str:
    figure, axes = _figure(len(summaries))
    for axis, summary in zip(axes, summaries, strict=True):
        shown = set()
        for curve in curves_data(summary).values():
            method, how = curve["method"], curve["how"]
            if not curve["points"]:
                continue
            axis.plot(
                *zip(*curve["points"], strict=True), color=COLORS[method], lw=1 if method == "cid" else 2,
                ls=":" if how == "pruned" else "-", alpha=0.55 if method == "cid" else 1, marker=".",
                label=None if method in shown else METHODS[method],
            )  # fmt: skip
            shown.add(method)
            if how == "running":
                axis.plot(*curve["points"][-1], ">", color=COLORS[method])
        signs = [text for how, text in SIGNS.items() if how in summary.ended.values()]
        axis.set_title(", ".join([summary.name, *signs]), fontsize=10)
        axis.set_xlabel("images seen")
        axis.set_ylabel("val mIoU, %")
        axis.legend(frameon=False, fontsize=7)
    return _svg(figure)


def draw_importances(summaries: list[RatioSummary]) -> str | None:
    some = [s for s in summaries if s.search.get("importances")]
    if not some:
        return None
    figure, axes = _figure(len(some))
    for axis, summary in zip(axes, some, strict=True):
        items = sorted(summary.search["importances"].items(), key=lambda item: item[1])
        axis.barh([key.split(".", 1)[-1] for key, _ in items], [value for _, value in items], color=COLORS["cid"])
        axis.set_title(summary.name, fontsize=10)
        axis.set_xlabel("share of importance")
    return _svg(figure)


def draw_slices(summaries: list[RatioSummary]) -> str | None:
    """A panel for each setting: what CID trials of full length scored on val, against its value; a colour a ratio."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    slices = slices_data(summaries)
    if not slices:
        return None
    columns = min(SLICE_COLUMNS, len(slices))
    figure, axes = _figure(columns, -(-len(slices) // columns), (3.0, 2.6))
    colors = {s.name: RATIO_COLORS[i % len(RATIO_COLORS)] for i, s in enumerate(summaries)}
    for axis, (key, by_ratio) in zip(axes, slices.items(), strict=False):
        values = [value for points in by_ratio.values() for value, _ in points]
        scale = scale_of(values)
        names = sorted({str(value) for value in values})
        for ratio, points in by_ratio.items():
            places = [names.index(str(value)) if scale == "category" else value for value, _ in points]
            axis.scatter(places, [score for _, score in points], color=colors[ratio], s=18, alpha=0.8, label=ratio)
        if scale == "category":
            axis.set_xticks(range(len(names)), names)
            axis.margins(x=0.2)
        else:
            axis.set_xscale(scale)
            if scale == "log":  # matplotlib labels every tick of a range below a decade, one over the other
                axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
                axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axis.minorticks_off()
        axis.set_xlabel(key)
    for axis in axes[len(slices) :]:
        axis.set_visible(False)
    axes[0].legend(frameon=False, fontsize=7)
    figure.supylabel("val mIoU, %", fontsize=10)
    figure.suptitle("CID trials of full length only", fontsize=10)
    return _svg(figure)


def draw_pareto(summaries: list[RatioSummary]) -> str | None:
    some = [s for s in summaries if s.search.get("pareto")]
    if not some:
        return None
    figure, axes = _figure(min(PARETO_COLUMNS, len(some)), -(-len(some) // PARETO_COLUMNS))
    for axis in axes[len(some) :]:
        axis.set_visible(False)
    for axis, summary in zip(axes, some, strict=False):
        data = pareto_data(summary)
        if data["others"]:
            axis.scatter(*zip(*data["others"], strict=True), color="#9ca3af", s=18, label="beaten by another")
        axis.plot(*zip(*data["front"], strict=True), "o-", color=COLORS["cid"], lw=1, label="beaten by none")
        axis.set_title(summary.name, fontsize=10)
        axis.set_xlabel(COSTS.get(summary.search["cost"], summary.search["cost"]))
        axis.set_ylabel("val mIoU, %")
        axis.legend(frameon=False, fontsize=7)
    return _svg(figure)


def _figure(columns: int, rows: int = 1, size: tuple[float, float] = (5.2, 3.4)) -> tuple[Any, list[Any]]:
    """A figure and its axes, row by row; `size` is that of one of them, in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "cid_ray", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
