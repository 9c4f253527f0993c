"""The records of a ladder: one for each count that was measured, one for each forecast."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator

from cid_ray.results.ladder import SCORE, count_of, curves_of, forecasts_of
from cid_ray.results.laws import Forecast
from cid_ray.results.records import Record, of_event

Costs = dict[str, float]
FORECAST_LADDERS = ("labels", "pool")  # whose scores follow a power law of the count


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


def forecast_records(ladder: str, records: list[Record]) -> Iterator[Record]:
    """The `forecast` records of all methods; none where a ladder has no law or too few counts."""
    if ladder not in FORECAST_LADDERS:
        return
    for curve in curves_of(ladder, records):
        for one in forecasts_of(curve):
            yield forecast_record(ladder, curve.method, one.count, one.forecast, one.measured)


def forecast_record(
    ladder: str, method: str, count: float, forecast: Forecast, measured: float | None
) -> Record:
    return {
        **common_fields(f"{ladder}-forecast-{count:g}-{method}", "", method),
        "event": "forecast",
        "ladder": ladder,
        "count": count,
        "value": forecast.score,
        "low": forecast.low,
        "high": forecast.high,
        "measured": measured,
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
