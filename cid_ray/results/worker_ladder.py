"""What a worker ladder says: its table, figure, forecast of the largest count, and advice."""

from __future__ import annotations

import statistics

from cid_ray.results.figures import COLORS, GRAY, add_legend, new_figure, to_svg
from cid_ray.results.formatting import format_bytes
from cid_ray.results.ladder import LadderForecast
from cid_ray.results.ladder_records import forecast_record
from cid_ray.results.records import Record, of_event
from cid_ray.results.worker_law import (
    Scaling,
    WorkerLaw,
    fit_worker_law,
    forecast_step,
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
FURTHER = 4  # times the largest measured count is how far a recommendation may go


def rungs(records: list[Record]) -> list[Record]:
    """The `ladder` records, fewest workers first."""
    found = [r for r in of_event(records, "ladder") if r["ladder"] == "workers"]
    return sorted(found, key=lambda record: record["count"])


def times_of(records: list[Record]) -> dict[int, list[float]]:
    """Workers -> seconds of each timed step."""
    return {int(rung["count"]): rung["samples"] for rung in rungs(records)}


def scaling_of(records: list[Record]) -> Scaling:
    return "weak" if rungs(records)[0]["measured"]["weak"] else "strong"


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


def forecast_records(records: list[Record]) -> list[Record]:
    """The `forecast` records."""
    method = rungs(records)[0]["method"]
    return [
        forecast_record("workers", method, one.count, one.forecast, one.measured)
        for one in forecasts(records)
    ]


def rows(records: list[Record]) -> list[tuple[str, ...]]:
    """The rows below HEADER."""
    found = []
    first = rungs(records)[0]
    speed_of_one = first["measured"]["images_per_s"] / first["count"]
    for rung in rungs(records):
        measured = rung["measured"]
        step = measured["step"]
        memory = measured["process_bytes"]
        found.append(
            (
                f"{rung['count']:g}",
                f"{1000 * step:.0f} ms",
                f"{measured['images_per_s']:.1f}",
                f"{100 * measured['images_per_s'] / speed_of_one / rung['count']:.0f} %",
                *(f"{100 * measured[p] / step:.0f} %" for p in ("compute", "collectives", "data")),
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
        if one.measured is None:
            found.append(f"a step on {one.count:g} workers is expected to take {text}")
        else:
            off = 100 * abs(forecast.score / one.measured - 1)
            found.append(
                f"a step on {one.count:g} workers was forecast from fewer as {text} and measured "
                f"as {1000 * one.measured:.0f} ms: {off:.0f} % off"
            )
    found.append(advice(records, law))
    return found


def advice(records: list[Record], law: WorkerLaw) -> str:
    """How many workers are worth it, and what they do in an hour."""
    measured = rungs(records)
    least = measured[0]["measured"]["min_efficiency"]
    most = FURTHER * int(measured[-1]["count"])
    limit = measured[0]["measured"]["max_workers"]  # that the global batch has images for
    most = most if limit is None else min(most, int(limit))
    best = recommended_workers(law, most, least)
    images = measured[0]["measured"]["images"] / measured[0]["count"]
    work = best * images if law.scaling == "weak" else measured[0]["measured"]["images"]
    per_hour = 3600 * work / law.seconds(best)
    workers = "1 worker" if best == 1 else f"{best} workers"
    text = f"use {workers}: each one adds at least {100 * least:.0f} % of the first, "
    text += f"{per_hour:,.0f} images per hour"
    usd = measured[0]["measured"]["usd_per_worker_hour"]
    if usd is not None:
        text += f", ${best * usd:.2f} per hour"
        epoch = measured[0]["measured"]["pool_images"]
        if epoch:
            text += f", {dollars(best * usd * epoch / per_hour)} for as many images as the pool has"
    if best > measured[-1]["count"]:
        text += f" (a forecast: {measured[-1]['count']:g} were measured)"
    if best == limit:
        text += "; the global batch has images for no more"
    elif best == most:
        text += "; the law does not say how many would be too many"
    return text


def dollars(usd: float) -> str:
    """ "$1.20", "less than $0.01"."""
    return f"${usd:.2f}" if usd >= 0.01 else "less than $0.01"


def draw(records: list[Record]) -> str:
    """Images per second against workers: measured, by the law, and without any loss."""
    figure, axes = new_figure(1, size=(7.0, 4.0))
    axis = axes[0]
    measured = rungs(records)
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
    add_legend(axis, 8, loc="upper left")
    return to_svg(figure)


def facts(records: list[Record]) -> list[tuple[str, str]]:
    """Name and value of what the numbers depend on."""
    measured = rungs(records)
    first = measured[0]["measured"]
    gradients = format_bytes(first["gradient_bytes"])
    return [
        ("timed steps", ", ".join(f"{r['count']:g}: {len(r['samples'])}" for r in measured)),
        ("images per step", ", ".join(f"{r['measured']['images']:g}" for r in measured)),
        ("CPUs of a worker", f"{first['cpus']:g}"),
        ("GPUs of a worker", f"{first['gpus']:g}"),
        ("gradients", f"{gradients} per step and worker"),
    ]
