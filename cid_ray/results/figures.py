"""Figures as SVG text. Data functions (`*_data`) and drawing are apart, so a figure's numbers can be tested."""

from __future__ import annotations

import io
from typing import Any

from cid_ray.results.summary import METHODS, RatioSummary, run_method

COLORS = {"supervised": "#6b7280", "pool_bn": "#d97706", "mean_teacher": "#2563eb", "cid": "#dc2626"}


def label_curve_data(summaries: list[RatioSummary], split: str = "test") -> dict[str, list[tuple[int, float]]]:
    """method -> [(label_count, mIoU)], fewest labels first."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for summary in summaries:
        for method in METHODS:
            score = summary.score(method, split)
            if score is not None:
                curves.setdefault(method, []).append((summary.label_count, score))
    return curves


def history_data(summary: RatioSummary) -> list[dict[str, Any]]:
    """CID trials in order: number, value at the last rung reached, share of full length, how it ended, best so far."""
    found, best = [], None
    for run in sorted(r for r in summary.rungs if run_method(summary, r) == "cid"):
        last = summary.rungs[run][-1]
        value, how = last[summary.metric], summary.ended[run]
        if how == "complete" and value is not None:
            best = value if best is None else max(best, value)
        share = last["step"] / last["steps"]
        found.append({"trial": int(run.rsplit("-", 1)[1]), "value": value, "share": share, "how": how, "best": best})
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


def draw_label_curve(summaries: list[RatioSummary]) -> str:
    figure, axes = _figure(1)
    axis = axes[0]
    for method, points in label_curve_data(summaries).items():
        axis.plot(*zip(*points, strict=True), "o-", color=COLORS[method], label=METHODS[method])
    counts = [s.label_count for s in summaries]
    axis.set_xscale("log")
    axis.set_xticks(counts, [s.name for s in summaries])
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
        if best:
            axis.step(*zip(*best, strict=True), where="post", color=COLORS["cid"], lw=1, label="best so far")
        for method in METHODS:
            score = summary.score(method, "val")
            if method != "cid" and score is not None:
                axis.axhline(score, color=COLORS[method], ls="--", lw=1, label=METHODS[method])
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
            method, pruned = curve["method"], curve["how"] == "pruned"
            if not curve["points"]:
                continue
            axis.plot(
                *zip(*curve["points"], strict=True), color=COLORS[method], lw=1 if method == "cid" else 2,
                ls=":" if pruned else "-", alpha=0.55 if method == "cid" else 1, marker=".",
                label=None if method in shown else METHODS[method],
            )  # fmt: skip
            shown.add(method)
        axis.set_title(f"{summary.name} (dotted: pruned)", fontsize=10)
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


def _figure(columns: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * columns, 3.4), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    return figure, list(axes)


def _svg(figure: Any) -> str:
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "cid_ray", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
