"""Tables that the HTML page, the Markdown report and the terminal share, as plain values."""

from __future__ import annotations

from typing import Any

from cid_ray.results.figures import cost_label
from cid_ray.results.formatting import MISSING, format_mean, format_params, format_value
from cid_ray.results.records import Record
from cid_ray.results.snapshot import RunningTrial
from cid_ray.results.summary import RatioSummary, hyperparameters_by_ratio

MAX_ROWS = 100  # of running trials, issues, failures or warnings in a table of a page


def first_rows(running: list[RunningTrial]) -> list[RunningTrial]:
    """The running trials that a table shows: all, or the MAX_ROWS best at their last rung."""
    if len(running) <= MAX_ROWS:
        return running
    return sorted(running, key=lambda trial: (trial.value is None, -(trial.value or 0)))[:MAX_ROWS]


def repeat_table(summary: RatioSummary) -> list[dict[str, Any]]:
    """Every run that was repeated: mean and spread on val, which chooses, and on test."""
    val = summary.noise("val")
    test = summary.noise("test")
    chosen = summary.repeated_runs(val).values()
    return [
        {
            "run": run,
            "repeats": val.num_repeats,
            "val": format_mean(val.mean(run), val.sd(run)),
            "test": format_mean(test.mean(run), test.sd(run)) if run in test.scores else MISSING,
            "chosen": run in chosen,
        }
        for run in val.scores
    ]


def hyperparameter_table(summaries: list[RatioSummary]) -> list[tuple[str, list[str]]]:
    """hyperparameter, and per ratio the best trial's value with what the best quarter took."""
    found = hyperparameters_by_ratio(summaries)
    return [(key, [_range_text(entry) for entry in entries]) for key, entries in found.items()]


def _range_text(entry: Record | None) -> str:
    if entry is None:
        return MISSING
    if "values" in entry:
        quarter = ", ".join(format_value(value) for value in entry["values"])
    else:
        quarter = f"{format_value(entry['low'])} – {format_value(entry['high'])}"
    return f"{format_value(entry['best'])} ({quarter})"


def pareto_table(summaries: list[RatioSummary]) -> list[dict[str, Any]]:
    """Trials that no other trial beats in both objectives, the best score first."""
    return [
        {
            "ratio": summary.name,
            "run": point["run"],
            "value": point["value"],
            "cost": format_value(point["cost"]),
            "cost_label": cost_label(summary),
            "params": format_params(point["params"]),
        }
        for summary in summaries
        for point in summary.cid_search.get("pareto") or []
    ]
