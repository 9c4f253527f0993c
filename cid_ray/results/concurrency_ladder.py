"""What a ladder of concurrent trials says: how many trials a machine finishes per hour."""

from __future__ import annotations

from cid_ray.results.figures import COLORS, new_figure, to_svg
from cid_ray.results.formatting import format_bytes
from cid_ray.results.ladder import failed_lines, rungs_of
from cid_ray.results.ladder_records import Numbers, recommendation_record
from cid_ray.results.records import Record

HEADER = ("trials at a time", "each on", "trials per hour", "of one at a time", "memory of each")
WORTH = 1.03  # a count must finish so many times more trials than a smaller one


def best(records: list[Record]) -> Record:
    """The count that finishes most trials per hour; a smaller one if that is nearly as good."""
    found, *others = rungs_of(records)
    for rung in others:
        speed = rung["measured"]["trials_per_hour"]
        if speed > WORTH * found["measured"]["trials_per_hour"]:
            found = rung
    return found


def speedup(rung: Record, records: list[Record]) -> float:
    """Trials per hour of a count, as a multiple of the smallest count's."""
    first = rungs_of(records)[0]["measured"]["trials_per_hour"]
    return float(rung["measured"]["trials_per_hour"] / first)


def conclusions(records: list[Record]) -> list[Record]:
    """The `recommendation` record: the setting of the search, and what it brings."""
    chosen = best(records)
    measured = chosen["measured"]
    numbers: Numbers = {
        "cpus_per_trial": measured["cpus"],
        "gpus_per_trial": measured["gpus"],
        "trials_per_hour": measured["trials_per_hour"],
    }
    by_count: dict[str, Numbers] = {
        rung["label"]: {"speedup": speedup(rung, records)} for rung in rungs_of(records)
    }
    return [
        recommendation_record(
            "concurrency",
            chosen["method"],
            numbers=numbers,
            by_count=by_count,
            chosen=[chosen["label"]],
        )
    ]


def rows(records: list[Record]) -> list[tuple[str, ...]]:
    """The rows below HEADER."""
    found: list[tuple[str, ...]] = []
    for rung in rungs_of(records):
        measured = rung["measured"]
        memory = measured["process_bytes"]
        found.append(
            (
                f"{rung['count']:g}",
                resources_text(measured),
                f"{measured['trials_per_hour']:.1f}",
                f"{speedup(rung, records):.2f}",
                "unknown" if memory is None else format_bytes(memory),
            )
        )
    return found


def resources_text(measured: dict[str, float]) -> str:
    """ "1 CPU", "4 CPU, 0.5 GPU"."""
    gpus = f", {measured['gpus']:.3g} GPU" if measured["gpus"] else ""
    return f"{measured['cpus']:g} CPU{gpus}"


def lines(records: list[Record]) -> list[str]:
    """The setting to use."""
    chosen = best(records)
    measured = chosen["measured"]
    keys = f"search.cpus_per_trial={measured['cpus']:g}"
    if measured["gpus"]:
        keys += f" search.gpus_per_trial={measured['gpus']:.3g}"
    return [
        f"{chosen['count']:g} at a time finish most trials, {measured['trials_per_hour']:.1f} per "
        f"hour: set {keys}",
        *failed_lines(records),
    ]


def draw(records: list[Record]) -> str:
    """Trials per hour against trials at a time."""
    figure, axes = new_figure(1, size=(7.0, 4.0))
    axis = axes[0]
    found = rungs_of(records)
    counts = [rung["count"] for rung in found]
    axis.plot(counts, [r["measured"]["trials_per_hour"] for r in found], "o-", color=COLORS["cid"])
    axis.set_ylim(bottom=0)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("trials at a time")
    axis.set_ylabel("trials per hour")
    return to_svg(figure)
