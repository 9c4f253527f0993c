"""What a ladder of encoders says: mIoU against parameters, operations and latency, and which
encoders no other one beats.
"""

from __future__ import annotations

import statistics

from cid_ray.results.figures import COLORS, GRAY, add_legend, new_figure, to_svg
from cid_ray.results.formatting import format_mean
from cid_ray.results.ladder import failed_lines, rungs_of
from cid_ray.results.ladder_records import Numbers, recommendation_record
from cid_ray.results.records import Record

HEADER = ("encoder", "parameters", "GFLOPs an image", "latency", "test mIoU (repeats)", "beaten by")


def beaten_by(rung: Record, others: list[Record]) -> str:
    """The label of an encoder that is faster and better; "" for one of the Pareto front."""
    for other in others:
        latency = other["measured"]["latency_ms"] - rung["measured"]["latency_ms"]
        gain = other["measured"]["mean"] - rung["measured"]["mean"]
        if latency <= 0 <= gain and (latency < 0 or gain > 0):
            return str(other["label"])
    return ""


def rows(records: list[Record]) -> list[tuple[str, ...]]:
    """The rows below HEADER."""
    found: list[tuple[str, ...]] = []
    for rung in rungs_of(records):
        measured = rung["measured"]
        found.append(
            (
                rung["label"],
                f"{rung['count']:.2f} M",
                f"{measured['gflops']:.2f}",
                f"{measured['latency_ms']:.1f} ms",
                f"{format_mean(measured['mean'], measured['sd'])} ({len(rung['samples'])})",
                beaten_by(rung, rungs_of(records)),
            )
        )
    return found


def front_of(records: list[Record]) -> list[str]:
    """The encoders that no other one beats."""
    every = rungs_of(records)
    return [rung["label"] for rung in every if not beaten_by(rung, every)]


def mean_sd(records: list[Record]) -> float | None:
    """How much the repeats of an encoder differ, the mean over encoders; None of one repeat."""
    found = [rung["measured"]["sd"] for rung in rungs_of(records)]
    known = [sd for sd in found if sd is not None]
    return statistics.mean(known) if known else None


def conclusions(records: list[Record]) -> list[Record]:
    """The `recommendation` record."""
    method = rungs_of(records)[0]["method"]
    numbers: Numbers = {"mean_sd": mean_sd(records)}
    return [recommendation_record("model", method, numbers=numbers, chosen=front_of(records))]


def lines(records: list[Record]) -> list[str]:
    """The Pareto front in words."""
    text = f"no other encoder is both faster and better than {', '.join(front_of(records))}"
    noise = mean_sd(records)
    if noise is not None:
        text += f"; repeats of one encoder differ by {noise:.1f} mIoU (their sd)"
    return [text, *failed_lines(records)]


def draw(records: list[Record]) -> str:
    """mIoU against latency, and the front as a line."""
    figure, axes = new_figure(1, size=(7.0, 4.0))
    axis = axes[0]
    every = sorted(rungs_of(records), key=lambda rung: float(rung["measured"]["latency_ms"]))
    for rung in every:
        point = (rung["measured"]["latency_ms"], rung["measured"]["mean"])
        axis.errorbar(*point, rung["measured"]["sd"] or 0, color=GRAY, fmt="o", capsize=3)
        axis.annotate(rung["label"], point, (5, 5), textcoords="offset points", fontsize=8)
    front = [rung["measured"] for rung in every if not beaten_by(rung, every)]
    axis.plot(
        [measured["latency_ms"] for measured in front],
        [measured["mean"] for measured in front],
        "-",
        color=COLORS["cid"],
        label="beaten by none",
    )
    axis.set_xlabel("latency of an image, ms")
    axis.set_ylabel("mIoU on test images, %")
    add_legend(axis)
    return to_svg(figure)
