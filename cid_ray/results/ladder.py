"""Ladders from records: the measured scores at each count, forecasts, and what they say.

A ladder's run folder holds the records of all its trainings, a `ladder` record for each count and
method, and `forecast` records. Only the final records of the trainings are read here, so every
number can be computed again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cid_ray.results.laws import PERFECT, Forecast, forecast_score
from cid_ray.results.records import Record, of_event

SCORE = "test/miou_teacher"  # at the last step: which step is best would be chosen on val
MIN_COUNTS = 3  # that a law needs
COUNT_FIELDS = {"labels": "label_count", "pool": "pool_count"}
COUNT_PARAMS = {"batch": "data.batch_size"}
MAX_SHOWN = 5  # names in a sentence


@dataclass
class Curve:
    """One method on a ladder: count -> repeat (its seed) -> score in percent."""

    method: str
    scores: dict[float, dict[int, float]] = field(default_factory=dict)
    seconds: dict[float, float] = field(default_factory=dict)  # of training, all repeats

    @property
    def counts(self) -> list[float]:
        return sorted(self.scores)

    def samples(self, count: float) -> list[float]:
        return list(self.scores[count].values())

    def mean(self, count: float) -> float:
        return statistics.mean(self.samples(count))

    def sd(self, count: float) -> float | None:
        samples = self.samples(count)
        return statistics.stdev(samples) if len(samples) > 1 else None

    def gain(self, count: float, other: float) -> tuple[float, float] | None:
        """Mean over shared repeats of the score at `count` minus that at `other`, and half of its
        95 % interval (t); None with less than two such repeats.
        """
        return paired_gain(self.scores[count], self.scores[other])


@dataclass(frozen=True)
class LadderForecast:
    """A law's answer for one count, and what was measured there.

    Attributes:
        count: where.
        forecast: from the counts below it.
        measured: the mean score there; None where nothing was trained.
    """

    count: float
    forecast: Forecast
    measured: float | None


def paired_gain(first: dict[int, float], second: dict[int, float]) -> tuple[float, float] | None:
    """Mean of first minus second over shared repeats, and half of its 95 % interval (t).

    Args:
        first: repeat -> score. second: the same.

    Returns:
        None with less than two shared repeats: one difference has no spread.
    """
    gains = [first[repeat] - second[repeat] for repeat in first if repeat in second]
    if len(gains) < 2:
        return None
    return statistics.mean(gains), half_interval(gains)


def half_interval(values: Sequence[float]) -> float:
    """Half of the 95 % interval (t) of a mean; 0 of a single value."""
    from scipy import stats  # imported late: it takes half a second

    if len(values) < 2:
        return 0.0
    error = statistics.stdev(values) / math.sqrt(len(values))
    return error * float(stats.t.ppf(0.975, len(values) - 1))


def ladder_of(records: list[Record]) -> str:
    """The name of the ladder that a run folder holds; "" of another run."""
    return next((str(record["ladder"]) for record in of_event(records, "ladder")), "")


def rungs_of(records: list[Record]) -> list[Record]:
    """The `ladder` records, the smallest count first."""
    return sorted(of_event(records, "ladder"), key=lambda record: float(record["count"]))


def failed_lines(records: list[Record]) -> list[str]:
    """A sentence about trainings that failed and were not finished by a resume; else nothing."""
    finished = {final["run"] for final in of_event(records, "final")}
    rungs = of_event(records, "ladder")
    # Concurrent trainings have no final record of their own, only that of their count.
    counts = {rung["run"] for rung in rungs if rung["ladder"] == "concurrency"}
    failed = sorted(
        run
        for run in {record["run"] for record in of_event(records, "failed")} - finished
        if run.rpartition("-")[0] not in counts
    )
    if not failed:
        return []
    what = "training is" if len(failed) == 1 else "trainings are"
    return [f"{len(failed)} failed {what} left out: {', '.join(failed[:MAX_SHOWN])}"]


def count_of(ladder: str, final: Record) -> float:
    """A training's place on its ladder.

    Raises:
        KeyError: the record is of another ladder.
    """
    if ladder in COUNT_FIELDS:
        return float(final[COUNT_FIELDS[ladder]])
    return float(final["params"][COUNT_PARAMS[ladder]])


def curves_of(ladder: str, records: Iterable[Record]) -> list[Curve]:
    """The curve of each method, in the order of the records.

    Args:
        ladder: "labels", "pool" or "batch".
        records: of the ladder's run folder, as `read_records` returns them.
    """
    curves: dict[str, Curve] = {}
    for final in of_event(records, "final"):
        score = final.get(SCORE)
        if score is None:
            continue
        curve = curves.setdefault(final["method"], Curve(final["method"]))
        count = count_of(ladder, final)
        curve.scores.setdefault(count, {})[final["seed"]] = score
        curve.seconds[count] = curve.seconds.get(count, 0.0) + final["seconds"]
    return list(curves.values())


def forecasts_of(curve: Curve) -> list[LadderForecast]:
    """Of the largest count, from those below it, and of its double, from all.

    The first shows how far the law can be trusted here. Empty with too few counts for a law.
    """
    found = []
    counts = curve.counts
    scores = {count: curve.samples(count) for count in counts}
    if len(counts) > MIN_COUNTS:
        known = {count: scores[count] for count in counts[:-1]}
        forecast = with_repeat_noise(curve, counts[:-1], forecast_score(known, counts[-1]))
        found.append(LadderForecast(counts[-1], forecast, curve.mean(counts[-1])))
    if len(counts) >= MIN_COUNTS:
        double = 2 * counts[-1]
        forecast = with_repeat_noise(curve, counts, forecast_score(scores, double))
        found.append(LadderForecast(double, forecast, None))
    return found


def with_repeat_noise(curve: Curve, counts: list[float], forecast: Forecast) -> Forecast:
    """A forecast from some counts, whose interval also holds what a repeat does to all alike.

    A repeat has one seed and one label draw at every count. The law's interval takes the noise of
    counts as independent, so what they share is added in quadrature. With one repeat nothing is
    known of it.
    """
    effects = repeat_effects([curve.scores[count] for count in counts])
    if len(effects) < 2:
        return forecast
    shared = half_interval(effects)
    low = forecast.score - math.hypot(forecast.score - forecast.low, shared)
    high = forecast.score + math.hypot(forecast.high - forecast.score, shared)
    return Forecast(forecast.score, max(0.0, low), min(PERFECT, high))


def repeat_effects(scores: list[dict[int, float]]) -> list[float]:
    """Of each repeat that all counts have: its mean over the counts, minus that of all repeats."""
    everywhere = set.intersection(*(set(own) for own in scores))
    means = [statistics.mean(own[repeat] for own in scores) for repeat in sorted(everywhere)]
    return [mean - statistics.mean(means) for mean in means]
