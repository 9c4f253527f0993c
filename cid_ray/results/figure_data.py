"""The numbers behind every figure, apart from the drawing (figures.py) so that tests check them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, TypeVar

from cid_ray.results.label_worth import shared_repeats
from cid_ray.results.summary import METHOD_NAMES, RatioSummary, RunScore, best_of

MAX_POINTS = 300  # of one kind in a panel: more hide each other, and take seconds to draw
MAX_CURVES = 200  # of one ratio in a figure: more hide each other, and take seconds to draw
LOG_SCALE_SPAN = 10  # values that span less than this factor get a linear axis

T = TypeVar("T")


def label_curve_data(
    summaries: list[RatioSummary], split: str = "test"
) -> dict[str, list[tuple[int, float]]]:
    """method -> [(label_count, mIoU)], fewest labels first; means where there are repeats."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for summary in summaries:
        noise = summary.noise(split)
        runs = summary.repeated_runs(noise)
        for method in METHOD_NAMES:
            score = noise.mean(runs[method]) if method in runs else summary.score(method, split)
            if score is not None:
                curves.setdefault(method, []).append((summary.label_count, score))
    return curves


def half_floor(summaries: list[RatioSummary]) -> float | None:
    """Half the least difference that is above noise between two points of the label curve.

    Two error bars of this half length that do not touch are a difference above noise, for one
    comparison. None without repeats.
    """
    floor = shared_repeats(summaries).floor
    return None if floor is None else floor / 2


def history_data(summary: RatioSummary) -> list[dict[str, Any]]:
    """CID trials in order: value at the last rung, fraction of `train.steps`, state, best so far.

    Only completed trials count as best: a pruned trial's value is that of a shorter training.
    """
    found = []
    best: RunScore | None = None
    scores = {score.run: score for score in summary.last_scores()}
    trials = [
        (rungs[-1], run) for run, rungs in summary.rungs.items() if summary.method_of(run) == "cid"
    ]
    for last, run in sorted(trials, key=lambda trial: (trial[0]["trial_number"], trial[1])):
        state = summary.states[run]
        if state == "complete" and run in scores:
            best = best_of([scores[run]] if best is None else [best, scores[run]])
        found.append(
            {
                "trial": last["trial_number"],
                "value": last[summary.metric],
                "fraction": last["step"] / last["steps"],
                "state": state,
                "best": None if best is None else best.value,
            }
        )
    return found


def curves_data(summary: RatioSummary) -> dict[str, dict[str, Any]]:
    """run -> its method, its state and [(images_seen, val mIoU)]."""
    found = {}
    for run, rungs in summary.rungs.items():
        points = [
            (r["images_seen"], r[summary.metric]) for r in rungs if r[summary.metric] is not None
        ]
        found[run] = {
            "method": summary.method_of(run),
            "state": summary.states[run],
            "points": points,
        }
    return found


def shown_curves(curves: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The curves that a figure draws, at most MAX_CURVES of them.

    Of a large search: baselines, running trials and the best ones, and of the others every n-th.
    """
    with_points = [curve for curve in curves.values() if curve["points"]]
    if len(with_points) <= MAX_CURVES:
        return with_points
    always = [c for c in with_points if c["method"] != "cid" or c["state"] == "running"]
    others = [c for c in with_points if c["method"] == "cid" and c["state"] != "running"]
    by_score = sorted(others, key=lambda curve: -curve["points"][-1][1])
    best = by_score[: MAX_CURVES // 4]
    rest = by_score[MAX_CURVES // 4 :]
    places = max(1, MAX_CURVES - len(always) - len(best))
    chosen = always + best + rest[:: -(-len(rest) // places)]
    return chosen[:MAX_CURVES]


def thinned(items: Sequence[T]) -> Sequence[T]:
    """At most MAX_POINTS of some items, every n-th of them.

    Example:
        >>> len(thinned(range(1000)))
        250
    """
    return items[:: -(-len(items) // MAX_POINTS)] if items else items


def completed_trials(summary: RatioSummary) -> list[tuple[dict[str, Any], float]]:
    """Hyperparameters and val mIoU of every completed CID trial."""
    return [
        (rungs[-1].get("params") or {}, rungs[-1][summary.metric])
        for run, rungs in summary.rungs.items()
        if summary.method_of(run) == "cid"
        and summary.states[run] == "complete"
        and rungs[-1][summary.metric] is not None
    ]


def slices_data(summaries: list[RatioSummary]) -> dict[str, dict[str, list[tuple[Any, float]]]]:
    """hyperparameter -> ratio -> [(value, val mIoU)] of completed CID trials.

    Hyperparameters that never took a second value are left out. The order is that of the space,
    once the search has ended.
    """
    ordered = dict.fromkeys(k for s in summaries for k in s.cid_search.get("hyperparameters", []))
    found: dict[str, dict[str, list[tuple[Any, float]]]] = {}
    for summary in summaries:
        for params, score in completed_trials(summary):
            for key, value in params.items():
                found.setdefault(key, {}).setdefault(summary.name, []).append((value, score))
    keys = [key for key in {**ordered, **found} if key in found]
    return {key: found[key] for key in keys if _distinct_values(found[key]) > 1}


def _distinct_values(slices: dict[str, list[tuple[Any, float]]]) -> int:
    return len({str(value) for points in slices.values() for value, _ in points})


def scale_of(values: list[Any]) -> str:
    """category, log or linear: the axis for these values. Log where most are near its low end."""
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return "category"
    low, high = min(values), max(values)
    wide = low > 0 and high > LOG_SCALE_SPAN * low
    return "log" if wide and median(values) < (low + high) / 4 else "linear"


def scale_of_key(key: str, values: list[Any], summaries: list[RatioSummary]) -> str:
    """category, log or linear: as the space says, where the search record has it."""
    records = [s.cid_search for s in summaries if "log_hyperparameters" in s.cid_search]
    scale = scale_of(values)
    if scale == "category" or not records:
        return scale
    is_log = any(key in record["log_hyperparameters"] for record in records)
    return "log" if is_log and min(values) > 0 else "linear"


def shown_trials(trials: list[T], score: Callable[[T], float]) -> tuple[list[T], str]:
    """At most MAX_CURVES trials, the best one last, and which: "" where none is left out.

    Of more the best quarter of MAX_CURVES, and every n-th of the others.
    """
    ordered = sorted(trials, key=score)
    if len(ordered) <= MAX_CURVES:
        return ordered, ""
    num_best = MAX_CURVES // 4
    others, best = ordered[:-num_best], ordered[-num_best:]
    step = -(-len(others) // (MAX_CURVES - num_best))
    shown = [*others[::step], *best]
    return shown, f"the {num_best} best and one in {step} of the others"


def pareto_data(summary: RatioSummary) -> dict[str, list[tuple[float, float]]]:
    """[(cost, val mIoU)] of the Pareto front (cheapest first) and of the other full trials."""
    search = summary.cid_search
    cost = search.get("second_objective")
    front = {p["run"]: (p["cost"], p["value"]) for p in search.get("pareto") or []}
    others = [
        (final[cost], final[summary.metric])
        for run, final in summary.finals.items()
        if final["method"] == "cid"
        and run not in front
        and cost in final
        and final.get(summary.metric) is not None
    ]
    return {"front": sorted(front.values()), "others": sorted(others)}
