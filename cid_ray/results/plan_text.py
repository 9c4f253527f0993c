"""What `scale plan` prints, made of its records alone: the table and the sentence."""

from __future__ import annotations

from typing import Any

from cid_ray.config.plain_text import printable
from cid_ray.results.formatting import format_duration
from cid_ray.results.records import Record

COLUMNS = ("nodes", "makespan", "cost", "node-hours", "GPU-hours", "idle", "lost work")
SHOWN_PART = 0.02  # of the makespan: smaller parts of the critical path are not named


def plan_rows(records: list[Record]) -> list[list[str]]:
    """A row of the table for each number of nodes, in the order of COLUMNS."""
    return [
        [
            str(record["nodes"]) + (" *" if record["recommended"] else ""),
            hours_text(record["makespan_s"]),
            dollars_text(record["usd"]),
            interval_text(record["node_hours"], "{:.3g}"),
            interval_text(record["gpu_hours"], "{:.3g}"),
            interval_text(record["idle_percent"], "{:.0f}", " %"),
            format_duration(record["lost_s"]),
        ]
        for record in records
    ]


def plan_table(records: list[Record]) -> list[str]:
    """The table as aligned lines."""
    rows = [list(COLUMNS), *plan_rows(records)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def main_record(records: list[Record]) -> Record:
    """The recommended number of nodes; else the largest, past which a doubling may still pay."""
    return next((record for record in records if record["recommended"]), records[-1])


def recommendation(records: list[Record]) -> str:
    """ "16 gpu-spot nodes: 3.1 h (2.8 to 3.6), $41 ($38 to $45); past 16 nodes ..."."""
    best = main_record(records)
    name = printable(best["node_type"])
    count = best["nodes"]
    nodes = f"{count} {name} node" + ("s" if count > 1 else "")
    text = f"{nodes}: {hours_text(best['makespan_s'])}, {dollars_text(best['usd'])}"
    larger = next((record for record in records if record["nodes"] > count), None)
    if larger is None:
        text += f"; a doubling may still save more than {best['worth']:.0%}: try more --nodes"
    else:
        text += f"; past {count} a doubling saves less than {best['worth']:.0%} of the time"
    text += f". Critical path there: {path_text(larger or best)}."
    if count > best["max_nodes"]:
        text += f" The cluster file allows {best['max_nodes']} of {name}: raise its limit."
    return text


def describe_plan(records: list[Record]) -> list[str]:
    """All lines that the command prints about its records."""
    first = records[0]
    lines = [f"{printable(first['cluster'])}: durations of {printable(first['durations_of'])}"]
    for one in first["methods"]:
        lines.append(f"  {method_text(one)}")
    lines += [speed_text(first), *map(printable, first["notes"])]
    options = ", ".join(f"{key} {value:.4g}" for key, value in first["options"].items())
    lines.append(f"assumed: {options}")
    simulations = first["simulations"]
    lines.append(f"{simulations} simulations for each number of nodes: median (5 % to 95 %)")
    return [*lines, *plan_table(records), recommendation(records)]


def method_text(cost: dict[str, Any]) -> str:
    """ "cid: 16 trials, 36.2 s to the end, 44 % ended at rung 1"."""
    text = f"{cost['method']}: {cost['trials']} trials"
    if cost["seconds"] is not None:
        text += f", {format_duration(cost['seconds'])} to the end"
    for rung, share in enumerate(cost["ended_early"], start=1):
        if share:
            text += f", {share:.0%} ended at rung {rung}"
    return text


def speed_text(record: Record) -> str:
    """How the recorded seconds were used."""
    if record["speed"] == 1:
        return (
            "seconds are taken as recorded: --speed X if the cluster's machines are X times faster"
        )
    return f"recorded seconds of training and scoring are divided by {record['speed']:g} (--speed)"


def path_text(record: Record) -> str:
    """ "2 x cid 40 min, repeats of cid 20 min": the larger parts of the critical path."""
    total = sum(part["seconds"] for part in record["critical_path"])
    shown = [p for p in record["critical_path"] if p["seconds"] >= SHOWN_PART * total]
    return ", ".join(f"{part['what']} {format_duration(part['seconds'])}" for part in shown)


def interval_text(found: dict[str, float], form: str, unit: str = "") -> str:
    """ "3.1 (2.8 to 3.6)"."""
    median, low, high = (form.format(found[key]) for key in ("median", "low", "high"))
    return f"{median}{unit}" if low == median == high else f"{median}{unit} ({low} to {high})"


def hours_text(seconds: dict[str, float]) -> str:
    """Seconds in the unit that suits their median."""
    unit, size = next(
        (pair for pair in (("h", 3600), ("min", 60)) if seconds["median"] >= 2 * pair[1]), ("s", 1)
    )
    scaled = {key: value / size for key, value in seconds.items()}
    return interval_text(scaled, "{:.0f}" if unit == "s" else "{:.1f}", f" {unit}")


def dollars_text(usd: dict[str, float] | None) -> str:
    if usd is None:
        return "price unknown"
    return interval_text(usd, "${:.2f}" if usd["median"] < 20 else "${:.0f}")
