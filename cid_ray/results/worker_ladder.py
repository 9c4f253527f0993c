"""What a worker ladder says: its table, figure, forecast of the largest count, and advice."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from cid_ray.results.figures import COLORS, GRAY, add_legend, new_figure, to_svg
from cid_ray.results.formatting import format_bytes
from cid_ray.results.ladder import LadderForecast, rungs_of
from cid_ray.results.ladder_records import Numbers, forecast_record, recommendation_record
from cid_ray.results.records import Record
from cid_ray.results.worker_law import (
    Scaling,
    WorkerLaw,
    fit_worker_law,
    forecast_step,
    recommended_interval,
    recommended_workers,
)

HEADER = (
    "workers",
    "step",
    "images/s",
    "efficiency",
    "compute",
    "collectives",
    "waiting for data",
    "memory of a worker",
)
PARTS = ("compute", "collectives", "data")  # of a step
FURTHER = 4  # times the largest measured count is how far a recommendation may go


@dataclass(frozen=True)
class Advice:
    """How many workers are worth it, and what they do in an hour.

    Attributes:
        workers: as many.
        low: the fewest that other steps and other laws would recommend, see
            `recommended_interval`.
        high: the most.
        min_efficiency: what each adds at least, as a fraction of what the first one does.
        images_per_hour: of all of them.
        usd_per_hour: what they cost; None without a machine.
        usd_per_pool: for as many images as the pool has; None without a machine or a pool.
        measured: the largest number that was measured.
        most: the largest number that was considered.
        limit: the workers that the global batch has images for; None: no limit.
    """

    workers: int
    low: int
    high: int
    min_efficiency: float
    images_per_hour: float
    usd_per_hour: float | None
    usd_per_pool: float | None
    measured: float
    most: int
    limit: int | None

    @classmethod
    def of(cls, records: list[Record], law: WorkerLaw) -> Advice:
        """From the records of a ladder and its law."""
        first, largest = rungs_of(records)[0], rungs_of(records)[-1]["count"]
        measured = first["measured"]
        limit = measured["max_workers"]
        most = FURTHER * int(largest)
        if limit is not None:
            most = max(1, min(most, int(limit)))
        least = measured["min_efficiency"]
        workers = recommended_workers(law, most, least)
        low, high = recommended_interval(times_of(records), most, least, law.scaling)
        images = measured["images"]
        work = workers * images / first["count"] if law.scaling == "weak" else images
        per_hour = 3600 * work / law.seconds(workers)
        usd = measured["usd_per_worker_hour"]
        usd_per_hour = None if usd is None else workers * usd
        pool = measured["pool_images"]
        usd_per_pool = usd_per_hour * pool / per_hour if usd_per_hour is not None and pool else None
        return cls(
            workers, low, high, least, per_hour, usd_per_hour, usd_per_pool, largest, most, limit
        )

    @property
    def numbers(self) -> Numbers:
        """For the record."""
        names = ("low", "high", "min_efficiency", "images_per_hour", "usd_per_hour", "usd_per_pool")
        return {name: getattr(self, name) for name in names}

    def text(self) -> str:
        """A sentence."""
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        text = f"use {workers} (interval {self.low} to {self.high}): each one adds at least "
        text += f"{100 * self.min_efficiency:.0f} % of the first, "
        text += f"{self.images_per_hour:,.0f} images per hour"
        if self.usd_per_hour is not None:
            text += f", ${self.usd_per_hour:.2f} per hour"
        if self.usd_per_pool is not None:
            text += f", {dollars(self.usd_per_pool)} for as many images as the pool has"
        if self.workers > self.measured:
            text += f" (a forecast: {self.measured:g} were measured)"
        if self.workers == self.limit:
            text += "; the global batch has images for no more"
        elif self.workers == self.most:
            text += "; the law does not say how many would be too many"
        return text


def times_of(records: list[Record]) -> dict[int, list[float]]:
    """Workers -> seconds of each timed step."""
    return {int(rung["count"]): rung["samples"] for rung in rungs_of(records)}


def scaling_of(records: list[Record]) -> Scaling:
    return "weak" if rungs_of(records)[0]["measured"]["weak"] else "strong"


def law_of(records: list[Record]) -> WorkerLaw | None:
    """The law of all counts; None with less than two."""
    times = times_of(records)
    return fit_worker_law(times, scaling_of(records)) if len(times) > 1 else None


def forecasts(records: list[Record]) -> list[LadderForecast]:
    """Of the largest count, from those below it, and of its double, from all: seconds of a step."""
    times = times_of(records)
    counts = sorted(times)
    scaling = scaling_of(records)
    found = []
    if len(counts) > 2:
        known = {n: times[n] for n in counts[:-1]}
        measured = statistics.mean(times[counts[-1]])
        forecast = forecast_step(known, counts[-1], scaling)
        found.append(LadderForecast(counts[-1], forecast, measured))
    if len(counts) > 1:
        double = 2 * counts[-1]
        found.append(LadderForecast(double, forecast_step(times, double, scaling), None))
    return found


def error_of(one: LadderForecast) -> float | None:
    """How far a forecast was off, as a fraction of what was measured; None: nothing was."""
    return None if one.measured is None else abs(one.forecast.score / one.measured - 1)


def efficiency(rung: Record, records: list[Record]) -> float:
    """Images per second of a worker, as a fraction of those of one at the smallest count."""
    first = rungs_of(records)[0]
    speed_of_one = first["measured"]["images_per_s"] / first["count"]
    return float(rung["measured"]["images_per_s"] / speed_of_one / rung["count"])


def part(name: str, rung: Record) -> float:
    """A part of a step, as a fraction of it."""
    return float(rung["measured"][name] / rung["measured"]["step"])


def conclusions(records: list[Record]) -> list[Record]:
    """The `forecast` records and the `recommendation`."""
    method = rungs_of(records)[0]["method"]
    by_count: dict[str, Numbers] = {
        rung["label"]: {
            "efficiency": efficiency(rung, records),
            **{name: part(name, rung) for name in PARTS},
        }
        for rung in rungs_of(records)
    }
    law = law_of(records)
    numbers: Numbers = {}
    chosen = []
    if law is not None:
        advice = Advice.of(records, law)
        law_terms = {name: getattr(law, name) for name in ("shared", "fixed", "ring", "latency")}
        numbers = {**law_terms, **advice.numbers}
        chosen = [str(advice.workers)]
    found = forecasts(records)
    if found:  # the first is of the largest count, where there are enough
        numbers["forecast_error"] = error_of(found[0])
    return [
        *(forecast_record("workers", method, one) for one in found),
        recommendation_record("workers", method, numbers=numbers, by_count=by_count, chosen=chosen),
    ]


def rows(records: list[Record]) -> list[tuple[str, ...]]:
    """The rows below HEADER."""
    found = []
    for rung in rungs_of(records):
        measured = rung["measured"]
        memory = measured["process_bytes"]
        found.append(
            (
                f"{rung['count']:g}",
                f"{1000 * measured['step']:.0f} ms",
                f"{measured['images_per_s']:.1f}",
                f"{100 * efficiency(rung, records):.0f} %",
                *(f"{100 * part(name, rung):.0f} %" for name in PARTS),
                "unknown" if memory is None else format_bytes(memory),
            )
        )
    return found


def lines(records: list[Record]) -> list[str]:
    """Sentences, the advice last."""
    law = law_of(records)
    if law is None:
        return ["a law needs two numbers of workers or more; see scale.workers"]
    found = [
        f"t(n) = {law.shared:.3f}{'' if law.scaling == 'weak' else '/n'} + {law.fixed:.3f} + "
        f"{law.ring:.3f} (n - 1)/n + {law.latency:.3f} log2 n seconds, {law.scaling} scaling"
    ]
    for one in forecasts(records):
        forecast = one.forecast
        text = f"{1000 * forecast.score:.0f} ms ({1000 * forecast.low:.0f} to "
        text += f"{1000 * forecast.high:.0f})"
        error = error_of(one)
        if one.measured is None or error is None:
            found.append(f"a step on {one.count:g} workers is expected to take {text}")
        else:
            found.append(
                f"a step on {one.count:g} workers was forecast from fewer as {text} and measured "
                f"as {1000 * one.measured:.0f} ms: {100 * error:.0f} % off"
            )
    found.append(Advice.of(records, law).text())
    return found


def dollars(usd: float) -> str:
    """ "$1.20", "less than $0.01"."""
    return f"${usd:.2f}" if usd >= 0.01 else "less than $0.01"


def draw(records: list[Record]) -> str:
    """Images per second against workers: measured, by the law, and without any loss."""
    figure, axes = new_figure(1, size=(7.0, 4.0))
    axis = axes[0]
    measured = rungs_of(records)
    counts = [int(rung["count"]) for rung in measured]
    speeds = [rung["measured"]["images_per_s"] for rung in measured]
    axis.plot(counts, speeds, "o", color=COLORS["cid"], label="measured")
    upto = range(counts[0], 2 * counts[-1] + 1)
    ideal = [speeds[0] * n / counts[0] for n in upto]
    axis.plot(upto, ideal, ":", color=GRAY, label="every worker as good as the first")
    law = law_of(records)
    if law is not None:
        images = measured[0]["measured"]["images"] / counts[0]
        work = [n * images if law.scaling == "weak" else images * counts[0] for n in upto]
        by_law = [w / law.seconds(n) for w, n in zip(work, upto, strict=True)]
        axis.plot(upto, by_law, "--", color=COLORS["cid"], label="law")
    axis.set_xlabel("workers")
    axis.set_ylabel("images per second")
    axis.xaxis.get_major_locator().set_params(integer=True)
    add_legend(axis)
    return to_svg(figure)


def facts(records: list[Record]) -> list[tuple[str, str]]:
    """Name and value of what the numbers depend on."""
    measured = rungs_of(records)
    first = measured[0]["measured"]
    gradients = format_bytes(first["gradient_bytes"])
    return [
        ("timed steps", ", ".join(f"{r['count']:g}: {len(r['samples'])}" for r in measured)),
        ("images per step", ", ".join(f"{r['measured']['images']:g}" for r in measured)),
        ("CPUs of a worker", f"{first['cpus']:g}"),
        ("GPUs of a worker", f"{first['gpus']:g}"),
        ("gradients", f"{gradients} per step and worker"),
    ]
