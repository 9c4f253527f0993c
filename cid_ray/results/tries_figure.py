"""The figure of equal tries: the expected best val mIoU against the number of tries."""

from __future__ import annotations

from cid_ray.results.figures import add_legend, new_figure, to_svg
from cid_ray.results.summary import COLORS, METHOD_NAMES, RatioSummary
from cid_ray.results.tries import best_of_tries, is_tuned, scores_of_tries

MAX_TRIES = 50  # more points of a curve that hardly rises


def draw_tries(summaries: list[RatioSummary]) -> str | None:
    """A panel per ratio. A method with nothing to tune is a level line; None without tries."""
    shown = [s for s in summaries if any(len(own) > 1 for own in scores_of_tries(s).values())]
    if not shown:
        return None
    figure, axes = new_figure(len(shown))
    for axis, summary in zip(axes, shown, strict=True):
        for method, scores in scores_of_tries(summary).items():
            style = {"color": COLORS[method], "label": METHOD_NAMES[method]}
            if not is_tuned(summary, method):
                axis.axhline(max(scores), ls="--", lw=1, **style)
                continue
            bests = [best_of_tries(scores, k) for k in range(1, min(len(scores), MAX_TRIES) + 1)]
            tries = [best.tries for best in bests]
            axis.plot(tries, [best.mean for best in bests], "o-", ms=4, **style)
            low, high = [best.low for best in bests], [best.high for best in bests]
            axis.fill_between(tries, low, high, color=COLORS[method], alpha=0.1, lw=0)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(summary.name, fontsize=10)
        axis.set_xlabel("tries")
        axis.set_ylabel("expected best val mIoU, %")
    add_legend(axes[0])
    return to_svg(figure)
