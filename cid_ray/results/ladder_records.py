"""The records of a ladder: its counts that were measured, its forecasts, and what it says."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from cid_ray.results.ladder import SCORE, LadderForecast, count_of
from cid_ray.results.records import Record, of_event

Costs = dict[str, float]
Numbers = dict[str, float | None]


def rung_record(
    ladder: str, records: Iterable[Record], final: Record, label: str, costs: Costs | None = None
) -> Record | None:
    """The `ladder` record of the count at which a training has finished; None without a score.

    Args:
        ladder: its name.
        records: of the run folder, this training's included.
        final: the training's last record.
        label: the count as configured.
        costs: of an encoder: its parameters in millions, GFLOPs and latency.
    """
    same = [
        other
        for other in of_event(records, "final")
        if other["method"] == final["method"] and other["params"] == final["params"]
    ]
    scores = [other[SCORE] for other in same if other.get(SCORE) is not None]
    if not scores:  # test has no ground truth
        return None
    count = costs["parameters"] if costs else count_of(ladder, final)
    name = label.replace("/", "_")
    return {
        **common_fields(f"{ladder}-{name}-{final['method']}", final["ratio"], final["method"]),
        "event": "ladder",
        "ladder": ladder,
        "label": label,
        "count": count,
        "samples": scores,
        "measured": {
            "mean": statistics.mean(scores),
            "sd": statistics.stdev(scores) if len(scores) > 1 else None,
            "seconds": sum(other["seconds"] for other in same),
            **(costs or {}),
        },
    }


def forecast_record(ladder: str, method: str, one: LadderForecast) -> Record:
    """The `forecast` record of a law's answer; one of more counts replaces it.

    A ladder has two: of the largest count that was measured, and of its double.
    """
    where = "double" if one.measured is None else "largest"
    return {
        **common_fields(f"{ladder}-forecast-{where}-{method}", "", method),
        "event": "forecast",
        "ladder": ladder,
        "count": one.count,
        "value": one.forecast.score,
        "low": one.forecast.low,
        "high": one.forecast.high,
        "measured": one.measured,
    }


def recommendation_record(
    ladder: str,
    method: str,
    *,
    numbers: Numbers | None = None,
    by_count: dict[str, Numbers] | None = None,
    chosen: Iterable[str] = (),
) -> Record:
    """The `recommendation` record of a method; a newer one replaces it.

    Args:
        ladder: its name.
        method: of the trainings.
        numbers: name -> what the sentences say.
        by_count: count, or encoder -> what the table says of it.
        chosen: the counts or encoders that are recommended.
    """
    return {
        **common_fields(f"{ladder}-recommendation-{method}", "", method),
        "event": "recommendation",
        "ladder": ladder,
        "chosen": list(chosen),
        "numbers": numbers or {},
        "by_count": by_count or {},
    }


def common_fields(run: str, ratio: str, method: str) -> Record:
    """The fields of every record."""
    return {
        "run": run,
        "ratio": ratio,
        "method": method,
        "trial_number": 0,
        "repeats_of": "",
        "repeat_index": 0,
    }
